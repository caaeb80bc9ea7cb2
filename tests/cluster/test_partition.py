"""A master that is cut off from the other nodes, while gateways still reach it.

It takes writes until it knows that it is cut off. These are lost once the partition is over: then
it copies the replica that has taken its place.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.streaming.errors import StoreUnavailable
from app.streaming.event_store import EventStore
from tests.cluster.network import RelayedCluster, named, url_named
from tests.cluster.test_failover import Producers, System, compare, compare_stopped, followed
from tests.redis.programs import REDIS_OF_DEBIAN, VALKEY_8, on_both, on_debian
from tests.servers import RedisServer, wait_until


@pytest.fixture
def cluster(tmp_path: Path, binary: str | None) -> Iterator[RelayedCluster]:
    with RelayedCluster(tmp_path / "cluster", binary=binary) as servers:
        yield servers


class Partition:
    """A master that is cut off from all other nodes."""

    def __init__(self, cluster: RelayedCluster):
        self._cluster = cluster
        self.minority = cluster.masters[0]
        [self.replica] = cluster.replicas_of(self.minority)
        self._stack = contextlib.ExitStack()

    def begin(self) -> None:
        """Cut the master off. Clients named `minority` reach it alone, those named `majority` not.

        All others reach all nodes.
        """
        network = self._cluster.network
        is_minority, is_majority = named("minority"), named("majority")
        self._stack.enter_context(self._cluster.cut_off(self.minority))
        for hold in (
            lambda passage: is_minority(passage) and passage.target is not self.minority,
            lambda passage: is_majority(passage) and passage.target is self.minority,
        ):
            self._stack.enter_context(network.holding(hold))

    def last_until_failover(self) -> None:
        """Wait until each side has decided: one refuses writes, the other has another master."""
        wait_until(lambda: self._role(self.replica) == "master", "the replica takes over", 30)
        wait_until(lambda: not has_quorum(self._cluster, self.minority), "the minority knows", 30)

    def end(self) -> None:
        """Let all come through again, and wait until the master is a replica."""
        self._stack.close()
        wait_until(lambda: self._role(self.minority) == "slave", "it is a replica", 30)
        wait_until(self._cluster.serves, "all nodes serve, and copies are whole", 60)

    def _role(self, node: RedisServer) -> str:
        return self._cluster.info(node)["role"]


def has_quorum(cluster: RelayedCluster, node: RedisServer) -> bool:
    """Return whether a node takes part in a cluster that serves, as it knows."""
    return b"cluster_state:ok" in cluster.command(node, "CLUSTER", "INFO")


@on_both
def test_followers_on_both_sides_get_what_the_majority_has(cluster, start_gateway):
    partition, run_ids = Partition(cluster), []
    systems = {}
    for side in ("minority", "majority"):
        systems[side] = System(cluster, start_gateway(url_named(cluster, side)))
        run_ids = systems[side].run_ids
    with (
        followed(systems["minority"].gateway, run_ids) as below,
        followed(systems["majority"].gateway, run_ids) as above,
    ):
        producers = {side: Producers(each.gateway, run_ids) for side, each in systems.items()}
        for each in producers.values():
            each.wait_for(20)
        partition.begin()
        partition.last_until_failover()
        producers["majority"].wait_for(20)
        partition.end()
        for each in producers.values():
            each.wait_for(5)
        for each in producers.values():
            each.stop()
        for side, streams in (("minority", below), ("majority", above)):
            for other, each in producers.items():
                lost = compare_stopped(systems[side], streams, each)
                print(f"lost of what was acknowledged to the {other}: {lost}")
                assert other == "minority" or not lost


@pytest.mark.parametrize(
    ("program", "ack_replicas"), [REDIS_OF_DEBIAN.case(0, "0"), VALKEY_8.case(1, "1")]
)
def test_a_gateway_that_reaches_both_sides(cluster, start_gateway, ack_replicas):
    partition = Partition(cluster)
    system = System(cluster, start_gateway(cluster.url, ACK_REPLICAS=ack_replicas))
    with followed(system.gateway, system.run_ids) as streams:
        producers = Producers(system.gateway, system.run_ids)
        producers.wait_for(20)
        partition.begin()
        partition.last_until_failover()
        if not ack_replicas:
            producers.wait_for(20)
        partition.end()
        producers.wait_for(20)
        lost = compare(system, streams, producers)
        print(f"{lost} lost, {len(producers.refusals)} refused")
        assert not ack_replicas or not lost


@on_debian
def test_a_master_refuses_writes_before_it_knows_that_it_is_cut_off(tmp_path, binary):
    options = "--min-replicas-to-write", "1", "--min-replicas-max-lag", "1"
    timeout = "--cluster-node-timeout", "60000"
    folder = tmp_path / "cluster"
    with RelayedCluster(folder, 3, 1, *options, *timeout, binary=binary) as cluster:
        store, node = EventStore(cluster.url), cluster.masters[0]
        run_id, other = (cluster.runs_on(each, 1)[0] for each in cluster.masters[:2])

        def is_refused(run_id: str = run_id) -> bool:
            try:
                store.append(run_id, "llm", "stream")
            except StoreUnavailable as error:
                return error.stored is not True and "NOREPLICAS" in str(error)
            return False

        for each in (other, run_id):
            wait_until(lambda each=each: not is_refused(each), "the copy is there")
        stored = store.state(other).last_sequence
        with cluster.cut_off(node):
            wait_until(is_refused, "it refuses", 30)
            assert has_quorum(cluster, node)
            assert cluster.info(cluster.replicas_of(node)[0])["role"] == "slave"
            assert store.append(other, "llm", "stream").event.sequence == stored + 1
        wait_until(lambda: not is_refused(), "it takes writes again", 30)
