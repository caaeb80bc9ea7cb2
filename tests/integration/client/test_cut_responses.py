"""A response of a real gateway that is cut off at any byte is a lost response."""

import contextlib
import socket
from collections.abc import Callable, Iterator
from urllib.parse import urlencode

import pytest

from app.client import Client, Ingested
from app.streaming.errors import RunEnded, StoreUnavailable
from app.streaming.new_event import NewEvent
from tests.both_clients import replace_pauses
from tests.client.fake_gateway import FakeGateway, Request
from tests.integration.client.proxy import Proxy
from tests.raw_http import read_to_end

EVENT = {"event_category": "llm", "event_action": "stream"}

RESETS = pytest.mark.parametrize("reset", [False, True], ids=["end", "reset"])


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    replace_pauses(monkeypatch, lambda seconds: None)


@pytest.fixture
def client(proxy, client_class) -> Iterator[Client]:
    with client_class(proxy.url) as client:
        yield client


def append_in_background(client: Client, run_id: str) -> object:
    with client.appender(run_id) as run:
        run.emit("llm", "stream")
    return run.stored, run.last_id, run.last_sequence


def is_refused(client: Client, run_id: str) -> bool:
    with pytest.raises(RunEnded):
        client.add(run_id, "llm", "stream")
    return True


def follow(client: Client, run_id: str, cursor: str = "earliest") -> list[str]:
    return [event.id for event in client.follow(run_id, cursor) if event.id]


# Each call, and whether its run has ended.
CALLS: dict[str, tuple[Callable[[Client, str], object], bool]] = {
    "add": (lambda client, run_id: client.add(run_id, "llm", "stream"), False),
    "add_many": (lambda client, run_id: client.add_many(run_id, [EVENT] * 2), False),
    "appender": (append_in_background, False),
    "get_events": (lambda client, run_id: client.get_events(run_id), False),
    "state": (lambda client, run_id: client.state(run_id), False),
    "state of no log": (lambda client, run_id: client.state(f"no-{run_id}"), False),
    "refused": (is_refused, True),
    "follow": (follow, True),
}


class Genuine:
    """Passes requests on to a gateway, and keeps its responses."""

    def __init__(self, port: int):
        self.responses: list[bytes] = []
        self._port = port

    def __call__(self, request: Request) -> bytes:
        headers = {**request.headers, "connection": "close"}
        headers |= {"content-length": str(len(request.body))}
        headers.pop("transfer-encoding", None)
        lines = [f"{request.method} {request.path}?{urlencode(request.query, True)} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        with socket.create_connection(("127.0.0.1", self._port), 20) as connection:
            connection.sendall("\r\n".join([*lines, "", ""]).encode() + request.body)
            self.responses.append(read_to_end(connection))
        return self.responses[-1]


@pytest.mark.parametrize("name", CALLS)
def test_a_response_that_is_cut_at_any_byte_is_asked_for_again(gateway, store, run_id, name):
    call, ended = CALLS[name]
    store.add(run_id, "llm", "stream")
    if ended:
        store.add(run_id, "lifecycle", "completed")
    genuine = Genuine(gateway.port)
    with FakeGateway([genuine]) as fake, Client(fake.url) as client:
        expected = call(client, run_id)
    [whole] = genuine.responses
    # A follower goes on from its cursor, so that the second response is another one.
    second = genuine if name == "follow" else whole
    script = [each for end in range(len(whole)) for each in (whole[:end], second)]
    with FakeGateway(script) as fake, Client(fake.url) as client:
        for _ in range(len(whole)):
            assert call(client, run_id) == expected
    assert len(fake.requests) == 2 * len(whole)


def test_a_response_without_a_body_that_is_cut_at_any_byte_is_asked_for_again(
    gateway, store, run_id
):
    last_id = store.add(run_id, "lifecycle", "completed")
    genuine = Genuine(gateway.port)
    with FakeGateway([genuine]) as fake:
        assert follow(Client(fake.url), run_id, last_id) == []
    [whole] = genuine.responses
    assert whole.startswith(b"HTTP/1.1 204")
    script = [each for end in range(len(whole)) for each in (whole[:end], whole)]
    with FakeGateway(script) as fake, Client(fake.url) as client:
        for _ in range(len(whole)):
            assert follow(client, run_id, last_id) == []
    assert len(fake.requests) == 2 * len(whole)


def test_a_stream_whose_response_is_cut_at_any_byte_raises_that_nobody_knows(gateway, run_id):
    genuine = Genuine(gateway.port)
    with FakeGateway([genuine]) as fake:
        assert Client(fake.url).stream(run_id, [EVENT]).stored == 1
    [whole] = genuine.responses
    with FakeGateway([whole[:end] for end in range(len(whole))]) as fake:
        for _ in range(len(whole)):
            with pytest.raises(StoreUnavailable) as failed:
                Client(fake.url).stream(run_id, [EVENT])
            assert (failed.value.stored, failed.value.ingested) == (None, None)


# The whole way: a proxy cuts the responses, and the gateway knows what was stored.


def cut_here_and_there(proxy: Proxy, reset: bool, call: Callable[[], object]) -> None:
    """Make the call again and again, each time with a response that is cut some bytes later."""
    length = 0
    while True:
        proxy.cut_response_after(length, reset=reset)
        call()
        if not proxy.has_cut_response:
            assert length > 100, "a whole response is longer"
            return
        length += 11 if reset else 13


@RESETS
@pytest.mark.parametrize("events", [1, 2])
def test_appends_are_repeated_and_stored_once(proxy, client, store, run_id, reset, events):
    ids: list[str] = []

    def append() -> None:
        ids.extend(client.append_new(run_id, [NewEvent.of("llm", "stream")] * events).ids())

    cut_here_and_there(proxy, reset, append)
    assert [event.id for event in store.get_events(run_id)] == ids


@RESETS
def test_an_appender_stores_each_event_once(proxy, client, store, run_id, reset):
    run, emitted = client.appender(run_id), []

    def emit() -> None:
        emitted.append(len(emitted))
        run.emit("llm", "stream", emitted[-1])
        run.flush()

    cut_here_and_there(proxy, reset, emit)
    run.close()
    assert [event.data for event in store.get_events(run_id)] == emitted
    assert run.stored == len(emitted)


@RESETS
def test_a_follower_goes_on_and_sees_each_event_once(proxy, client, store, run_id, reset):
    store.add(run_id, "llm", "stream")
    store.add(run_id, "lifecycle", "completed")
    ids = [event.id for event in store.get_events(run_id)]

    def follow_all() -> None:
        assert follow(client, run_id) == ids

    cut_here_and_there(proxy, reset, follow_all)


@RESETS
def test_a_stream_raises_that_nobody_knows(proxy, client, store, run_id, reset):
    results: list[Ingested | None] = []

    def stream() -> None:
        with contextlib.suppress(StoreUnavailable):
            results.append(client.stream(run_id, [EVENT]))
            return
        results.append(None)

    cut_here_and_there(proxy, reset, stream)
    *cut, whole = results
    assert not any(cut)
    assert whole.stored == 1
    assert len(store.get_events(run_id)) == len(results)
    proxy.cut_response_after(100, reset=reset)
    with pytest.raises(StoreUnavailable) as failed:
        client.stream(run_id, [EVENT])
    assert (failed.value.stored, failed.value.ingested) == (None, None)
