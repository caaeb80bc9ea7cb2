"""The map of a cluster, as it is read: how often, and from whom."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from app.streaming.errors import StoreUnavailable, UnsupportedServer
from app.streaming.event_store import EventStore
from app.streaming.new_event import Append, NewEvent
from app.streaming.redis.cluster import cluster as cluster_module
from app.streaming.redis.cluster import discovery
from app.streaming.redis.cluster.cluster import Cluster
from app.streaming.redis.cluster.slot_map import SLOTS, Address, Shard, SlotMap
from app.streaming.redis.engine import make_engine
from app.streaming.redis.server import Server
from tests.servers import free_port, wait_until


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


# What the nodes tell

A, B, C, D = (("127.0.0.1", port) for port in (1, 2, 3, 4))
# A cluster of a test before may still ask those.
E, F, G = (("127.0.0.1", port) for port in (5, 6, 7))


def map_of(*masters: Address, ids: str, epoch: int = 1, is_ok: bool = True) -> SlotMap:
    """Return a map in which some nodes share the slots; `ids` has a letter for each."""
    size = SLOTS // len(masters)
    shards = [
        Shard(at * size, SLOTS - 1 if at == len(masters) - 1 else (at + 1) * size - 1, each, ())
        for at, each in enumerate(masters)
    ]
    return SlotMap(tuple(shards), frozenset(ids), is_ok, epoch)


class Told(dict[Address, SlotMap]):
    """What each node says; the others are away."""

    def read(self, server: Server) -> SlotMap:
        if server.address not in self:
            raise StoreUnavailable("it is away", stored=False)
        return self[server.address]


@pytest.fixture
def told(monkeypatch) -> Told:
    told = Told()
    monkeypatch.setattr(discovery, "read_map", told.read)
    return told


def cluster_of(*seeds: Address) -> Cluster:
    engine = make_engine("redis+cluster://" + ",".join(f"{host}:{port}" for host, port in seeds))
    assert isinstance(engine, Cluster)
    return engine


def masters_of(cluster: Cluster) -> list[Address]:
    cluster.refresh_after(cluster.refreshes)
    return cluster.map().masters()


def test_all_nodes_may_have_been_replaced(told):
    cluster = cluster_of(A, B)
    told[A] = told[B] = map_of(A, B, ids="ab")
    assert masters_of(cluster) == [A, B]
    told[A] = told[B] = map_of(A, B, ids="cd")
    assert masters_of(cluster) == [A, B]
    assert cluster.map().node_ids == {"c", "d"}


@pytest.mark.parametrize("first", [None, map_of(A, ids="x")], ids=["away", "of a third cluster"])
def test_a_node_of_another_cluster_is_refused_while_the_known_ones_are_away(told, first):
    cluster = cluster_of(A, B)
    told[A] = map_of(A, ids="a")
    assert masters_of(cluster) == [A]
    told[B] = map_of(B, C, ids="bc")
    assert masters_of(cluster) == [A]
    del told[A]
    if first:
        told[A] = first
    with pytest.raises(UnsupportedServer, match="belongs to another cluster"):
        masters_of(cluster)
    assert cluster.map().masters() == [A]


def test_a_known_node_that_does_not_serve_is_not_left_for_a_stranger(told):
    cluster = cluster_of(B)
    told[B] = map_of(A, B, ids="ab")
    assert masters_of(cluster) == [A, B]
    told[A], told[B] = map_of(A, B, ids="ab", is_ok=False), map_of(B, ids="x")
    assert masters_of(cluster) == [A, B]
    assert cluster.map().node_ids == {"a", "b"}


def test_a_node_that_a_known_one_has_named_is_no_stranger(told):
    cluster = cluster_of(A)
    told[A] = map_of(A, ids="a")
    assert masters_of(cluster) == [A]
    del told[A]
    told[D] = map_of(C, D, ids="cd", epoch=2)
    cluster.moved(7, *D, by=cluster.server_of("a"))
    assert masters_of(cluster) == [C, D]


def test_after_a_slot_has_moved_the_map_is_read_though_nobody_asks_for_it(told):
    cluster = cluster_of(A)
    told[A] = map_of(A, ids="a")
    by, read = cluster.server_of("a"), cluster.refreshes
    told[A] = told[D] = map_of(A, D, ids="ad", epoch=2)
    assert cluster.moved(7, *D, by=by).address == D
    wait_until(lambda: cluster.refreshes > read, "the map is read")
    wait_until(lambda: cluster._map.masters() == [A, D], "the map is taken")


def test_who_asks_for_all_nodes_has_an_old_map_read(told, monkeypatch):
    monkeypatch.setattr(cluster_module, "MAX_AGE_SECONDS", 0.0)
    cluster = cluster_of(A)
    told[A] = map_of(A, ids="a")
    assert [each.address for each in cluster.servers()] == [A]
    told[A] = map_of(A, D, ids="ad", epoch=2)
    wait_until(lambda: [each.address for each in cluster.servers()] == [A, D], "it is read")


def test_a_map_that_nobody_tells_stays_as_it_was(told):
    cluster = cluster_of(A)
    told[A] = map_of(A, ids="a")
    by = cluster.server_of("a")
    del told[A]
    cluster.moved(7, *D, by=by)
    assert [each.address for each in cluster.servers()] == [A]


def test_the_log_tells_of_other_nodes_and_not_of_each_slot_that_moves(told, caplog):
    caplog.set_level("INFO", "tailrace.cluster")
    cluster = cluster_of(E, F)
    told[E] = told[F] = map_of(E, F, ids="ef")
    masters_of(cluster)
    first, second = told[E].shards
    moved = first._replace(last=first.last - 1), second._replace(first=first.last)
    told[E] = told[F] = told[E]._replace(shards=moved, epoch=2)
    masters_of(cluster)
    assert caplog.messages == []
    told[E] = told[F] = map_of(E, G, ids="efg", epoch=3)
    masters_of(cluster)
    assert caplog.messages == [
        "the slots of the cluster are now at: 127.0.0.1:5 (8192), 127.0.0.1:7 (8192)"
    ]


@pytest.mark.parametrize("host", ["", "?"])
def test_a_node_that_is_named_without_a_host_is_at_that_of_the_one_that_names_it(host):
    cluster = cluster_of(A)
    assert cluster.node_at(host, 2, cluster.server_at(A)).address == B


def test_a_node_that_has_joined_no_cluster_is_none_of_another_one(told):
    cluster = cluster_of(A, B)
    told[A] = map_of(A, ids="a")
    cluster.map()
    told[B] = SlotMap((), frozenset(), False, 0)
    with pytest.raises(StoreUnavailable, match="knows of no slots"):
        cluster.check_seed(B)
    told[B] = map_of(B, ids="b")
    with pytest.raises(UnsupportedServer, match="belongs to another cluster"):
        cluster.check_seed(B)


@pytest.fixture
def left_out(told, redis_server) -> tuple[Cluster, Server]:
    """Return a cluster and a server, which the cluster knows and which has no slots."""
    cluster = cluster_of(A)
    told[A] = map_of(A, ids="a")
    cluster.map()
    told[A] = map_of(A, B, ids="ab", epoch=2)
    return cluster, cluster.server_at(("127.0.0.1", redis_server.port))


def test_a_call_to_a_node_that_is_left_out_of_a_new_map_gets_its_reply(
    left_out, redis_client, run_id, monkeypatch
):
    """It may be about to get its first slot, or have answered for its last one."""
    monkeypatch.setattr(cluster_module, "FAREWELL_SECONDS", 3600.0)
    cluster, server = left_out
    blocked = redis_client.info("clients")["blocked_clients"]
    with ThreadPoolExecutor() as pool:
        reply = pool.submit(server.blocking.call, "BLPOP", run_id, 9)
        wait_until(lambda: redis_client.info("clients")["blocked_clients"] > blocked, "it waits")
        assert masters_of(cluster) == [A, B]
        redis_client.rpush(run_id, "value")
        assert reply.result() == [run_id.encode(), b"value"]
    assert cluster.server_at(server.address) is not server
    server.close()


def test_a_node_that_is_left_out_of_a_new_map_is_closed(left_out, monkeypatch):
    monkeypatch.setattr(cluster_module, "FAREWELL_SECONDS", 0.01)
    cluster, server = left_out
    server.control.call("PING")
    assert server.count_connections() == 1
    assert masters_of(cluster) == [A, B]
    wait_until(lambda: server.count_connections() == 0, "its connections are closed")
