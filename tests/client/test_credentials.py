"""The token of a client: where it goes, when the client asks for another one, and who sees it."""

import json
import logging
import os
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import BinaryIO, Self

import pytest

from app.client import Client, transport
from app.streaming.errors import InvalidInput, NotAllowed, ReentrantCall, StoreUnavailable
from tests.both_clients import replace_pauses
from tests.client.fake_gateway import (
    FakeGateway,
    Request,
    problem,
    response,
    run_state,
    stored,
    stream,
)
from tests.client.test_follower import OVER, event
from tests.client.test_foreign_responses import CALLS

EVENT = {"event_category": "llm", "event_action": "stream"}
EXPIRING = event(None, "gateway.expiring")
INGESTED = response(200, {"stored": 1, "last_id": "1-0", "last_sequence": 1})
SECRET = "secret.b64token-of/the+user=="
CALLS_BUT_STREAM = [name for name in CALLS if name != "stream"]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    replace_pauses(monkeypatch, lambda seconds: None)


def answer(request: Request) -> bytes:
    """Answer any request as a gateway without events does."""
    if request.path.endswith("/stream"):
        return OVER
    if request.method == "GET":
        return response(200, {"events": [], "runs": [], "next": None, **run_state()})
    if "ndjson" in request.headers["content-type"]:
        return INGESTED
    return stored(request)


def only(token: str) -> Callable[[Request], bytes]:
    """Answer 401 to a request with another token."""

    def answer_or_refuse(request: Request) -> bytes:
        accepted = request.headers.get("authorization") == f"Bearer {token}"
        return answer(request) if accepted else problem(401)

    return answer_or_refuse


def sent(gateway: FakeGateway) -> list[str | None]:
    return gateway.of_requests(lambda request: request.headers.get("authorization"))


