"""Nodes that join a cluster while nobody follows runs: the store learns of them all the same."""

import pytest
from redis.crc import key_slot

from app.streaming.event_store import EventStore
from app.streaming.log.redis_keys import log_key
from tests.cluster_servers import ClusterServers
from tests.servers import RedisServer, wait_until


@pytest.fixture
def cluster(start_cluster) -> ClusterServers:
    return start_cluster(3, 0)


def take_all_slots(cluster: ClusterServers, node: RedisServer, heir: RedisServer) -> None:
    """Leave a node without slots, as one that has just joined."""
    [(first, last)] = [
        (first, last)
        for first, last, master, *_ in cluster.command(node, "CLUSTER", "SLOTS")
        if master[1] == node.port
    ]
    for each in cluster.masters:
        cluster.command(each, "CLUSTER", "DELSLOTSRANGE", first, last)
    cluster.command(heir, "CLUSTER", "ADDSLOTSRANGE", first, last)

    def knows(each: RedisServer) -> bool:
        slots = cluster.command(each, "CLUSTER", "SLOTS")
        covered = sum(last - first + 1 for first, last, *_ in slots)
        return covered == 16384 and all(master[1] != node.port for *_, master in slots)

    wait_until(lambda: all(map(knows, cluster.masters)), "all know the heir", 30)


def test_a_node_that_joined_is_known_after_one_append_to_a_run_of_it(cluster):
    first, _, new = cluster.masters
    take_all_slots(cluster, new, first)
    store = EventStore(cluster.url)
    [run_id] = cluster.runs_on(first, 1)
    store.add(run_id, "llm", "stream")
    name = f"127.0.0.1:{new.port}"
    assert name not in [each.name for each in store.engine.servers()]

    cluster.move(key_slot(log_key(run_id).encode()), new)
    store.add(run_id, "llm", "stream")
    assert name in [each.name for each in store.engine.servers()]
    assert [run_id] in list(store.scan_run_ids())
    store.check_ready()
    assert name in [each.node for each in store.shards()]
