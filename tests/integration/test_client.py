"""The client over HTTP at a real gateway: appends, streams of events, following, outages."""

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.client import Client, Ingested
from app.client import keepalive as keepalive
from app.streaming.errors import (
    EventTooLarge,
    InvalidEvent,
    InvalidInput,
    KeyReused,
    Refused,
    RunEnded,
    StoreUnavailable,
    UnexpectedSequence,
)
from app.streaming.event import Event
from app.streaming.new_event import NewEvent
from tests.servers import ROOT, GatewayServer, wait_until

EVENT = {"event_category": "llm", "event_action": "stream"}


@pytest.fixture
def client(gateway) -> Iterator[Client]:
    with Client(gateway.url) as client:
        yield client


@pytest.fixture
def its_gateway(redis_server, tmp_path) -> Iterator[GatewayServer]:
    """A gateway that a test may stop and start."""
    log = tmp_path / "gateway.log"
    gateway = GatewayServer(redis_server.url, log, RETRY_MS=100, DRAIN_SECONDS=0).start()
    yield gateway
    gateway.stop()
    assert "Traceback" not in log.read_text()


class Wire:
    """A proxy that hands everything on, but hangs up in the place of the next `lose` answers."""

    def __init__(self, port: int, patience: float | None = None):
        self.mark_lost = 0
        self._patience = patience  # with those who ask, as a proxy has it
        self.port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Cut every connection that is open."""
        for end in self._open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                client.settimeout(self._patience)
                server = socket.create_connection(("127.0.0.1", self.port))
                self._open += [client, server]
                for ends in ((client, server, False), (server, client, True)):
                    threading.Thread(target=self._pipe, args=ends, daemon=True).start()

    def _pipe(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if answers and self.mark_lost:
                    self.mark_lost -= 1
                    break
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.fixture
def wire(gateway) -> Iterator[Wire]:
    wire = Wire(gateway.port)
    yield wire
    wire.close()


class Following:
    """A run, followed in the background."""

    def __init__(self, client: Client, run_id: str, *arguments: object, **options: object):
        self.events: list[Event] = []
        self.ended = False
        self._stream = client.follow(run_id, *arguments, **options)
        threading.Thread(target=self._run, daemon=True).start()

    @property
    def data(self) -> list:
        return [event.data for event in list(self.events) if event.category == "llm"]

    def wait_for(self, predicate: Callable[[], object]) -> None:
        wait_until(predicate, f"what was waited for in {self.events}")

    def wait_for_data(self, *data: object) -> None:
        self.wait_for(lambda: self.data == list(data))

    def wait_for_control(self, action: str) -> None:
        self.wait_for(lambda: any(event.action == action for event in list(self.events)))

    def _run(self) -> None:
        for event in self._stream:
            self.events.append(event)
        self.ended = True


# Appending


def test_what_is_appended_stands_in_the_log(client, store, run_id):
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


def test_a_run_without_a_log_has_no_events_and_no_info(client, run_id):
    assert client.state(run_id) is None
    assert client.get_events(run_id) == []


@pytest.mark.parametrize("new_events", [1, 3])
def test_an_append_whose_answer_is_lost_is_appended_once(wire, store, run_id, new_events):
    wire.mark_lost = 2
    with Client(wire.url) as client:
        ids = client.append_new(run_id, [NewEvent.of("llm", "stream")] * new_events).ids()
    assert wire.mark_lost == 0
    assert [event.id for event in store.get_events(run_id)] == ids


def test_the_end_of_a_run_may_be_repeated_too(wire, store, run_id):
    wire.mark_lost = 1
    with Client(wire.url) as client:
        event_id = client.add(run_id, "lifecycle", "completed", expected_sequence=1)
    assert [event.id for event in store.get_events(run_id)] == [event_id]


def test_an_append_waits_for_a_gateway_that_is_away(its_gateway, store, run_id):
    its_gateway.stop()
    with Client(its_gateway.url) as client, ThreadPoolExecutor() as pool:
        with pytest.raises(StoreUnavailable) as failed:
            Client(its_gateway.url, retry_seconds=0).add(run_id, "llm", "stream")
        appended = pool.submit(client.add, run_id, "llm", "stream")
        its_gateway.start()
        event_id = appended.result(30)
    assert failed.value.stored is False
    assert [event.id for event in store.get_events(run_id)] == [event_id]


def test_a_lease_is_kept(client, redis_client, run_id):
    client.add(run_id, "llm", "stream", lease_seconds=500)
    client.add_many(run_id, [EVENT, {**EVENT, "lease_seconds": 600}])
    client.stream(run_id, [{**EVENT, "lease_seconds": 700}])
    entries = redis_client.xrange(f"run:{run_id}:events")
    leases = [fields[b"lease_seconds"] for _, fields in entries]
    assert (leases[0], leases[-2], leases[-1]) == (b"500", b"600", b"700")


def test_a_refusal_is_the_error_that_the_store_would_raise(client, gateway, run_id):
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


FORKED = """
import os, sys
from app.client import Client
client = Client(sys.argv[1])
client.add(sys.argv[2], "llm", "stream", "before")
child = os.fork()
who = "parent" if child else "child"
for number in range(100):
    client.add(sys.argv[2], "llm", "stream", [who, number])
