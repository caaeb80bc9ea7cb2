"""The ingest loop: several requests in one round trip, turns, and what ends them."""

import contextlib
import json
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import gevent
import pytest

from app.capacity import Capacity
from app.routes import json_body
from app.routes.admission import Admission, Reservation
from app.routes.ingest import loop as loop_module
from app.routes.ingest.ingest import Ingest
from app.routes.ingest.loop import ROUND_BYTES, IngestLoop
from app.streaming.errors import StoreUnavailable
from app.streaming.event_store import EventStore
from app.streaming.new_event import Append
from tests.server.test_nonblocking_body import CHUNKED, Connection

LAST_CHUNK = b"0\r\n\r\n"


def line(data: object) -> bytes:
    event = {"event_category": "llm", "event_action": "stream", "data": data}
    return json.dumps(event).encode() + b"\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class WatchedStore(EventStore):
    """A store that remembers what was appended together."""

    def __init__(self, **options):
        super().__init__(**options)
        self.rounds: list[list[Append]] = []
        self.error: Exception | None = None
        self.pause = 0.0

    def append_each(self, appends):
        self.rounds.append(appends)
        gevent.sleep(self.pause)  # as a round trip does
        if self.error:
            raise self.error
        return super().append_each(appends)


class Open:
    """A request that the ingest_loop reads, and its client."""

    def __init__(self, ingest_loop: IngestLoop, run_id: str):
        self.connection = Connection(CHUNKED)
        self.reservation = Reservation(Admission(4_194_304, Capacity(1, 1, 1, 1)))
        self.ingest = Ingest(run_id, None, self.reservation, 4_194_304, 262_144)
        self.body = self.connection.nonblocking()
        self.reading = gevent.spawn(ingest_loop.read, self.ingest, self.body)
        self.send = self.connection.client.sendall


@pytest.fixture
def watched(fake_client) -> WatchedStore:
    return WatchedStore(client=fake_client)


@pytest.fixture
def ingest_loop(watched) -> IngestLoop:
    return IngestLoop(watched, 0.02)


@contextmanager
def opened(ingest_loop: IngestLoop, number: int) -> Iterator[list[Open]]:
    requests = [Open(ingest_loop, f"run-{count}") for count in range(number)]
    gevent.sleep(0.01)
    try:
        yield requests
    finally:
        for request in requests:
            with request.connection:
                request.reading.kill()


def stored(store: EventStore, run_id: str) -> list:
    return [event.data for event in store.get_events(run_id)]


def is_empty(ingest_loop: IngestLoop) -> bool:
    return not (ingest_loop._open or ingest_loop._due or ingest_loop._partial)


def test_lines_of_several_requests_go_together(ingest_loop, watched):
    with opened(ingest_loop, 5) as requests:
        for request in requests:
            request.send(chunk(line(1)) + chunk(line(2)))
        gevent.sleep(0.05)
        assert [len(appends) for appends in watched.rounds] == [5]
        for request in requests:
            request.send(LAST_CHUNK)
            request.reading.get(timeout=5)
            assert (request.ingest.error, request.ingest.events) == (None, 2)
    assert is_empty(ingest_loop)


def test_a_line_after_silence_waits_for_nobody(watched):
    ingest_loop = IngestLoop(watched, flush_seconds=3600)
    with opened(ingest_loop, 1) as [request]:
        request.send(chunk(line(1)))
        gevent.sleep(0.1)
        assert stored(watched, "run-0") == [1]


def test_who_has_much_to_say_does_not_keep_the_others_waiting(ingest_loop, watched):
    many = b"".join(line(number) for number in range(5000))
    with opened(ingest_loop, 2) as [talker, other]:
        sending = gevent.spawn(talker.send, chunk(many) + LAST_CHUNK)
        gevent.sleep(0)
        other.send(chunk(line(1)) + LAST_CHUNK)
        other.reading.get(timeout=5)
        assert not talker.ingest.over
        talker.reading.get(timeout=20)
        sending.get()
        assert talker.ingest.events == 5000
    assert stored(watched, "run-0") == list(range(5000))


def test_an_unexpected_error_of_an_append_ends_those_whom_it_concerns(ingest_loop, watched):
    with opened(ingest_loop, 3) as [one, two, other]:
        watched.error = ZeroDivisionError()
        for request in (one, two):
            request.send(chunk(line(1)))
        for request in (one, two):
            request.reading.get(timeout=5)
            assert request.ingest.error is watched.error
            assert (request.ingest.unknown, request.ingest.line) == (1, 1)
        watched.error = None
        other.send(chunk(line(1)) + LAST_CHUNK)
        other.reading.get(timeout=5)
        assert other.ingest.events == 1
    assert is_empty(ingest_loop)


