"""Runs whose producer died: followers get `lifecycle.lost` once, and reads show the end."""

import contextlib
import json
import threading
import time

import pytest
import requests

from app.streaming.event_store import EventStore
from app.streaming.runs.census import TURN
from tests.clients import Stream
from tests.servers import GatewayServer, wait_until


def lost_events_of(store: EventStore, run_id: str) -> list:
    return [event for event in store.get_events(run_id) if event.name == "lifecycle.lost"]


def stream_url(gateway: GatewayServer, run_id: str) -> str:
    return f"{gateway.url}/runs/{run_id}/events/stream"


@pytest.fixture
def two_gateways(start_gateway) -> list[GatewayServer]:
    return [start_gateway(), start_gateway()]


def test_followers_of_a_dead_producer_get_one_lost_event_and_their_streams_end(
    store, two_gateways, run_id
):
    store.add(run_id, "llm", "stream", lease_seconds=1)
    with contextlib.ExitStack() as stack:
        streams = [
            stack.enter_context(Stream(stream_url(gateway, run_id)))
            for gateway in two_gateways
            for _ in range(3)
        ]
        for stream in streams:
            stream.wait_for_end()
            assert [event.json["event"]["action"] for event in stream.events] == ["stream", "lost"]
            assert stream.events[-1].json["sequence"] == 2
    [lost] = lost_events_of(store, run_id)
    assert lost.data == {"lease_seconds": 1}


def test_a_producer_that_appends_keeps_its_lease(store, gateway, run_id):
    store.add(run_id, "llm", "stream", lease_seconds=2)
    with Stream(stream_url(gateway, run_id)) as stream:
        stream.wait_for_control("caught_up")
        until = time.monotonic() + 8
        appended = 1

        def appends_on() -> bool:
            nonlocal appended
            store.add(run_id, "llm", "stream")
            appended += 1
            stream.wait_for_events(appended)
            return time.monotonic() > until

        wait_until(appends_on, "the producer has appended for four leases")
        assert lost_events_of(store, run_id) == []
        store.add(run_id, "lifecycle", "completed")
        stream.wait_for_end()
    assert lost_events_of(store, run_id) == []


def test_without_followers_the_next_read_finds_the_run_lost(store, gateway, run_id):
    other = f"{run_id}-other"
    store.add(run_id, "llm", "stream", lease_seconds=1)
    store.add(other, "llm", "stream", lease_seconds=1)

    def ended() -> bool:
        return requests.get(f"{gateway.url}/runs/{run_id}", timeout=20).json()["ended"]

    wait_until(ended, "the run is lost")
    history = requests.get(f"{gateway.url}/runs/{other}/events", timeout=20).json()["events"]
    assert [event["event"]["action"] for event in history] == ["stream", "lost"]


def test_a_reader_in_python_finds_the_run_lost(store, run_id):
    event_id = store.add(run_id, "llm", "stream", lease_seconds=1)
    names = wait_until(
        lambda: [event.name for event in store.subscribe(run_id, event_id, block_ms=300)],
        "the run is lost",
    )
    assert names == ["lifecycle.lost"]
    other = f"{run_id}-2"
    store.add(other, "llm", "stream", lease_seconds=1)
    wait_until(lambda: len(store.get_events(other)) == 2, "the other run is lost")


def test_a_run_that_cannot_be_marked_lost_can_be_read(start_redis, start_gateway, run_id):
    server = start_redis("--maxmemory-policy", "noeviction")
    gateway = start_gateway(server.url)
    store = EventStore(server.url)
    store.add(f"{run_id}-other", "llm", "stream")
    store.add(run_id, "llm", "stream", lease_seconds=1)
    requests.get(f"{gateway.url}/runs/{run_id}-other", timeout=20).raise_for_status()
    with server.client() as client:
        client.config_set("maxmemory", "1")
        overdue = time.monotonic() + 2
        wait_until(lambda: time.monotonic() > overdue, "the lease has expired")
        for path in ("", "/events"):
            answer = requests.get(f"{gateway.url}/runs/{run_id}{path}", timeout=20)
            assert answer.status_code == 200, answer.text
        with Stream(stream_url(gateway, run_id)) as stream:
            stream.wait_for_control("caught_up")
            client.config_set("maxmemory", "0")
            stream.wait_for_end()
            assert stream.sequences == [1, 2]


