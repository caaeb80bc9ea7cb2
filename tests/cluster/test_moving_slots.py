"""Slots that move: producers and followers of their runs lose nothing, and nothing twice."""

import itertools
import threading

import pytest
from redis.crc import key_slot

from app.streaming.errors import StoreUnavailable
from app.streaming.event_store import EventStore
from app.streaming.log.redis_keys import log_key
from app.streaming.new_event import Append, NewEvent
from tests.clients import Stream
from tests.cluster.followers import FAILOVER_SECONDS
from tests.cluster.test_failover import Producers, followed, ids_of
from tests.cluster_servers import ClusterServers
from tests.redis.programs import REDIS_OF_DEBIAN, VALKEY_8, on_both, on_debian
from tests.servers import RedisServer, wait_until

ROUNDS = 6


def slot_of(run_id: str) -> int:
    return key_slot(log_key(run_id).encode())


@pytest.fixture
def cluster(start_cluster) -> ClusterServers:
    return start_cluster(3, 0)


def has_all(store: EventStore, run_id: str, stream: Stream, acknowledged: list[str]) -> None:
    """Raise AssertionError unless a log and its follower have each acknowledged event once."""
    ids = [event.id for event in store.get_events(run_id)]
    assert ids == acknowledged
    wait_until(lambda: len(stream.events) >= len(ids), f"all of {run_id} has come", 30)
    assert ids_of(stream) == ids
    assert not {each.json["event"]["action"] for each in stream.controls} & {"gap", "reset"}


@pytest.mark.parametrize(
    ("program", "key"), [REDIS_OF_DEBIAN.case("", "plain"), VALKEY_8.case("key", "keyed")]
)
def test_slots_that_move_back_and_forth_under_load(cluster, start_gateway, key):
    gateway, store = start_gateway(cluster.url), EventStore(cluster.url)
    run_ids = [run_id for node in cluster.masters for run_id in cluster.runs_on(node, 2)]
    with followed(gateway, run_ids) as streams:
        producers = Producers(gateway, run_ids, key)
        producers.wait_for(10)
        for run_id, _ in itertools.product(run_ids, range(ROUNDS)):
            source = cluster.master_of(run_id)
            target = next(node for node in cluster.masters if node is not source)
            cluster.move(slot_of(run_id), target)
        producers.wait_for(10)
        producers.stop()
        for run_id in run_ids:
            has_all(store, run_id, streams[run_id], producers.acknowledged[run_id])
    assert producers.refusals == []


@pytest.mark.parametrize(
    ("program", "key"), [VALKEY_8.case("", "plain"), REDIS_OF_DEBIAN.case("key", "keyed")]
)
def test_runs_that_begin_while_their_slot_is_open(cluster, start_gateway, key):
    gateway, store = start_gateway(cluster.url), EventStore(cluster.url)
    run_ids = [run_id for node in cluster.masters for run_id in cluster.runs_on(node, 1, "new")]
    with followed(gateway, run_ids) as streams:
        moves = []
        for run_id in run_ids:
            source = cluster.master_of(run_id)
            target = next(node for node in cluster.masters if node is not source)
            cluster.begin_move(slot_of(run_id), target)
            moves.append((run_id, source, target))
        producers = Producers(gateway, run_ids, key)
        producers.wait_for(10)
        for run_id in run_ids:
            wait_until(lambda run_id=run_id: len(streams[run_id].events) >= 10, "they come", 30)
        for run_id, source, target in moves:
            cluster.move_keys(slot_of(run_id), source, target)
            cluster.end_move(slot_of(run_id), source, target)
        producers.wait_for(10)
        producers.stop()
        for run_id in run_ids:
            has_all(store, run_id, streams[run_id], producers.acknowledged[run_id])
    assert producers.refusals == []


