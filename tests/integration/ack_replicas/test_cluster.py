"""ACK_REPLICAS on a cluster: each node asks its own replicas."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.streaming.errors import NotReplicated, RunEnded
from app.streaming.event_store import EventStore
from app.streaming.new_event import Append, Appended, NewEvent
from tests.cluster_servers import ClusterServers
from tests.servers import wait_until


@pytest.fixture
def cluster_servers(tmp_path: Path) -> Iterator[ClusterServers]:
    with ClusterServers(tmp_path, 2, 1) as servers:
        yield servers


def test_a_replica_that_lags_holds_up_the_runs_of_its_master_only(cluster_servers):
    servers = cluster_servers
    one, other = (EventStore(servers.url, ack_replicas=1) for _ in range(2))
    one.check_ready()
    [lags], [well] = (servers.runs_on(each, 1) for each in servers.masters)
    [ended] = servers.runs_on(servers.masters[0], 1, "ended")
    for run_id in (lags, well):
        one.add(run_id, "llm", "stream", 0)
    one.add(ended, "lifecycle", "completed")
    [replica] = servers.replicas_of(servers.masters[0])
    replica.pause()
    appends = [
        Append(run_id, [NewEvent.of("llm", "stream", 1)], idempotency_key="k")
        for run_id in (lags, well, ended)
    ]
    kinds = [NotReplicated, Appended, RunEnded]
    assert [type(each) for each in one.append_each(appends)] == kinds
    assert [type(each) for each in other.append_each(appends)] == kinds
    with pytest.raises(NotReplicated):
        other.append_new(*appends[0][:2], idempotency_key="k")
    with pytest.raises(NotReplicated):
        one.set_expire(lags, 100)
    replica.resume()
    wait_until(lambda: type(other.append_each(appends[:1])[0]) is Appended, "it is acknowledged")
    assert [each.data for each in one.get_events(lags)] == [0, 1]