def test_a_lost_run_that_is_started_again_has_no_lease_unless_given_one(
    store, gateway, redis_client, run_id
):
    store.add(run_id, "llm", "stream", lease_seconds=1)
    with Stream(stream_url(gateway, run_id)) as stream:
        stream.wait_for_end()
    body = {"event_category": "llm", "event_action": "stream"}
    url = f"{gateway.url}/runs/{run_id}/events"
    assert requests.post(url, json=body, timeout=20).status_code == 409
    started = {"event_category": "lifecycle", "event_action": "started"}
    assert requests.post(url, json=started, timeout=20).status_code == 201
    _, fields = redis_client.xrevrange(f"run:{run_id}:events", count=1)[0]
    assert b"lease_seconds" not in fields


def test_a_run_is_not_lost_through_an_outage_of_redis(durable_redis, start_gateway, run_id):
    gateway = start_gateway(durable_redis.url)
    EventStore(durable_redis.url).add(run_id, "llm", "stream", lease_seconds=3)
    with Stream(stream_url(gateway, run_id)) as stream:
        stream.wait_for_control("caught_up")
        durable_redis.stop()
        stopped_at = time.monotonic()
        wait_until(lambda: time.monotonic() > stopped_at + 4, "the lease has expired meanwhile")
        durable_redis.start()
        started_at = time.monotonic()
        store = EventStore(durable_redis.url)

        def renewed() -> bool:
            store.add(run_id, "llm", "stream")
            return True

        wait_until(renewed, "the producer appends again")
        assert time.monotonic() - started_at < 3
        stream.wait_for_events(2)
        assert lost_events_of(store, run_id) == []
        stream.wait_for_end()
        assert len(lost_events_of(store, run_id)) == 1


@pytest.mark.parametrize("followed", [True, False])
def test_a_producer_that_redis_refused_has_its_whole_lease_afterwards(
    start_redis, start_gateway, run_id, followed
):
    server = start_redis()
    gateway, store = start_gateway(server.url), EventStore(server.url)
    url = f"{gateway.url}/runs/{run_id}/events"
    event = {"event_category": "llm", "event_action": "stream"}
    assert requests.post(url, json={**event, "lease_seconds": 2}, timeout=20).status_code == 201
    with contextlib.ExitStack() as stack:
        if followed:
            stack.enter_context(Stream(f"{url}/stream")).wait_for_control("caught_up")
        client = stack.enter_context(server.client())
        client.config_set("maxmemory", 1)
        until = time.monotonic() + 7

        def is_refused_long_enough() -> bool:
            assert requests.post(url, json=event, timeout=20).status_code == 503
            return time.monotonic() > until

        wait_until(is_refused_long_enough, "the producer has been refused for three leases")
        client.config_set("maxmemory", 0)
        assert not requests.get(f"{gateway.url}/runs/{run_id}", timeout=20).json()["ended"]
        assert requests.post(url, json=event, timeout=20).status_code == 201
        assert lost_events_of(store, run_id) == []
        wait_until(
            lambda: requests.get(url, timeout=20) and lost_events_of(store, run_id), "it is lost"
        )


@pytest.mark.parametrize("outage", ["full", "stopped"])
def test_a_gateway_that_writes_nothing_meets_an_outage_too(
    start_redis, start_gateway, run_id, outage
):
    """The producer, elsewhere, can append again only a moment after the outage."""
    server = start_redis()
    gateway, store = start_gateway(server.url), EventStore(server.url)
    url = f"{gateway.url}/runs/{run_id}"
    store.add(run_id, "llm", "stream", lease_seconds=2)
    began = time.monotonic()

    def is_watched_for_a_while() -> bool:
        requests.get(url, timeout=20)
        store.add(run_id, "llm", "stream")
        return time.monotonic() > began + 3

    wait_until(is_watched_for_a_while, "the gateway knows the run for longer than its lease")
    with server.client() as client:
        client.config_set("maxmemory", 1) if outage == "full" else server.pause()
        stopped = time.monotonic()
        wait_until(lambda: time.monotonic() > stopped + 4, "the lease has expired meanwhile")
        server.resume()
        client.config_set("maxmemory", 0)
    assert not requests.get(url, timeout=20).json()["ended"]
    store.add(run_id, "llm", "stream")
    assert lost_events_of(store, run_id) == []
    wait_until(
        lambda: requests.get(url, timeout=20) and lost_events_of(store, run_id), "it is lost"
    )