@on_debian
def test_a_move_that_is_cancelled(cluster, start_gateway):
    gateway, store = start_gateway(cluster.url), EventStore(cluster.url)
    [run_id] = cluster.runs_on(cluster.masters[0], 1)
    slot, target = slot_of(run_id), cluster.masters[1]
    with followed(gateway, [run_id]) as streams:
        producers = Producers(gateway, [run_id])
        producers.wait_for(10)
        source = cluster.begin_move(slot, target)
        cluster.move_keys(slot, source, target)
        producers.wait_for(10)
        wait_until(lambda: len(streams[run_id].events) >= 20, "followed where it is now", 30)
        producers.stop()
        cluster.command(source, "CLUSTER", "SETSLOT", slot, "STABLE")
        cluster.move_keys(slot, target, source)
        cluster.command(target, "CLUSTER", "SETSLOT", slot, "STABLE")
        last = store.append(run_id, "llm", "stream").event.id
        has_all(store, run_id, streams[run_id], [*producers.acknowledged[run_id], last])


@on_both
def test_a_slot_that_stays_open_while_one_run_is_there_and_another_here(cluster, followers):
    """Two runs of one slot: one is moved, the other is not, and both are followed meanwhile."""
    store = EventStore(cluster.url)
    number = (f"pair-{n}" for n in itertools.count())
    first = next(number)
    second = next(each for each in number if slot_of(each) == slot_of(first))
    ours = followers(store)
    ours.follow(first, second)
    target = next(node for node in cluster.masters if node is not cluster.master_of(first))
    source = cluster.begin_move(slot_of(first), target)
    where = "127.0.0.1", target.port, log_key(first), 0, 5000
    cluster.command(source, "MIGRATE", *where)
    for run_id, key in ((first, "a"), (first, None), (second, None), (first, "b"), (second, None)):
        last = store.append(run_id, "llm", "stream", idempotency_key=key).event.sequence
        assert last is not None
        ours.wait_for(run_id, last)
        assert ours.sequences[run_id] == list(range(1, last + 1))
    # The node may not look for the key of a run whose log it still has: it may be on its way.
    with pytest.raises(StoreUnavailable) as refused:
        store.append(second, "llm", "stream", idempotency_key="a")
    assert refused.value.stored is False
    cluster.move_keys(slot_of(first), source, target)
    cluster.end_move(slot_of(first), source, target)
    assert not store.append(second, "llm", "stream", idempotency_key="a").repeated
    ours.wait_for(second, 4)
    assert not any(ours.notices.values())


def test_a_run_goes_to_a_node_that_was_forgotten_meanwhile(cluster, followers):
    """A new master has no slots before the first one, so the map does not name it."""
    store = EventStore(cluster.url)
    [run_id] = cluster.runs_on(cluster.masters[0], 1, "forgotten")
    ours, engine = followers(store), store.engine
    ours.follow(run_id)
    slot, target = slot_of(run_id), cluster.masters[1]
    source = cluster.begin_move(slot, target)
    cluster.move_keys(slot, source, target)
    ours.wait_for(run_id, store.append(run_id, "llm", "stream").event.sequence)
    (feed, at_target) = ours.readers._feeds[run_id]
    assert at_target.server.address == ("127.0.0.1", target.port)
    engine._servers.pop(at_target.server.address).close()
    cluster.end_move(slot, source, target)
    wait_until(
        lambda: ours.readers._feeds[run_id][1].server is engine.server_of(log_key(run_id)),
        "the feed is at the node that the map names",
    )
    assert engine.server_of(log_key(run_id)) is not at_target.server
    assert feed not in ours.readers._on_the_way
    ours.wait_for(run_id, store.append(run_id, "llm", "stream").event.sequence)
    assert ours.sequences[run_id] == [1, 2, 3]


