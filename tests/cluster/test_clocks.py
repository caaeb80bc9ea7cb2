"""The clocks of the leases in a cluster: what they notice, and that none stays behind."""

import gc
import threading

import psutil
import pytest
from redis.crc import key_slot

from app.streaming.errors import StoreUnavailable
from app.streaming.event_store import EventStore
from app.streaming.log.redis_keys import log_key
from app.streaming.redis.server import Server
from tests.cluster.followers import FAILOVER_SECONDS
from tests.cluster_servers import ClusterServers
from tests.redis.programs import on_both
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
        other.engine.server_of(log_key(run_id)).ping()
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


class Census:
    """What a store has in this process: clocks that tick, servers, and sockets to the nodes."""

    def __init__(self, cluster: ClusterServers, store: EventStore):
        gc.collect()  # what other tests left
        self._ports = {node.port for node in cluster.nodes}
        self._store = store
        self._clocks_before, self._servers_before = _clocks(), _servers()

    @property
    def clocks(self) -> int:
        return len(_clocks() - self._clocks_before)

    @property
    def forgotten_servers(self) -> int:
        known = {id(each) for each in self._store.engine._servers.values()}
        return len(_servers() - self._servers_before - known)

    @property
    def uncounted_sockets(self) -> int:
        """How many sockets the store does not know of."""
        found = sum(
            each.status == psutil.CONN_ESTABLISHED and each.raddr.port in self._ports
            for each in psutil.Process().net_connections()
            if each.raddr
        )
        return found - self._store.engine.count_connections()


def _clocks() -> set[threading.Thread]:
    return {each for each in threading.enumerate() if each.name == "tailrace-clock"}


def _servers() -> set[int]:
    return {id(each) for each in gc.get_objects() if isinstance(each, Server)}


@on_both
def test_nothing_of_former_masters_stays(start_cluster, followers):
    """No thread, no socket and no server; the sockets need no garbage collector."""
    cluster = start_cluster(3, 1)
    store = EventStore(cluster.url)
    census, ours = Census(cluster, store), followers(store)
    [run_id] = cluster.runs_on(cluster.masters[0], 1)
    ours.follow(run_id)
    store.append(run_id, "llm", "stream", lease_seconds=3600)
    assert census.clocks == 1
    gc.disable()
    try:
        for _ in range(5):
            master = cluster.master_of(run_id)
            [replica] = cluster.replicas_of(master)
            # Redis ignores the request if the master does not know yet that this is its replica.
            cluster.fail_over(replica, "TAKEOVER")
            cluster.wait_for_master(run_id, master)
            wait_until(cluster.serves, "the copies are whole", 30)
            stored = store.append(run_id, "llm", "stream", lease_seconds=3600)
            ours.wait_for(run_id, stored.event.sequence, FAILOVER_SECONDS)
        wait_until(lambda: census.clocks <= 1, "one clock ticks")
        wait_until(lambda: census.uncounted_sockets <= 0, "no other socket is open")
    finally:
        gc.enable()
    gc.collect()  # the tracebacks of what failed meanwhile refer to servers
    wait_until(lambda: census.forgotten_servers == 0, "no former server is there")


def test_the_clock_of_a_node_that_has_no_slots_ends(shared_cluster):
    """A node that was slow to learn of a failover names the former master."""
    engine = EventStore(shared_cluster.url).engine
    [run_id] = shared_cluster.runs_on(shared_cluster.masters[0], 1)
    key = log_key(run_id)
    master, slot = engine.server_of(key), key_slot(key.encode())
    [replica] = shared_cluster.replicas_of(shared_cluster.masters[0])
    former = engine.moved(slot, "", replica.port, master)
    former.availability.watch()
    assert engine.server_of(key) is former
    assert engine.moved(slot, *master.address, former) is master
    engine.refresh_after(engine.refreshes)
    assert former.availability.closed
    assert not master.availability.closed