def test_a_run_that_takes_no_events_keeps_no_dead_run_alive(
    store, start_gateway, redis_client, run_id
):
    """Its own appends get 409 with a reason, whichever way they come."""
    gateway, full, text = start_gateway(), f"{run_id}-full", f"{run_id}-text"
    largest = 2**64 - 1
    redis_client.xadd(f"run:{full}:events", {"lease_seconds": 1}, id=f"{largest}-{largest}")
    redis_client.set(f"{{run:{text}:events}}:keys", "text")
    event = {"event_category": "llm", "event_action": "stream"}
    line = {"content-type": "application/x-ndjson"}

    def refused(run: str, **options: object) -> dict:
        url = f"{gateway.url}/runs/{run}/events"
        answer = requests.post(url, timeout=20, **options)
        assert answer.status_code == 409, answer.text
        return answer.json()

    with contextlib.ExitStack() as stack:
        for run in (full, run_id):
            stack.enter_context(Stream(stream_url(gateway, run))).wait_for_control("caught_up")
        dead = stack.enter_context(Stream(stream_url(gateway, f"{run_id}-dead")))
        dead.wait_for_control("caught_up")
        store.add(f"{run_id}-dead", "llm", "stream", lease_seconds=2)

        def is_lost() -> bool:
            for options in ({"json": event}, {"json": [event] * 2}):
                assert refused(full, **options)["full"]
                refused(text, headers={"Idempotency-Key": "k"}, **options)
            ingested = refused(full, data=json.dumps(event) + "\n", headers=line)
            assert (ingested["full"], ingested["line"], ingested["stored"]) == (True, 1, 0)
            return bool(lost_events_of(store, f"{run_id}-dead"))

        wait_until(is_lost, "the dead run is lost")
        dead.wait_for_end()
    assert "cannot be ended" not in gateway.log.read_text()
    assert redis_client.xlen(f"run:{full}:events") == 1


class BusyRun:
    """A run that gets events all the time, and has a follower at a gateway."""

    def __init__(self, store: EventStore, gateway: GatewayServer, run_id: str):
        self._store, self._run_id, self._over = store, run_id, threading.Event()
        self._stream = Stream(stream_url(gateway, run_id))
        self._thread = threading.Thread(target=self._append)

    def __enter__(self) -> None:
        self._stream.__enter__().wait_for_control("caught_up")
        self._thread.start()

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        self._thread.join()
        self._stream.__exit__(*exc_info)

    def _append(self) -> None:
        while not self._over.wait(0.005):
            self._store.add(self._run_id, "llm", "stream")


@pytest.mark.parametrize("reading", ["nobody reads", "a read at wake-up", "a busy reader"])
@pytest.mark.parametrize("appends", ["are refused", "go elsewhere"])
def test_a_gateway_that_was_stopped_declares_no_live_run_lost(
    store, redis_client, start_gateway, run_id, reading, appends
):
    """Its producer can append again only a moment after the gateway goes on."""
    redis_client.zadd(TURN, {"last": time.time()})  # no other gateway looks at the run
    gateway = start_gateway()
    elsewhere = start_gateway() if appends == "go elsewhere" else None
    [worker] = gateway.workers()
    path = f"/runs/{run_id}"
    event = {"event_category": "llm", "event_action": "stream"}

    def append(server: GatewayServer) -> None:
        url = f"{server.url}{path}/events"
        answer = requests.post(url, json={**event, "lease_seconds": 2}, timeout=20)
        assert answer.status_code == 201, answer.text

    with contextlib.ExitStack() as stack:
        if reading == "a busy reader":
            stack.enter_context(BusyRun(store, gateway, f"{run_id}-busy"))
        append(gateway)
        stream = stack.enter_context(Stream(stream_url(gateway, run_id)))
        stream.wait_for_control("caught_up")
        for _ in range(3):
            until = time.monotonic() + 1.5  # the clock of the gateway knows all of it
            wait_until(lambda: time.monotonic() > until, "the run has been silent")  # noqa: B023
            append(gateway)
            worker.suspend()
            until = time.monotonic() + 3
            if elsewhere is not None:
                append(elsewhere)
            wait_until(lambda: time.monotonic() > until, "the lease is over")  # noqa: B023
            worker.resume()
            if reading == "a read at wake-up":
                assert not requests.get(f"{gateway.url}{path}", timeout=20).json()["ended"]
            append(gateway)
        assert lost_events_of(store, run_id) == []
        stream.wait_for_end()  # the producer is silent now
        assert len(lost_events_of(store, run_id)) == 1