if child:
    assert os.waitpid(child, 0)[1] == 0, "the child failed"
"""

GREENLETS = """
from gevent import monkey
monkey.patch_all()
import sys
import gevent
from app.client import Client
client = Client(sys.argv[1])
following = gevent.spawn(lambda: list(client.follow(sys.argv[2])))
def add(number):
    return client.add(sys.argv[2], "llm", "stream", number)
gevent.joinall([gevent.spawn(add, number) for number in range(100)], raise_error=True)
client.stream(sys.argv[2], [{"event_category": "lifecycle", "event_action": "completed"}])
events = following.get(timeout=30)
assert sorted(event.data for event in events if event.category == "llm") == list(range(100))
"""


def run(script: str, gateway: GatewayServer, run_id: str) -> None:
    command = [sys.executable, "-W", "error", "-c", script, gateway.url, run_id]
    subprocess.run(command, cwd=ROOT, check=True, timeout=50)


def test_a_forked_child_has_connections_of_its_own(gateway, store, run_id):
    run(FORKED, gateway, run_id)
    data = [event.data for event in store.get_events(run_id)]
    assert data[0] == "before"
    for who in ("parent", "child"):
        assert [number for name, number in data[1:] if name == who] == list(range(100))


def test_greenlets_share_a_client(gateway, run_id):
    run(GREENLETS, gateway, run_id)


# The appender


def test_an_appender_appends_in_the_background_and_in_order(client, store, run_id):
    with client.appender(run_id, expected_sequence=1) as run:
        run.emit("lifecycle", "started", source="me", lease_seconds=60)
        for number in range(3000):
            run.emit("llm", "stream", number)
        run.flush()
        assert run.stored == 3001
        run.emit("lifecycle", "completed")
    first, *tokens, last = store.get_events(run_id)
    assert first.source == "me"
    assert [event.data for event in tokens] == list(range(3000))
    assert (run.last_id, run.last_sequence) == (last.id, 3002)


def test_an_appender_loses_and_doubles_nothing_over_restarts(its_gateway, store, run_id):
    with Client(its_gateway.url).appender(run_id) as run:
        for number in range(1000):
            run.emit("llm", "stream", number)
            if number == 300:
                run.flush()
                its_gateway.stop()
        threading.Timer(0.5, its_gateway.start).start()
    assert [event.data for event in store.get_events(run_id)] == list(range(1000))


def test_an_appenders_answers_that_are_lost_double_nothing(wire, store, run_id):
    wire.mark_lost = 3
    with Client(wire.url).appender(run_id) as run:
        for number in range(1000):
            run.emit("llm", "stream", number)
    assert [event.data for event in store.get_events(run_id)] == list(range(1000))


def test_an_appender_is_told_of_a_run_that_has_ended(client, store, run_id):
    store.add(run_id, "lifecycle", "completed")
    run = client.appender(run_id)
    run.emit("llm", "stream", 1)
    with pytest.raises(RunEnded):
        run.close()


def test_an_appender_leaves_out_what_is_too_large_for_the_gateway(start_gateway, store, run_id):
    gateway = start_gateway(MAX_EVENT_BYTES=1000, MAX_BODY_BYTES=4000)
    run = Client(gateway.url).appender(run_id)
    for number in range(1000):
        run.emit("llm", "stream", "x" * 2000 if number == 500 else number)
    run.emit("llm", "stream", "x" * 10_000)
    run.emit("lifecycle", "completed")
    with pytest.raises(EventTooLarge, match="at most 1000 bytes"):
        run.close()
    *tokens, last = store.get_events(run_id)
    assert [event.data for event in tokens] == [n for n in range(1000) if n != 500]
    assert (last.action, run.stored, run.refused) == ("completed", 1000, 2)


BEGINNING = """
import os, sys
from app.client import Client
run = Client(sys.argv[1]).appender(sys.argv[2])
def emit(*data):
    for each in data:
        run.emit("llm", "stream", each)
