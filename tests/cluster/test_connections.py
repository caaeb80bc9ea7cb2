"""How many connections a worker has to each node does not depend on the runs that it follows."""

import pytest

from app.streaming.event_store import EventStore
from tests.cluster_servers import ClusterServers
from tests.servers import wait_until

# Two of the reader, and those of the pools.
MOST = 2 + 16


class Counter:
    """What a feed needs of who follows it."""

    gets = "text/event-stream"

    def wake(self) -> None:
        """It looks at nothing."""


def connections(cluster: ClusterServers) -> list[int]:
    """Return how many connections of clients each master has, but for the one that asks."""
    return [
        sum(b" flags=N " in line or b" flags=P " in line or b" flags=t " in line
            for line in cluster.command(node, "CLIENT", "LIST").splitlines()) - 1
        for node in cluster.masters
    ]  # fmt: skip


@pytest.mark.parametrize("count", [10, 500, 5_000])
def test_the_connections_to_each_node_are_few(start_cluster, followers, count):
    cluster = start_cluster(3, 0)
    store = EventStore(cluster.url)
    ours = followers(store)
    run_ids = [f"r-{number}" for number in range(count)]
    listener = Counter()
    feeds = [ours.readers.join(run_id, store.state(run_id), listener) for run_id in run_ids]
    ours.follow("last")
    for run_id in run_ids[:: max(1, count // 100)]:
        store.append(run_id, "llm", "stream")
    wait_until(
        lambda: all(feed.position.sequence == 1 for feed in feeds[:: max(1, count // 100)]),
        "the events are read",
        30,
    )
    assert all(2 <= each <= MOST for each in connections(cluster)), connections(cluster)
    for feed in feeds:
        ours.readers.leave(feed, listener)
