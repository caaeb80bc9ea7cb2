"""The map of a cluster, as it is read: how often, and from whom."""

import pytest

from app.streaming.errors import StoreUnavailable
from app.streaming.event_store import EventStore
from app.streaming.new_event import Append, NewEvent
from tests.servers import free_port


@pytest.mark.parametrize("lease", [None, 5])
def test_many_appends_without_a_node_read_the_map_once(lease):
    store = EventStore(f"redis+cluster://127.0.0.1:{free_port()},127.0.0.1:{free_port()}")
    appends = [
        Append(f"run-{number}", [NewEvent.of("llm", "stream")], None, None, lease)
        for number in range(20)
    ]
    with pytest.raises(StoreUnavailable, match="no node of the cluster answers"):
        store.append_each(appends)
    assert store.engine.refreshes == 1


def test_a_read_of_the_map_that_failed_meanwhile_is_not_repeated():
    cluster = EventStore(f"redis+cluster://127.0.0.1:{free_port()}").engine
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="no node of the cluster answers"):
            cluster.refresh_after(0)
    assert cluster.refreshes == 1