"""
PATCHED = "from gevent import monkey; monkey.patch_all()\nimport gevent" + BEGINNING

APPENDERS = {
    "at the interpreter's exit": BEGINNING + "emit(*range(3000))",
    "at the exit under gevent": PATCHED + "emit(*range(3000))",
    "at the exit after an error": BEGINNING + "emit(*range(3000)); sys.exit(1)",
    "of many greenlets": PATCHED
    + """
with run:
    gevent.joinall([gevent.spawn(emit, *range(n, 3000, 20)) for n in range(20)], raise_error=True)
""",
    "of a parent and a forked child": BEGINNING
    + """
emit(*range(1000))
child = os.fork()
if child == 0:
    with run:
        emit(*range(1000, 2000))
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0, "the child failed"
emit(*range(2000, 3000))
""",
}


# Each of which keeps its order.
PRODUCERS = {
    "of many greenlets": lambda number: number % 20,
    "of a parent and a forked child": lambda number: 1000 <= number < 2000,
}


@pytest.mark.parametrize("scene", APPENDERS)
def test_what_an_appender_has_taken_is_in_the_log_when_its_process_has_ended(
    gateway, store, run_id, scene
):
    ended = subprocess.run(
        [sys.executable, "-c", APPENDERS[scene], gateway.url, run_id],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert ended.stderr == ""
    data = [event.data for event in store.get_events(run_id)]
    producer = PRODUCERS.get(scene, lambda number: 0)
    assert sorted(data, key=producer) == sorted(range(3000), key=producer)


def test_an_appenders_event_is_in_the_log_within_a_second_though_nothing_follows_it(
    client, store, run_id
):
    with client.appender(run_id) as run:
        for number in (1, 2):
            run.emit("llm", "stream", number)
            expected = list(range(1, number + 1))
            wait_until(
                lambda expected=expected: (
                    [event.data for event in store.get_events(run_id)] == expected
                ),
                "it is in the log",
                seconds=1,
            )


# A stream of events


def test_a_follower_sees_events_before_their_stream_has_ended(client, run_id):
    following = Following(client, run_id)

    def events() -> Iterator[dict]:
        for number in range(5):
            yield {**EVENT, "data": number}
            following.wait_for_data(*range(number + 1))
        yield {"event_category": "lifecycle", "event_action": "completed"}

    ingested = client.stream(run_id, events(), expected_sequence=1)
    following.wait_for(lambda: following.ended)
    assert ingested == Ingested(6, following.events[-1].id, 6)


def test_a_stream_of_many_events_is_stored_in_order(client, store, run_id):
    ingested = client.stream(run_id, ({**EVENT, "data": n} for n in range(5000)))
    assert ingested.stored == ingested.last_sequence == 5000
    assert [event.data for event in store.get_events(run_id)] == list(range(5000))


def test_a_stream_of_nothing_stores_nothing(client, run_id):
    assert client.stream(run_id, []) == Ingested(0, None, None)


def test_a_refusal_in_the_middle_stops_an_endless_stream(client, store, run_id):
    """Without waiting until the gateway hangs up."""
    sent = []

    def events() -> Iterator[dict]:
        yield EVENT
        yield {"event_category": "lifecycle", "event_action": "completed"}
        while len(sent) < 1_000_000:
            sent.append(1)
            yield {**EVENT, "data": "x" * 100}

    with pytest.raises(RunEnded) as failed:
        client.stream(run_id, events())
    stored = store.get_events(run_id)
    assert failed.value.ingested == Ingested(2, stored[-1].id, 2)
    assert len(sent) < 1_000_000


def test_a_stream_from_another_sequence_is_refused_with_the_runs(client, run_id):
    client.add(run_id, "llm", "stream")
    with pytest.raises(UnexpectedSequence) as failed:
        client.stream(run_id, [EVENT] * 3, expected_sequence=1)
    assert failed.value.last_sequence == 1
    assert failed.value.ingested == Ingested(0, None, None)


def test_a_producer_that_is_overtaken_learns_what_it_has_stored(client, store, run_id):
    def events() -> Iterator[dict]:
        yield EVENT
        wait_until(lambda: len(store.get_events(run_id)) == 1, "the first is stored")
        store.add(run_id, "llm", "stream")
        yield EVENT

    with pytest.raises(UnexpectedSequence) as failed:
        client.stream(run_id, events(), expected_sequence=1)
    assert failed.value.last_sequence == 2
    assert failed.value.ingested == Ingested(1, store.get_events(run_id)[0].id, 1)


def test_an_event_that_cannot_be_stored_ends_its_stream(client, store, run_id):
    with pytest.raises(InvalidEvent, match=r"1\.event_category") as failed:
        client.stream(run_id, [EVENT, {**EVENT, "event_category": "gateway"}, EVENT])
    assert failed.value.ingested == Ingested(1, store.get_events(run_id)[0].id, 1)
    assert len(store.get_events(run_id)) == 1


def test_a_stream_that_is_silent_for_long_outlives_the_patience_of_a_proxy(
    gateway, run_id, monkeypatch
):
    monkeypatch.setattr(keepalive, "SILENT_SECONDS", 0.1)
    wire = Wire(gateway.port, patience=0.5)

    def events() -> Iterator[dict]:
        yield EVENT
        began = time.monotonic()
        wait_until(lambda: time.monotonic() > began + 1.5, "it is silent")
        yield EVENT

    try:
        assert Client(wire.url).stream(run_id, events()).last_sequence == 2
    finally:
        wire.close()


def test_a_stream_that_breaks_is_not_known(wire, store, run_id):
    def events() -> Iterator[dict]:
        yield EVENT
        wait_until(lambda: len(store.get_events(run_id)) == 1, "the first is stored")
        wire.cut()
        for _ in range(1000):
            yield EVENT

    with Client(wire.url) as client, pytest.raises(StoreUnavailable) as failed:
        client.stream(run_id, events())
    assert (failed.value.stored, failed.value.ingested) == (None, None)


# Following


def test_a_run_is_followed_from_its_history_to_its_end(client, run_id):
    client.add(run_id, "llm", "stream", 1)
    following = Following(client, run_id)
    following.wait_for_control("caught_up")
    client.add(run_id, "llm", "stream", 2)
    client.add(run_id, "lifecycle", "completed")
    following.wait_for(lambda: following.ended)
    assert [event for event in following.events if event.id] == client.get_events(run_id)


def test_an_ended_run_is_followed_in_an_instant(client, run_id):
    ids = client.add_many(
        run_id, [EVENT, {"event_category": "lifecycle", "event_action": "failed"}]
    )
    assert [event.id for event in client.follow(run_id)] == [*ids, None]
    assert [event.id for event in client.follow(run_id, ids[0])] == [ids[1], None]
    assert [event.id for event in client.follow(run_id, tail=1)] == [ids[1], None]
    assert [event.id for event in client.follow(run_id, categories=["x"])] == [ids[1], None]
    assert list(client.follow(run_id, ids[1])) == []
    assert list(client.follow(run_id, "latest")) == []


def test_a_follower_loses_and_doubles_nothing_over_restarts(its_gateway, store, run_id):
    client = Client(its_gateway.url)
    following = Following(client, run_id)
    late = Following(client, run_id, "latest")
    late.wait_for_control("caught_up")
    for start in (0, 100, 200):
        for number in range(start, start + 100):
            store.add(run_id, "llm", "stream", number)
        its_gateway.stop()
        store.add(run_id, "tool", "called", "meanwhile")
        its_gateway.start()
    store.add(run_id, "lifecycle", "completed")
    for each in (following, late):
        each.wait_for(lambda each=each: each.ended)
        events = [event for event in each.events if event.id]
        assert [event.sequence for event in events] == list(range(1, 305))
    assert [event.data for event in following.events if event.category == "llm"] == [*range(300)]


def test_a_follower_goes_on_when_its_connection_is_cut(wire, its_gateway, store, run_id):
    wire.port = its_gateway.port
    following = Following(Client(wire.url), run_id)
    for number in range(5):
        store.add(run_id, "llm", "stream", number)
        following.wait_for_data(*range(number + 1))
        wire.cut()
    store.add(run_id, "lifecycle", "completed")
    following.wait_for(lambda: following.ended)
    assert following.data == list(range(5))


def test_a_follower_waits_for_a_gateway_that_is_not_there_yet(
    redis_server, store, tmp_path, run_id
):
    gateway = GatewayServer(redis_server.url, tmp_path / "log")
    store.add(run_id, "lifecycle", "completed")
    following = Following(Client(gateway.url), run_id)
    gateway.start()
    try:
        following.wait_for(lambda: following.ended)
    finally:
        gateway.stop()


def test_a_follower_is_told_that_the_log_is_another_one(client, run_id):
    client.add(run_id, "lifecycle", "completed", "short")
    events = list(client.follow(run_id, "99999999999999-0"))
    assert [event.action for event in events] == ["reset", "completed", "caught_up"]
    assert events[0].data["requested"] == "99999999999999-0"


def test_a_bad_stream_is_refused(client, run_id):
    with pytest.raises(InvalidInput, match="tail"):
        list(client.follow(run_id, tail=-1))
