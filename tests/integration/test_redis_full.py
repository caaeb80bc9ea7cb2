"""A full Redis that evicts nothing: the answers to producers, and how they go on."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from app.client import Client
from app.streaming.event_store import EventStore
from tests.clients import Stream
from tests.servers import DURABLE, GatewayServer, RedisServer, wait_until

ROOM = 3 * 1024 * 1024  # bytes
BATCH, BATCHES = 100, 40
EVENTS = BATCH * BATCHES  # of more than 1 KB each: more than there is room for
PADDING = "x" * 1000


class Run:
    """A run on a server with room for some events, beside another log that may be deleted."""

    def __init__(self, server: RedisServer, gateway: GatewayServer, run_id: str):
        self.id = run_id
        self.server = server
        self.gateway = gateway
        self.url = f"{gateway.url}/runs/{run_id}/events"
        self.store = EventStore(server.url)
        self._ballast = f"{run_id}-ballast"
        for _ in range(3):
            self.store.add_many(self._ballast, [event(number) for number in range(1000)])
        with server.client() as client:
            client.config_set("maxmemory-policy", "noeviction")
            self._full = client.info("memory")["used_memory"] + ROOM
            client.config_set("maxmemory", self._full)

    def delete_the_ballast(self) -> None:
        requests.delete(f"{self.gateway.url}/runs/{self._ballast}/events").raise_for_status()
        with self.server.client() as client:
            wait_until(
                lambda: client.info("memory")["used_memory"] < self._full - ROOM // 2,
                "the server has freed it in the background",
            )

    def restart_with_more_memory(self) -> None:
        self.server.stop()
        self.server.start()

    def refusals(self) -> int:
        """Return how often the gateway has logged that Redis refused an append."""
        return self.gateway.log.read_text().count("Redis cannot serve")

    @property
    def numbers(self) -> list[int]:
        return [event.data["number"] for event in self.store.get_events(self.id)]


makes_room = pytest.mark.parametrize(
    "make_room", [Run.delete_the_ballast, Run.restart_with_more_memory]
)


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis"), *DURABLE) as server:
        yield server


@pytest.fixture(scope="module")
def shared_gateway(server, tmp_path_factory) -> Iterator[GatewayServer]:
    log = tmp_path_factory.mktemp("gateway") / "log"
    with GatewayServer(server.url, log) as gateway:
        yield gateway


@pytest.fixture
def run(server, shared_gateway, run_id) -> Iterator[Run]:
    """Return a run on the server, which is emptied after the test."""
    yield Run(server, shared_gateway, run_id)
    with server.client() as client:
        client.config_set("maxmemory", 0)
        client.flushall()


def event(number: int) -> dict:
    data = {"number": number, "padding": PADDING}
    return {"event_category": "llm", "event_action": "stream", "data": data}


def refusal(answer: requests.Response) -> dict:
    """Check that an answer is 503 with a Retry-After, and return its problem document."""
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) >= 1
    assert answer.headers["Content-Type"] == "application/problem+json"
    return answer.json()


@makes_room
def test_a_batch_is_refused_as_a_whole_and_appended_once_there_is_room(
    run: Run, make_room: Callable[[Run], None]
):
    def append(number: int) -> requests.Response:
        events = [event(each) for each in range(number * BATCH, (number + 1) * BATCH)]
        headers = {"Idempotency-Key": f"batch-{number}"}
        return requests.post(run.url, json=events, headers=headers, timeout=20)

    ids: list[str] = []
    with Stream(f"{run.url}/stream") as stream:
        while (answer := append(len(ids) // BATCH)).status_code == 201:
            ids += [each["id"] for each in answer.json()["events"]]
        assert refusal(answer)["stored"] is False
        assert [event.id for event in run.store.get_events(run.id)] == ids
        assert 0 < len(ids) < EVENTS
        assert append(0).headers["Idempotent-Replayed"] == "true"
        make_room(run)
        for number in range(len(ids) // BATCH, BATCHES):
            answer = append(number)
            assert answer.status_code == 201
            ids += [each["id"] for each in answer.json()["events"]]
        stream.wait_for_events(EVENTS)
    assert [message.last_event_id for message in stream.events] == ids
    assert run.numbers == list(range(EVENTS))


@makes_room
def test_a_producer_of_lines_learns_how_many_are_stored_and_goes_on_from_there(
    run: Run, make_room: Callable[[Run], None]
):
    def lines(first: int) -> Iterator[bytes]:
        for number in range(first, EVENTS):
            yield json.dumps(event(number)).encode() + b"\n"

    def send_from(first: int) -> requests.Response:
        return requests.post(
            run.url,
            params={"expected_sequence": first + 1},
            data=lines(first),
            headers={"Content-Type": "application/x-ndjson"},
            timeout=60,
        )

    stored = 0
    with Stream(f"{run.url}/stream") as stream:
        for _ in range(3):
            problem = refusal(send_from(stored))
            assert problem["line"] == problem["stored"] + 1
            assert "unknown" not in problem
            if problem["stored"]:
                stored += problem["stored"]
                last = run.store.get_events(run.id)[-1]
                assert (problem["last_id"], problem["last_sequence"]) == (last.id, stored)
            assert run.numbers == list(range(stored))
        assert 0 < stored < EVENTS
        make_room(run)
        answer = send_from(stored)
        assert (answer.status_code, answer.json()["last_sequence"]) == (200, EVENTS)
        stream.wait_for_events(EVENTS)
    assert stream.sequences == list(range(1, EVENTS + 1))
    assert run.numbers == list(range(EVENTS))


@makes_room
def test_an_appender_waits_for_room(run: Run, make_room: Callable[[Run], None]):
    def emit_all() -> int:
        with Client(run.gateway.url).appender(run.id) as appender:
            for number in range(EVENTS):
                appender.emit("llm", "stream", event(number)["data"])
        return appender.stored

    refusals = run.refusals()
    with ThreadPoolExecutor() as pool:
        emitting = pool.submit(emit_all)
        wait_until(lambda: run.refusals() > refusals, "an append is refused")
        numbers = run.numbers
        assert numbers == list(range(len(numbers)))
        make_room(run)
        assert emitting.result(30) == EVENTS
    assert run.numbers == list(range(EVENTS))


def test_reads_and_streams_are_served_meanwhile(run: Run):
    run.store.add(run.id, **event(1))
    with run.server.client() as client:
        client.config_set("maxmemory", 1)
    refusal(requests.post(run.url, json=[event(2)], timeout=20))
    assert len(requests.get(run.url, timeout=20).json()["events"]) == 1
    with Stream(f"{run.url}/stream") as stream:
        stream.wait_for_control("caught_up")
    assert stream.sequences == [1]


@pytest.mark.parametrize("trimmed", [False, True], ids=["an entry deleted", "trimmed"])
def test_a_follower_is_told_of_a_log_that_another_program_begins_just_before_redis_is_full(
    run: Run, trimmed: bool
):
    """The new log looks like the old one, and can be given no epoch yet."""
    first = run.store.add(run.id, "llm", "stream", event(1)["data"])
    key = f"run:{run.id}:events"
    with Stream(f"{run.url}/stream") as stream, run.server.client() as client:
        stream.wait_for_control("caught_up")
        with client.pipeline() as moment:
            moment.delete(key)
            ids = [f"{int(first.split('-')[0]) + number}-0" for number in range(1, 7)]
            for entry_id in ids[: 6 if trimmed else 3]:
                moment.xadd(key, {"data": "1"}, id=entry_id)
            if trimmed:
                moment.xtrim(key, maxlen=2, approximate=False)
            else:
                moment.xdel(key, ids[1])
            moment.config_set("maxmemory", 1)
            moment.execute()
        kept = ids[4:] if trimmed else [ids[0], ids[2]]
        stream.wait_for_events(3)
        assert [each.last_event_id for each in stream.events] == [first, *kept]
        stream.wait_for_control("reset")
        actions = [each.json["event"]["action"] for each in stream.controls]
        client.config_set("maxmemory", 0)
        more = client.xadd(key, {"data": "2"}).decode()
        stream.wait_for_events(4)
        assert [each.last_event_id for each in stream.events] == [first, *kept, more]
        assert actions.count("reset") == 1