def test_an_unexpected_error_of_the_loop_leaves_nobody_waiting(ingest_loop, monkeypatch):
    def fail(*args):
        raise ZeroDivisionError

    with opened(ingest_loop, 3) as requests, monkeypatch.context() as patch:
        patch.setattr(ingest_loop, "_finish_turn", fail)
        requests[0].send(chunk(line(1)))
        for request in requests:
            request.reading.get(timeout=5)
            assert type(request.ingest.error) is ZeroDivisionError
    assert is_empty(ingest_loop)
    with opened(ingest_loop, 1) as [request]:
        request.send(chunk(line(1)) + LAST_CHUNK)
        request.reading.get(timeout=5)
        assert request.ingest.events == 1


def test_who_is_killed_while_it_waits_leaves_nothing_behind(ingest_loop, watched):
    with opened(ingest_loop, 2) as [killed, other]:
        killed.send(chunk(b"{"))
        gevent.sleep(0.05)
        killed.reading.kill()
        other.send(chunk(line(1)) + LAST_CHUNK)
        other.reading.get(timeout=5)
        assert other.ingest.events == 1
    assert is_empty(ingest_loop)


def test_who_is_killed_during_a_round_leaves_nothing_behind(ingest_loop, watched):
    with opened(ingest_loop, 1) as [request]:
        request.send(chunk(line(1)) * 100)
        while not watched.rounds:
            gevent.sleep(0)
        request.reading.kill()
        gevent.sleep(0.05)
    assert is_empty(ingest_loop)


def test_who_is_told_to_end_has_stored_what_had_come(ingest_loop, watched):
    with opened(ingest_loop, 1) as [request]:
        request.send(chunk(line(1)))
        gevent.sleep(0.01)  # it rests now
        request.send(chunk(line(2) + b"{"))
        request.ingest.end("draining")
        request.reading.get(timeout=5)
        assert request.ingest.error.code == 503
        assert (request.ingest.events, request.ingest.line) == (2, 3)
    assert stored(watched, "run-0") == [1, 2]


def test_who_is_told_to_end_while_lines_wait_is_ended_after_them(ingest_loop, watched):
    with opened(ingest_loop, 1) as [request]:
        request.send(chunk(line(1) * 1010))  # more than one append takes
        while not watched.rounds:
            gevent.sleep(0)
        assert request.ingest.has_lines
        request.ingest.end("draining")
        request.reading.get(timeout=5)
        assert request.ingest.error.code == 503
    assert stored(watched, "run-0") == [1] * 1010
    assert is_empty(ingest_loop)


def test_who_has_a_line_joins_the_next_round_however_many_have_much_to_say(ingest_loop, watched):
    flood = chunk(line("x" * 100) * 400) + LAST_CHUNK
    with opened(ingest_loop, 31) as [quiet, *flooders]:
        for flooder in flooders:
            flooder.send(flood)
        while len(watched.rounds) < 3:
            gevent.sleep(0)
        quiet.send(chunk(line("quiet")))
        rounds = len(watched.rounds)
        while not stored(watched, "run-0"):
            gevent.sleep(0)
        assert len(watched.rounds) <= rounds + 3
        assert sum(flooder.ingest.over for flooder in flooders) < 15
        for flooder in flooders:
            flooder.reading.get(timeout=30)
            assert flooder.ingest.events == 400


@pytest.mark.parametrize("framing", [b"1%b\r\n \r\n" % (b";a" * 4000), b"1\r\n \r\n" * 1300])
def test_a_round_takes_a_bounded_number_of_bytes_whatever_they_say(
    ingest_loop, framing, monkeypatch
):
    taken = []
    with opened(ingest_loop, 50) as requests:
        append_together = loop_module.append_together

        def noted(ingests, store):
            taken.append(sum(each.body.taken for each in requests if each.ingest in ingests))
            return append_together(ingests, store)

        monkeypatch.setattr(loop_module, "append_together", noted)
        for request in requests:
            request.send(framing * 8)
        with gevent.Timeout(20):
            while sum(taken) < 50 * 8 * len(framing):
                gevent.sleep(0.01)
    assert max(taken) <= 2 * ROUND_BYTES