@pytest.mark.parametrize(
    ("program", "has_arrived"),
    [
        VALKEY_8.case(True, "arrived"),
        VALKEY_8.case(False, "on its way"),
        REDIS_OF_DEBIAN.case(False, "on its way"),
    ],
)
def test_a_run_that_came_along_with_its_slot_survives_its_new_node(
    start_cluster, followers, has_arrived, program
):
    cluster = start_cluster(3, 1)
    store = EventStore(cluster.url)
    [run_id] = cluster.runs_on(cluster.masters[0], 1)
    slot, target = slot_of(run_id), cluster.masters[1]
    ours = followers(store)
    ours.follow(run_id)
    store.add(run_id, "llm", "stream")
    source = cluster.begin_move(slot, target)
    cluster.move_keys(slot, source, target)
    store.add(run_id, "llm", "stream")
    ours.wait_for(run_id, 2)
    if has_arrived:
        cluster.end_move(slot, source, target)
        store.add(run_id, "llm", "stream")
        ours.wait_for(run_id, 3)
    [replica] = cluster.replicas_of(target)
    there = int(cluster.info(target)["master_repl_offset"])
    wait_until(
        lambda: int(cluster.info(replica)["slave_repl_offset"]) >= there, "the copy is whole"
    )
    target.stop()
    if program is REDIS_OF_DEBIAN and not has_arrived:
        tell_of_open_slot(cluster, store, run_id, source, replica)

    def is_appended() -> int | None:
        try:
            return store.append(run_id, "llm", "stream").event.sequence
        except StoreUnavailable:
            return None

    last = wait_until(is_appended, "the replica has taken over", 30)
    ours.wait_for(run_id, last, FAILOVER_SECONDS)
    assert ours.sequences[run_id] == list(range(1, last + 1))


def tell_of_open_slot(
    cluster: ClusterServers,
    store: EventStore,
    run_id: str,
    source: RedisServer,
    replica: RedisServer,
) -> None:
    """Tell a replica that is the master now of a slot that was on its way to the former one.

    It is what docs/troubleshooting.md says: replicas of Redis do not know of it.
    """
    new = cluster.id_of(replica)

    def is_known() -> bool:
        lines = cluster.command(source, "CLUSTER", "NODES").decode().splitlines()
        return any(line.startswith(new) and "master" in line for line in lines)

    wait_until(is_known, "it has taken over", 30)
    slot = slot_of(run_id)
    with pytest.raises(StoreUnavailable, match=f"the slot {slot} is on its way to ") as raised:
        store.append(run_id, "llm", "stream")
    assert raised.value.stored is False
    cluster.command(replica, "CLUSTER", "SETSLOT", slot, "IMPORTING", cluster.id_of(source))
    cluster.command(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", new)


@on_both
def test_a_slot_that_nobody_serves_holds_up_no_other_run_of_its_node(cluster, followers):
    store = EventStore(cluster.url)
    node = cluster.masters[0]
    [lame, *others] = cluster.runs_on(node, 6)
    ours = followers(store)
    ours.follow(lame, *others)
    # All nodes must forget the slot at once, or they tell each other of it.
    threads = [
        threading.Thread(target=cluster.command, args=(each, "CLUSTER", "DELSLOTS", slot_of(lame)))
        for each in cluster.masters
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _ in range(3):
        for run_id in others:
            last = store.append(run_id, "llm", "stream").event.sequence
            ours.wait_for(run_id, last)
    cluster.command(node, "CLUSTER", "ADDSLOTS", slot_of(lame))

    whole = b"cluster_slots_assigned:16384"

    def is_served() -> bool:
        return all(whole in cluster.command(each, "CLUSTER", "INFO") for each in cluster.masters)

    wait_until(is_served, "all know that the slot is served again", 30)
    last = store.append(lame, "llm", "stream").event.sequence
    ours.wait_for(lame, last)


def test_an_append_whose_answer_is_lost_stays_unknown_though_its_slot_has_no_node_now(
    cluster, monkeypatch
):
    store = EventStore(cluster.url)
    store.append("run", "llm", "stream")
    owners = store.engine._owners

    def lose(*command: object) -> None:
        owners[slot_of("run")] = None
        raise StoreUnavailable("the answer is lost", stored=None)

    monkeypatch.setattr(store.engine.server_of(log_key("run")).writes, "call_all", lose)
    with pytest.raises(StoreUnavailable, match="the answer is lost") as raised:
        store.append("run", "llm", "stream")
    assert raised.value.stored is None


def test_a_lease_of_a_run_whose_node_is_not_known_holds_up_no_other_append(cluster):
    store = EventStore(cluster.url)
    events = [NewEvent.of("llm", "stream")]
    store.append("run", "llm", "stream")
    store.engine._owners[slot_of("run")] = None
    appends = [Append(run_id, events, lease_seconds=60) for run_id in ("run", "other")]
    outcomes = store.append_each(appends)
    assert [each.first_sequence for each in outcomes] == [2, 1], "the map is read again"