class Numbered:
    """Returns the tokens t1, t2 and so on, and counts them."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> str:
        self.count += 1
        return f"t{self.count}"


# Sending


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("token", [SECRET, lambda: SECRET], ids=["str", "callable"])
def test_a_token_is_sent_with_every_request(call, token):
    with FakeGateway([only(SECRET)]) as gateway, Client(gateway.url, token=token) as client:
        CALLS[call](client)
    assert sent(gateway) == [f"Bearer {SECRET}"]


@pytest.mark.parametrize("call", CALLS)
def test_without_a_token_nothing_is_sent(call):
    with FakeGateway([answer]) as gateway, Client(gateway.url) as client:
        CALLS[call](client)
    assert sent(gateway) == [None]


def test_a_function_is_called_at_the_first_need_and_then_no_more():
    token = Numbered()
    with FakeGateway([answer]) as gateway, Client(gateway.url, token=token) as client:
        assert token.count == 0
        for call in CALLS.values():
            call(client)
    assert token.count == 1


@pytest.mark.parametrize(
    "token", ["", "p q", "p\r\nq", "pq\n", "\xe9", "٣", "=a", "a=b", '"ab"', "a,b", b"ab", 5, True]
)
def test_what_is_no_token_is_refused_and_not_shown(token):
    with pytest.raises(InvalidInput, match="RFC 6750") as refused:
        Client("http://127.0.0.1:1", token=token)
    assert refused.value.field == "token"
    assert type(token) is not str or not token or token not in str(refused.value)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("returned", ["p q", None])
def test_what_a_function_returns_is_checked_too(call, returned):
    with FakeGateway([answer]) as gateway:
        client = Client(gateway.url, token=lambda: returned)
        with pytest.raises(InvalidInput, match="RFC 6750"):
            CALLS[call](client)
    assert gateway.requests == []


# Refused tokens


@pytest.mark.parametrize("call", CALLS_BUT_STREAM)
def test_a_refused_token_is_asked_for_once_more_and_the_request_repeated(call):
    with FakeGateway([only("t2")]) as gateway, Client(gateway.url, token=Numbered()) as client:
        CALLS[call](client)
        CALLS[call](client)
    assert sent(gateway) == ["Bearer t1", "Bearer t2", "Bearer t2"]
    first, second, _ = gateway.of_requests(
        lambda each: (each.path, each.query, each.body, each.headers.get("idempotency-key"))
    )
    assert first == second


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("status", "token", "requests"),
    [(401, "t1", 1), (401, None, 1), (401, Numbered, 2), (403, "t1", 1), (403, Numbered, 1)],
)
def test_a_request_that_stays_refused_is_an_error(call, status, token, requests):
    token = token() if token is Numbered else token
    with FakeGateway([problem(status)]) as gateway:
        client = Client(gateway.url, token=token)
        with pytest.raises(NotAllowed) as failed:
            CALLS[call](client)
    assert (failed.value.status, failed.value.detail) == (status, "so")
    assert len(gateway.requests) == (1 if call == "stream" else requests)


@pytest.mark.parametrize("call", CALLS)
def test_a_page_of_a_proxy_with_the_status_is_the_same_error(call):
    with FakeGateway([response(403, b"<html>")]) as gateway, pytest.raises(NotAllowed):
        CALLS[call](Client(gateway.url))


def test_a_request_that_is_repeated_for_another_reason_may_be_refused_in_between():
    script = [problem(503), problem(401), problem(503), stored]
    with FakeGateway(script) as gateway, Client(gateway.url, token=Numbered()) as client:
        assert client.add(1, "llm", "stream") == "1-0"
    assert sent(gateway) == ["Bearer t1", "Bearer t1", "Bearer t2", "Bearer t2"]


def test_the_error_of_a_function_reaches_the_caller_and_the_next_call_asks_again():
    failures = [OSError("no issuer"), KeyError("token")]

    def token() -> str:
        if failures:
            raise failures.pop(0)
        return "t1"

    with FakeGateway([answer]) as gateway, Client(gateway.url, token=token) as client:
        for kind in (OSError, KeyError):
            with pytest.raises(kind):
                client.add(1, "llm", "stream")
        client.add(1, "llm", "stream")
    assert sent(gateway) == ["Bearer t1"]


def test_the_error_of_a_function_that_is_asked_again_reaches_the_caller_too():
    outcomes = iter(["t1"])

    def token() -> str:
        for outcome in outcomes:
            return outcome
        raise OSError("no issuer")

    with FakeGateway([problem(401)]) as gateway:
        client = Client(gateway.url, token=token)
        with pytest.raises(OSError, match="no issuer"):
            client.add(1, "llm", "stream")
    assert sent(gateway) == ["Bearer t1"]


@pytest.mark.parametrize("call", CALLS_BUT_STREAM)
def test_a_function_that_finds_its_issuer_away_for_a_while_is_called_again(call):
    outcomes: Iterator[Exception | str] = iter([StoreUnavailable("no issuer"), "t1"])

    def token() -> str:
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    with FakeGateway([answer]) as gateway, Client(gateway.url, token=token) as client:
        CALLS[call](client)
    assert sent(gateway) == ["Bearer t1"]


def test_the_events_of_an_appender_that_is_refused_are_not_lost_silently():
    with FakeGateway([problem(401)]) as gateway, Client(gateway.url, token=Numbered()) as client:
        run = client.appender(1)
        run.emit("llm", "stream")
        with pytest.raises(NotAllowed):
            run.flush()
        assert (run.stored, run.not_stored, run.has_final_error) == (0, 1, True)
        with pytest.raises(NotAllowed):
            run.emit("llm", "stream")
        with pytest.raises(NotAllowed):
            run.close()
    assert len(gateway.requests) == 2


# Streams of events


class EarlyGateway:
    """Answers each request but the last before its body has ended, by a script.

    It answers after the headers, or after the line of the body that has the text `after`.
    `responded` is set once the first response was sent. `bodies` has what came of each body.
    """

    def __init__(self, script: list[bytes], after: bytes = b"") -> None:
        self._script = script
        self._after = after
        self.responded = threading.Event()
        self.bodies: list[bytes] = []
        self.tokens: list[str] = []

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(20)

    def _serve(self) -> None:
        for given in self._script:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # the test is over
                return
            with connection, connection.makefile("rb") as reader:
                self._read_head(reader)
                if given is self._script[-1]:
                    self.bodies.append(_read_chunks(reader))
                    connection.sendall(given)
                else:
                    begun = b""
                    while self._after not in begun:
                        begun += reader.readline()
                    connection.sendall(given)
                    self.responded.set()
                    self.bodies.append(begun + reader.read())  # until the client hangs up

    def _read_head(self, reader: BinaryIO) -> None:
        while (line := reader.readline()) != b"\r\n":
            if line.lower().startswith(b"authorization:"):
                self.tokens.append(line.split()[-1].decode())


def _read_chunks(reader: BinaryIO) -> bytes:
    body = b""
    while size := int(reader.readline(), 16):
        body += reader.read(size + 2)[:-2]
    return body


def numbered_events(count: int, gateway: EarlyGateway, wait_before: int) -> Iterator[dict]:
    """Yield events; before one of them wait until the gateway has responded."""
    for number in range(count):
        if number == wait_before:
            assert gateway.responded.wait(20)
        yield {**EVENT, "data": number}


@pytest.mark.parametrize("count", [1, 3])
def test_a_stream_of_which_nothing_was_sent_is_repeated_whole(count):
    with EarlyGateway([problem(401), INGESTED]) as gateway:
        events = numbered_events(count, gateway, 0)
        assert Client(gateway.url, token=Numbered()).stream(1, events).stored == 1
    assert gateway.tokens == ["t1", "t2"]
    assert gateway.bodies[0] == b""
    lines = [json.loads(line) for line in gateway.bodies[1].split(b"\n") if line]
    assert [line["data"] for line in lines] == [*range(count)]


def test_a_stream_whose_new_token_is_refused_too_is_an_error():
    script = [problem(401), problem(401), INGESTED]
    with EarlyGateway(script) as gateway, pytest.raises(NotAllowed):
        Client(gateway.url, token=Numbered()).stream(1, numbered_events(1, gateway, 0))
    assert gateway.tokens == ["t1", "t2"]


def test_a_stream_of_which_an_event_was_sent_is_not_repeated_but_the_next_has_a_new_token():
    with EarlyGateway([problem(401), INGESTED], after=b"llm") as gateway:
        client = Client(gateway.url, token=Numbered())
        with pytest.raises(NotAllowed):
            client.stream(1, numbered_events(2, gateway, 1))
        client.stream(1, [EVENT])
    assert gateway.tokens == ["t1", "t2"]


def test_a_stream_with_a_token_that_cannot_change_is_not_repeated():
    with EarlyGateway([problem(401), INGESTED]) as gateway, pytest.raises(NotAllowed):
        Client(gateway.url, token="t1").stream(1, numbered_events(1, gateway, 0))
    assert gateway.tokens == ["t1"]


def test_a_stream_that_is_refused_in_the_middle_says_what_was_stored():
    members = {"stored": 5, "last_id": "1-4", "last_sequence": 5, "line": 6}
    with FakeGateway([problem(401, **members)]) as gateway, pytest.raises(NotAllowed) as failed:
        Client(gateway.url, token=Numbered()).stream(1, [EVENT])
    assert failed.value.ingested is not None
    assert failed.value.ingested.stored == 5


# Followers


def test_a_follower_asks_anew_when_its_token_expires_and_shows_nothing_of_it():
    script = [stream(event(1), EXPIRING), OVER]
    with FakeGateway(script) as gateway, Client(gateway.url, token=Numbered()) as client:
        assert [each.id for each in client.follow(1)] == ["1-0"]
    assert sent(gateway) == ["Bearer t1", "Bearer t2"]
    assert gateway.requests[1].headers["last-event-id"] == "1-0"


@pytest.mark.parametrize("token", ["t1", None])
def test_without_a_function_a_follower_shows_nothing_of_it_either(token):
    script = [stream(event(1), EXPIRING, event(2)), problem(401)]
    with FakeGateway(script) as gateway, Client(gateway.url, token=token) as client:
        events = client.follow(1)
        assert [next(events).id, next(events).id] == ["1-0", "2-0"]
        with pytest.raises(NotAllowed):
            next(events)
    assert gateway.requests[1].headers["last-event-id"] == "2-0"


def test_a_follower_whose_token_has_expired_asks_for_one_and_goes_on():
    script = [stream(event(1)), problem(401), stream(event(2)), OVER]
    with FakeGateway(script) as gateway, Client(gateway.url, token=Numbered()) as client:
        assert [each.id for each in client.follow(1)] == ["1-0", "2-0"]
    assert sent(gateway) == ["Bearer t1", "Bearer t1", "Bearer t2", "Bearer t2"]
    cursors = gateway.of_requests(lambda request: request.headers["last-event-id"])
    assert cursors == ["earliest", "1-0", "1-0", "2-0"]


@pytest.mark.parametrize(("refusals", "requests"), [([401, 401], 3), ([403], 2), ([401, 403], 3)])
def test_a_follower_that_is_refused_at_a_reconnect_is_an_error(refusals, requests):
    script = [stream(event(1)), *map(problem, refusals), stream(event(2))]
    with FakeGateway(script) as gateway, Client(gateway.url, token=Numbered()) as client:
        events = client.follow(1)
        assert next(events).id == "1-0"
        with pytest.raises(NotAllowed) as failed:
            next(events)
    assert failed.value.status == refusals[-1]
    assert len(gateway.requests) == requests


@pytest.mark.parametrize("is_same", [False, True], ids=["another token", "the same token"])
def test_followers_whose_token_expires_share_the_next_one(is_same):
    """Also one that is told later, when another has the new token already."""
    asked: list[int] = []

    def token() -> str:
        asked.append(1)
        return "t1" if is_same else f"t{len(asked)}"

    script = [stream(event(1), EXPIRING)] * 5 + [OVER]
    with FakeGateway(script) as gateway, Client(gateway.url, token=token) as client:
        followers = [client.follow(1) for _ in range(5)]
        assert [next(each).id for each in followers] == ["1-0"] * 5
        for each in followers:
            assert list(each) == []
    assert len(asked) == 2


# Sharing

only_client = pytest.mark.only_client(reason="tests/async_client has the same for tasks")


def in_threads(count: int, call: Callable[[], object]) -> list[object]:
    """Call in threads at once, and return each result or error."""
    outcomes: list[object] = []

    def run() -> None:
        try:
            outcomes.append(call())
        except Exception as error:
            outcomes.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return outcomes


@only_client
@pytest.mark.parametrize("is_same", [False, True], ids=["another token", "the same token"])
def test_all_threads_that_were_refused_share_one_new_token(monkeypatch, is_same):
    """Also if the function returns the same token, which the gateway accepts by now."""
    asked: list[int] = []
    refused, before = threading.Barrier(20), threading.local()

    def token() -> str:
        asked.append(1)
        return "t1" if is_same else f"t{len(asked)}"

    class Gate(transport.Session):
        """Gives every thread its first response when all have theirs."""

        def request(self, *args, **options):
            given = super().request(*args, **options)
            if not hasattr(before, "was_here"):
                before.was_here = True
                refused.wait(20)
            return given

    monkeypatch.setattr(transport, "Session", Gate)
    with FakeGateway([*[problem(401)] * 20, stored]) as gateway:
        client = Client(gateway.url, token=token)
        outcomes = in_threads(20, lambda: client.add(1, "llm", "stream"))
    assert outcomes == ["1-0"] * 20
    assert len(asked) == 2


class CountedLock:
    """A lock that counts who waits for it, or holds it."""

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self.arrived = threading.Semaphore(0)

    def __enter__(self) -> None:
        self.arrived.release()
        self._lock.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self._lock.release()


@only_client
def test_all_threads_that_wait_for_a_function_share_its_error():
    """An issuer that is away for 10 seconds takes 10 seconds, not 10 for each thread."""
    asked: list[int] = []

    def token() -> str:
        asked.append(1)
        for _ in range(10):
            assert lock.arrived.acquire(timeout=20)
        raise OSError("no issuer")

    client = Client("http://127.0.0.1:1", token=token)
    credentials = client._transport.credentials
    lock = credentials._lock = CountedLock(credentials._lock)
    outcomes = in_threads(10, lambda: client.state(1))
    assert [(type(error), str(error)) for error in outcomes] == [(OSError, "no issuer")] * 10
    assert len(asked) == 1


READS = ["follow", "get_events", "get_events_after", "state"]


@only_client
@pytest.mark.parametrize("call", ["add", "add_many", "stream", *READS])
@pytest.mark.parametrize("inner", ["add", "add_many", "stream", *READS])
def test_a_function_that_uses_its_own_client_gets_an_error_and_no_deadlock(call, inner):
    """So does a signal handler that interrupts the function: it runs on top of it, too."""

    def token() -> str:
        CALLS[inner](client)
        return "t1"

    with FakeGateway([answer]) as gateway:
        client = Client(gateway.url, token=token)
        with pytest.raises(ReentrantCall):
            CALLS[call](client)
    assert gateway.requests == []


@only_client
@pytest.mark.parametrize("call", ["stream", "state"])
def test_a_child_that_was_forked_while_another_thread_asks_can_ask_itself(call):
    asking, go_on, parent = threading.Event(), threading.Event(), os.getpid()

    def token() -> str:
        if os.getpid() != parent:
            return "child"
        asking.set()
        assert go_on.wait(20)
        return "parent"

    with FakeGateway([answer]) as gateway:
        client = Client(gateway.url, token=token)
        thread = threading.Thread(target=client.state, args=(1,))
        thread.start()
        assert asking.wait(20)
        child = os.fork()
        if child == 0:
            try:
                CALLS[call](client)
            finally:
                os._exit(0)
        try:
            os.waitpid(child, 0)
        finally:
            go_on.set()
            thread.join(20)
    assert sent(gateway) == ["Bearer child", "Bearer parent"]


# Who sees it


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 418, 422, 429, 500])
def test_no_error_and_no_log_line_has_the_token(caplog, call, status):
    """Not even if the server sends it back."""
    echo = f"no: Bearer {SECRET}"
    given = problem(status, detail=echo, errors=[{"field": "data", "detail": echo}])
    caplog.set_level(logging.DEBUG)
    # A follower repeats what may pass.
    with FakeGateway([given, None, given, problem(404)]) as gateway:
        client = Client(gateway.url, token=lambda: SECRET, retry_seconds=0)
        texts = [repr(client), repr(vars(client)), repr(client._transport.credentials._bearer)]
        for _ in range(2):
            try:
                CALLS[call](client)
            except Exception as error:
                texts += [repr(error), *traceback.format_exception(error), repr(vars(error))]
    assert SECRET in str(sent(gateway))
    assert SECRET not in caplog.text + "".join(texts)


def test_a_short_token_does_not_black_out_the_words_of_an_error():
    given = problem(403, detail="not a run of yours")
    with FakeGateway([given]) as gateway, pytest.raises(NotAllowed) as failed:
        Client(gateway.url, token="a").state(1)
    assert failed.value.detail == "not a run of yours"