def test_blank_lines_take_no_more_memory_than_their_bytes(ingest_loop):
    blank = chunk(b"\n" * 100_000 + b" ")
    tracemalloc.start()
    try:
        with opened(ingest_loop, 20) as requests:
            for request in requests:
                request.send(chunk(b" "))
            gevent.sleep(0.05)
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            sending = [gevent.spawn(request.send, blank) for request in requests]
            gevent.joinall(sending, timeout=20, raise_error=True)
            with gevent.Timeout(20):
                while any(request.ingest.line <= 100_000 for request in requests):
                    gevent.sleep(0.01)
            assert tracemalloc.get_traced_memory()[1] - before < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_line_that_came_while_nobody_read_is_in_time(ingest_loop, watched, monkeypatch):
    monkeypatch.setattr(json_body, "READ_SECONDS", 0.2)
    with opened(ingest_loop, 2) as [late, other]:
        late.send(chunk(line(1)[:5]))
        gevent.sleep(0.05)
        watched.pause = 3.0  # longer than a sweep is
        other.send(chunk(line(2)))
        gevent.sleep(0.05)
        late.send(chunk(line(1)[5:]) + LAST_CHUNK)
        late.reading.get(timeout=10)
        assert (late.ingest.error, late.ingest.events) == (None, 1)


def test_a_line_that_does_not_come_to_its_end_is_too_slow(ingest_loop, monkeypatch):
    monkeypatch.setattr(json_body, "READ_SECONDS", 0.2)
    with opened(ingest_loop, 1) as [slow]:
        slow.send(chunk(line(1) + b"{"))
        slow.reading.get(timeout=10)
        assert (slow.ingest.error.code, slow.ingest.events, slow.ingest.line) == (408, 1, 2)


@pytest.mark.parametrize("trickles", [False, True])
def test_trailers_that_do_not_come_are_too_slow_too(ingest_loop, monkeypatch, trickles):
    monkeypatch.setattr(json_body, "READ_SECONDS", 0.2)
    with opened(ingest_loop, 1) as [slow]:
        slow.send(chunk(line(1)) + b"0\r\n")
        while trickles and not slow.reading.ready():
            with contextlib.suppress(OSError):
                slow.send(b"x")
            gevent.sleep(0.05)
        slow.reading.get(timeout=10)
        assert (slow.ingest.error.code, slow.ingest.events) == (408, 1)


def test_who_waits_for_trailers_is_ended_with_the_others(ingest_loop):
    with opened(ingest_loop, 1) as [request]:
        request.send(chunk(line(1)) + b"0\r\n")
        gevent.sleep(0.05)
        request.ingest.end("draining")
        request.reading.get(timeout=5)
        assert (request.ingest.error.code, request.ingest.events) == (503, 1)


def test_a_redis_that_does_not_answer_is_told_to_all_who_wait_for_it(ingest_loop, watched):
    big = chunk(line("x" * 1000) * 100)
    with opened(ingest_loop, 41) as [silent, *requests]:
        watched.error = StoreUnavailable("Redis does not answer", None)
        for request in requests:
            request.send(big)
        for request in requests:
            request.reading.get(timeout=5)
            assert type(request.ingest.error) is StoreUnavailable
            members = request.ingest.error_members()
            assert (members["line"], members["stored"]) == (1, 0)
        assert len(watched.rounds) <= 2
        assert sum(request.ingest.unknown for request in requests) == sum(
            len(append.new_events) for appends in watched.rounds for append in appends
        )
        watched.error = None
        silent.send(chunk(line(1)) + LAST_CHUNK)
        silent.reading.get(timeout=5)
        assert silent.ingest.events == 1


def test_a_connection_that_cannot_be_watched_leaves_nothing_behind(ingest_loop, monkeypatch):
    with opened(ingest_loop, 1) as [request]:
        with monkeypatch.context() as patch:
            patch.setattr(ingest_loop._selector, "register", lambda *args: 1 / 0)
            refused = Open(ingest_loop, "refused")
            with pytest.raises(ZeroDivisionError):
                refused.reading.get(timeout=5)
        request.send(chunk(line(1)) + LAST_CHUNK)
        request.reading.get(timeout=5)
        assert request.ingest.events == 1
        refused.connection.__exit__()
    assert is_empty(ingest_loop)


def test_nothing_is_read_while_lines_wait_to_be_stored(ingest_loop, watched):
    """A slow Redis then slows the producer down, and the bytes held are bounded."""
    peak = 0
    piece = chunk(line("x" * 1000) * 100)
    with opened(ingest_loop, 1) as [request]:
        sending = gevent.spawn(lambda: [request.send(piece) for _ in range(100)])
        while not sending.ready():
            peak = max(peak, request.reservation.bytes)
            gevent.sleep(0)
        request.send(LAST_CHUNK)
        request.reading.get(timeout=20)
        assert request.ingest.events == 10_000
    assert 0 < peak <= 64 * 1024 + 1100
    assert request.reservation.bytes == 0
