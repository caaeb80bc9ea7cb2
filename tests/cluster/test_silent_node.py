"""A node that stands still hurts its own runs only, and for no longer than it must."""

import threading

import pytest
import requests

from app.streaming.errors import StoreUnavailable
from app.streaming.event_store import EventStore
from app.streaming.runs.run_index import ACTIVE
from tests.clients import Stream
from tests.cluster_servers import ClusterServers
from tests.integration.test_metrics import EVENT
from tests.servers import GatewayServer, RedisServer, wait_until


def post(gateway: GatewayServer, run_id: str, action: str = "resumed") -> requests.Response:
    event = EVENT | {"event_category": "lifecycle", "event_action": action}
    return requests.post(f"{gateway.url}/runs/{run_id}/events", json=event, timeout=60)


def not_index(cluster: ClusterServers) -> RedisServer:
    return next(node for node in cluster.masters if node is not cluster.owner_of_key(ACTIVE))


def outcome_of_append(store: EventStore, run_id: str) -> bool | None:
    """Append, and return whether the event is stored; None if nobody knows."""
    try:
        store.append(run_id, "llm", "stream")
    except StoreUnavailable as error:
        return error.stored
    return True


def test_what_is_for_it_fails_unsent_and_goes_on_once_it_answers(start_cluster, followers):
    cluster = start_cluster(3, 0)
    frozen, other, third = cluster.masters
    [stuck], [well] = cluster.runs_on(frozen, 1), cluster.runs_on(other, 1)
    store = EventStore(cluster.url)
    ours = followers(store)
    ours.follow(stuck, well)
    frozen.pause()
    try:
        assert outcome_of_append(store, stuck) is None, "it was sent"
        assert [outcome_of_append(store, stuck) for _ in range(20)] == [False] * 20
        for read in (store.state, store.run, store.get_events):
            with pytest.raises(StoreUnavailable, match="which has stopped answering") as raised:
                read(stuck)
            assert raised.value.stored is False
        lame, state = store.states([stuck, well])
        assert isinstance(lame, StoreUnavailable)
        assert state.last_sequence == 1
        ours.wait_for(well, store.append(well, "llm", "stream").event.sequence)
        assert readiness_of(store) == {frozen.port: False, other.port: True, third.port: True}
    finally:
        frozen.resume()
    outcomes: list[bool | None] = []

    def is_stored() -> bool:
        outcomes.append(outcome_of_append(store, stuck))
        return outcomes[-1] is True

    wait_until(is_stored, "it is stored")
    assert set(outcomes) <= {False, True}
    # What nobody knew of may have been stored. Of the others, only the last one was.
    length = len(store.get_events(stuck))
    assert length in (2, 3)
    ours.wait_for(stuck, length)
    assert ours.sequences[stuck] == list(range(1, length + 1))
    assert not ours.notices[stuck]
    wait_until(lambda: all(readiness_of(store).values()), "all are ready")


def readiness_of(store: EventStore) -> dict[int, bool]:
    """Return for the port of each node whether it is ready."""
    store.check_ready()
    return {int(each.node.split(":")[1]): each.detail is None for each in store.shards()}


def test_a_stream_that_begins_with_many_runs_of_it_has_those_of_others(
    start_cluster, start_gateway
):
    cluster = start_cluster(3, 0)
    gateway = start_gateway(cluster.url)
    frozen = not_index(cluster)
    other = next(node for node in cluster.masters if node is not frozen)
    stuck, [well] = cluster.runs_on(frozen, 8), cluster.runs_on(other, 1)
    for run_id in (*stuck, well):
        assert post(gateway, run_id).status_code == 201
    query = "&".join(f"run={run_id}" for run_id in (*stuck, well))

    def told(stream: Stream) -> list[tuple[str, int]]:
        return [(each.json["run_id"], each.json["sequence"]) for each in stream.events]

    frozen.pause()
    try:
        # Without a word of the silence, the first event came after 27 s, and each later one
        # after 42 s.
        with Stream(f"{gateway.url}/events/stream?{query}") as stream:
            wait_until(lambda: told(stream) == [(well, 1)], "the run that is there comes", 15)
            for sequence in (2, 3):
                assert post(gateway, well).status_code == 201
                wait_until(lambda: told(stream)[-1] == (well, sequence), "it goes on", 15)  # noqa: B023
            frozen.resume()
            wait_until(lambda: {(each, 1) for each in stuck} <= set(told(stream)), "all come", 15)
            assert sorted(told(stream)) == sorted(
                [*((each, 1) for each in stuck), *((well, n) for n in (1, 2, 3))]
            )
    finally:
        frozen.resume()


def test_the_list_of_runs_has_those_of_others(start_cluster, start_gateway):
    cluster = start_cluster(3, 0)
    gateway = start_gateway(cluster.url)
    frozen = not_index(cluster)
    run_ids = [f"run-{number}" for number in range(100)]
    for run_id in run_ids:
        assert post(gateway, run_id, "started").status_code == 201
    stuck = {run_id for run_id in run_ids if cluster.master_of(run_id) is frozen}
    frozen.pause()
    try:
        # Five round trips that each waited for the node took 16 s.
        answer = requests.get(f"{gateway.url}/runs?limit=100", timeout=11).json()
        assert set(answer["unavailable"]) == stuck
        assert {each["run_id"] for each in answer["runs"]} == {*run_ids} - stuck
    finally:
        frozen.resume()

    def is_whole() -> bool:
        answer = requests.get(f"{gateway.url}/runs?limit=100", timeout=20).json()
        return len(answer["runs"]) == 100 and "unavailable" not in answer

    wait_until(is_whole, "the list is whole")


def test_a_census_ends_its_turn(start_cluster):
    cluster = start_cluster(3, 0)
    store, frozen = EventStore(cluster.url), not_index(cluster)
    for number in range(100):
        store.append(f"run-{number}", "lifecycle", "started")
    frozen.pause()
    try:
        # It had not ended after 60 s.
        census = threading.Thread(target=store.census().take, daemon=True)
        census.start()
        census.join(50)
        assert not census.is_alive()
    finally:
        frozen.resume()


def test_a_producer_without_followers_goes_on_at_the_replica_that_took_over(start_cluster):
    cluster = start_cluster(3, 1)
    frozen = cluster.masters[0]
    [run_id] = cluster.runs_on(frozen, 1)
    store = EventStore(cluster.url)
    store.append(run_id, "llm", "stream")
    frozen.pause()
    try:
        cluster.wait_for_master(run_id, frozen)
        outcomes: list[bool | None] = []

        def is_stored() -> bool:
            outcomes.append(outcome_of_append(store, run_id))
            return outcomes[-1] is True

        # It was told "unknown" every three seconds, for 26 s at least.
        wait_until(is_stored, "it is stored", 12)
        assert outcomes.count(None) <= 1, "one append was sent to the frozen node, and no other"
    finally:
        frozen.resume()
    assert len(EventStore(cluster.url).get_events(run_id)) == 2
