"""The clocks of the leases in a cluster: what they notice, and that none stays behind."""

import pytest

from app.streaming.errors import StoreUnavailable
from app.streaming.event_store import EventStore
from tests.cluster_servers import ClusterServers
from tests.servers import RedisServer, wait_until

LEASE_SECONDS = 3


def is_down(cluster: ClusterServers, node: RedisServer) -> bool:
    return b"cluster_state:fail" in cluster.command(node, "CLUSTER", "INFO")


def test_no_run_is_lost_while_the_cluster_refuses_its_keys(start_cluster):
    """A node of a cluster that must have all slots answers what has no key."""
    cluster = start_cluster(3, 0, options=("--cluster-require-full-coverage", "yes"))
    producer, other = EventStore(cluster.url), EventStore(cluster.url)
    node, *_, dead = cluster.masters
    [run_id] = cluster.runs_on(node, 1)
    producer.append(run_id, "llm", "stream", lease_seconds=LEASE_SECONDS)
    clock = other._availability_of(run_id)
    clock.watch()
    dead.stop()
    wait_until(lambda: is_down(cluster, node), "the cluster is down", 30)
    down_since = clock.since()
    with pytest.raises(StoreUnavailable, match="refused: The cluster is down"):
        producer.append(run_id, "llm", "stream")

    with pytest.raises(StoreUnavailable, match="the cluster is down"):
        other.engine.server_of(f"run:{run_id}:events").ping()
    with pytest.raises(StoreUnavailable):
        other.engine.count_away()
    with pytest.raises(StoreUnavailable):
        other.ping()
    wait_until(
        lambda: clock.since() > down_since + LEASE_SECONDS + 1,
        "the clock begins anew all the time",
        30,
    )
    dead.start()
    wait_until(lambda: not any(is_down(cluster, each) for each in cluster.masters), "it is up", 30)
    assert not other.state(run_id).ended
    assert producer.append(run_id, "llm", "stream").event.sequence == 2
