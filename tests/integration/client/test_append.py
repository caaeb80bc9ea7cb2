"""The client appends through a real gateway: repeats, errors, threads, forks and greenlets."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from app.client import Client
from app.streaming.errors import (
    EventTooLarge,
    KeyReused,
    Refused,
    RunEnded,
    StoreUnavailable,
    UnexpectedSequence,
)
from app.streaming.new_event import NewEvent
from tests.run_program import run_program

EVENT = {"event_category": "llm", "event_action": "stream"}


def test_appended_events_are_in_the_log(client, store, run_id):
    first = client.add(run_id, "llm", "stream", {"é": [1, 2.5, None]}, {"host": "a"})
    others = client.add_many(run_id, [{**EVENT, "data": n} for n in range(1000)])
    last = client.append_new(run_id, [NewEvent.of("tool", "called")]).last_id
    events = store.get_events(run_id)
    assert [event.id for event in events] == [first, *others, last]
    assert (events[0].data, events[0].source) == ({"é": [1, 2.5, None]}, {"host": "a"})
    assert [event.data for event in events[1:-1]] == list(range(1000))
    assert client.get_events(run_id) == events
    assert client.get_events(run_id, limit=2, descending=True) == events[:-3:-1]
    assert client.get_events(run_id, categories=["tool"]) == events[-1:]
    assert client.get_events_after(run_id, others[-2], limit=1) == events[-2:-1]
    assert client.state(run_id)["last_sequence"] == 1002


def test_a_run_without_a_log_has_no_events_and_no_state(client, run_id):
    assert client.state(run_id) is None
    assert client.get_events(run_id) == []


@pytest.mark.parametrize("new_events", [1, 3])
def test_an_append_whose_response_is_lost_is_stored_once(proxy, store, run_id, new_events):
    proxy.lost_responses = 2
    with Client(proxy.url) as client:
        ids = client.append_new(run_id, [NewEvent.of("llm", "stream")] * new_events).ids()
    assert proxy.lost_responses == 0
    assert [event.id for event in store.get_events(run_id)] == ids


def test_a_terminal_event_can_be_repeated_too(proxy, store, run_id):
    proxy.lost_responses = 1
    with Client(proxy.url) as client:
        event_id = client.add(run_id, "lifecycle", "completed", expected_sequence=1)
    assert [event.id for event in store.get_events(run_id)] == [event_id]


def test_an_append_waits_for_a_gateway_that_is_down(own_gateway, store, run_id):
    own_gateway.stop()
    with Client(own_gateway.url) as client, ThreadPoolExecutor() as pool:
        with pytest.raises(StoreUnavailable) as failed:
            Client(own_gateway.url, retry_seconds=0).add(run_id, "llm", "stream")
        appended = pool.submit(client.add, run_id, "llm", "stream")
        own_gateway.start()
        event_id = appended.result(30)
    assert failed.value.stored is False
    assert [event.id for event in store.get_events(run_id)] == [event_id]


def test_every_way_to_append_sets_the_lease(client, redis_client, run_id):
    client.add(run_id, "llm", "stream", lease_seconds=500)
    client.add_many(run_id, [EVENT, {**EVENT, "lease_seconds": 600}])
    client.stream(run_id, [{**EVENT, "lease_seconds": 700}])
    entries = redis_client.xrange(f"run:{run_id}:events")
    leases = [fields[b"lease_seconds"] for _, fields in entries]
    assert (leases[0], leases[-2], leases[-1]) == (b"500", b"600", b"700")


def test_the_client_raises_the_errors_of_the_store(client, gateway, run_id):
    with pytest.raises(EventTooLarge, match="body"):
        client.add_many(run_id, [{**EVENT, "data": "x" * 200_000}] * 30)
    client.add(run_id, "llm", "stream", 1, idempotency_key="k")
    with pytest.raises(KeyReused):
        client.add(run_id, "llm", "stream", 2, idempotency_key="k")
    with pytest.raises(UnexpectedSequence) as failed:
        client.add(run_id, "llm", "stream", expected_sequence=1)
    assert failed.value.last_sequence == 1
    client.add(run_id, "lifecycle", "completed")
    with pytest.raises(RunEnded):
        client.add(run_id, "llm", "stream")
    with pytest.raises(Refused) as failed:
        Client(f"{gateway.url}/elsewhere").add(run_id, "llm", "stream")
    assert failed.value.status == 404
    assert len(client.get_events(run_id)) == 2


def test_threads_share_a_client(client, store, run_id):
    with ThreadPoolExecutor(16) as pool:
        ids = list(pool.map(lambda n: client.add(run_id, "llm", "stream", n), range(300)))
    stored = {event.id: event.data for event in store.get_events(run_id)}
    assert [stored[event_id] for event_id in ids] == list(range(300))


@pytest.mark.only_client(reason="the program uses it")
def test_a_forked_child_has_its_own_connections(gateway, store, run_id):
    ended = run_program("client_in_fork", gateway.url, run_id)
    assert (ended.returncode, ended.stderr) == (0, "")
    data = [event.data for event in store.get_events(run_id)]
    assert data[0] == "before"
    for name in ("parent", "child"):
        assert [number for by, number in data[1:] if by == name] == list(range(100))


@pytest.mark.only_client(reason="the program uses it")
def test_greenlets_share_a_client(gateway, run_id):
    ended = run_program("client_in_greenlets", gateway.url, run_id, gevent=True)
    assert (ended.returncode, ended.stderr) == (0, "")


TRACED, OTHER = (f"00-{'4' * 32}-{number * 16}-01" for number in ("2", "3"))


def test_the_traces_of_events_arrive_and_come_back(client, store, run_id):
    client.add(run_id, "llm", "stream", traceparent=TRACED)
    client.add(run_id, "llm", "stream", traceparent="none")
    client.add_many(
        run_id, [EVENT | {"traceparent": TRACED}, EVENT, EVENT | {"traceparent": OTHER}]
    )
    client.add_many(run_id, [EVENT | {"traceparent": OTHER}] * 2)
    client.stream(run_id, [EVENT | {"traceparent": OTHER}, EVENT])
    client.request(run_id, "cancel", traceparent=TRACED)
    events = store.get_events(run_id)
    found = [event.traceparent for event in events]
    many = [TRACED, None, OTHER, OTHER, OTHER]
    assert found == [TRACED, None, *many, OTHER, None, TRACED]
    assert client.get_events(run_id) == events


def test_an_error_has_the_id_of_its_request(client, gateway, run_id):
    client.add(run_id, "lifecycle", "completed")
    with pytest.raises(RunEnded) as refused:
        client.add(run_id, "llm", "stream")
    assert f"request_id={refused.value.request_id}" in gateway.log.read_text()
