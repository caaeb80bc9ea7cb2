"""The ingest loop: it appends the lines of several requests in one round trip, in turns."""

import contextlib
import json
from collections.abc import Iterator
from contextlib import contextmanager

import gevent.event
import pytest

from app.capacity import Capacity
from app.routes.admission import Admission, Reservation
from app.routes.ingest import loop as loop_module
from app.routes.ingest.ingest import Ingest
from app.routes.ingest.json_lines import JsonLines
from app.routes.ingest.loop import ROUND_BYTES, IngestLoop, IngestLoops
from app.routes.writing import json_body
from app.streaming.errors import StoreUnavailable
from app.streaming.event_store import EventStore
from app.streaming.new_event import Append
from tests.run_program import run_program
from tests.server.gunicorn_connection import CHUNKED, GunicornConnection

LAST_CHUNK = b"0\r\n\r\n"

# What the program ingest_blank_lines sends: so many lines in each of so many requests.
BLANK_REQUESTS, BLANK_LINES = 12, 100_000


def line(data: object) -> bytes:
    event = {"event_category": "llm", "event_action": "stream", "data": data}
    return json.dumps(event).encode() + b"\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class RecordingStore(EventStore):
    """A store that records the appends of each round trip, and may be slow or fail."""

    def __init__(self, **options):
        super().__init__(**options)
        self.rounds: list[list[Append]] = []
        self.error: Exception | None = None
        self.pause = 0.0

    def append_each(self, appends):
        self.rounds.append(appends)
        gevent.sleep(self.pause)  # a round trip lets other greenlets run too
        if self.error:
            raise self.error
        return super().append_each(appends)


class OpenRequest:
    """A request that the loop reads in a greenlet, and the connection of its client."""

    def __init__(self, ingest_loop: IngestLoop | IngestLoops, run_id: str):
        self.connection = GunicornConnection(CHUNKED)
        self.admission = Admission(4_194_304, Capacity(1, 1, 1, 1))
        self.reservation = Reservation(self.admission)
        self.ingest = Ingest(run_id, None, self.reservation, JsonLines(262_144), 4_194_304)
        self.body = self.connection.nonblocking_body()
        self.reading = gevent.spawn(ingest_loop.read, self.ingest, self.body)
        self.send = self.connection.client.sendall


@pytest.fixture
def recording_store(fake_client) -> RecordingStore:
    return RecordingStore(client=fake_client)


@pytest.fixture
def ingest_loop(recording_store) -> IngestLoop:
    return IngestLoop(recording_store)


@contextmanager
def open_requests(
    ingest_loop: IngestLoop | IngestLoops, number: int
) -> Iterator[list[OpenRequest]]:
    requests = [OpenRequest(ingest_loop, f"run-{count}") for count in range(number)]
    gevent.sleep(0.01)
    try:
        yield requests
    finally:
        for request in requests:
            with request.connection:
                request.reading.kill()


def stored_data(store: EventStore, run_id: str) -> list:
    return [event.data for event in store.get_events(run_id)]


def is_empty(ingest_loop: IngestLoop) -> bool:
    return not (ingest_loop._open or ingest_loop._due or ingest_loop._partial)


def test_lines_of_several_requests_are_appended_in_one_round_trip(ingest_loop, recording_store):
    with open_requests(ingest_loop, 5) as requests:
        for request in requests:
            request.send(chunk(line(1)) + chunk(line(2)))
        gevent.sleep(0.05)
        assert [len(appends) for appends in recording_store.rounds] == [5]
        for request in requests:
            request.send(LAST_CHUNK)
            request.reading.get(timeout=5)
            assert (request.ingest.error, request.ingest.events) == (None, 2)
    assert is_empty(ingest_loop)


def test_a_line_after_silence_is_appended_at_once(recording_store):
    ingest_loop = IngestLoop(recording_store)
    with open_requests(ingest_loop, 1) as [request]:
        request.send(chunk(line(1)))
        gevent.sleep(0.1)
        assert stored_data(recording_store, "run-0") == [1]


def test_a_large_producer_does_not_delay_a_small_one(ingest_loop, recording_store):
    many = b"".join(line(number) for number in range(5000))
    with open_requests(ingest_loop, 2) as [large, small]:
        sending = gevent.spawn(large.send, chunk(many) + LAST_CHUNK)
        gevent.sleep(0)
        small.send(chunk(line(1)) + LAST_CHUNK)
        small.reading.get(timeout=5)
        assert not large.ingest.over
        large.reading.get(timeout=20)
        sending.get()
        assert large.ingest.events == 5000
    assert stored_data(recording_store, "run-0") == list(range(5000))


def test_an_unexpected_error_of_an_append_ends_only_the_requests_in_it(
    ingest_loop, recording_store
):
    with open_requests(ingest_loop, 3) as [one, two, other]:
        recording_store.error = ZeroDivisionError()
        for request in (one, two):
            request.send(chunk(line(1)))
        for request in (one, two):
            request.reading.get(timeout=5)
            assert request.ingest.error is recording_store.error
            assert (request.ingest.unknown, request.ingest.line) == (1, 1)
        recording_store.error = None
        other.send(chunk(line(1)) + LAST_CHUNK)
        other.reading.get(timeout=5)
        assert other.ingest.events == 1
    assert is_empty(ingest_loop)


def test_an_unexpected_error_of_the_loop_ends_all_requests(ingest_loop, monkeypatch):
    def fail(*args):
        raise ZeroDivisionError

    with open_requests(ingest_loop, 3) as requests, monkeypatch.context() as patch:
        patch.setattr(ingest_loop, "_finish_turn", fail)
        requests[0].send(chunk(line(1)))
        for request in requests:
            request.reading.get(timeout=5)
            assert type(request.ingest.error) is ZeroDivisionError
    assert is_empty(ingest_loop)
    with open_requests(ingest_loop, 1) as [request]:
        request.send(chunk(line(1)) + LAST_CHUNK)
        request.reading.get(timeout=5)
        assert request.ingest.events == 1


def test_the_loop_forgets_a_request_that_is_killed_while_it_waits(ingest_loop, recording_store):
    with open_requests(ingest_loop, 2) as [killed, other]:
        killed.send(chunk(b"{"))
        gevent.sleep(0.05)
        killed.reading.kill()
        other.send(chunk(line(1)) + LAST_CHUNK)
        other.reading.get(timeout=5)
        assert other.ingest.events == 1
    assert is_empty(ingest_loop)


def test_the_loop_forgets_a_request_that_is_killed_during_a_round(ingest_loop, recording_store):
    with open_requests(ingest_loop, 1) as [request]:
        request.send(chunk(line(1)) * 100)
        while not recording_store.rounds:
            gevent.sleep(0)
        request.reading.kill()
        gevent.sleep(0.05)
    assert is_empty(ingest_loop)


def test_a_request_that_the_worker_ends_has_stored_every_line_that_arrived(
    ingest_loop, recording_store
):
    with open_requests(ingest_loop, 1) as [request]:
        request.send(chunk(line(1)))
        gevent.sleep(0.01)  # the loop rests now
        request.send(chunk(line(2) + b"{"))
        request.ingest.end("draining")
        request.reading.get(timeout=5)
        assert request.ingest.error.code == 503
        assert (request.ingest.events, request.ingest.line) == (2, 3)
    assert stored_data(recording_store, "run-0") == [1, 2]


def test_a_request_that_the_worker_ends_first_stores_its_waiting_lines(
    ingest_loop, recording_store
):
    with open_requests(ingest_loop, 1) as [request]:
        request.send(chunk(line(1) * 1010))  # more lines than one append takes
        while not recording_store.rounds:
            gevent.sleep(0)
        assert request.ingest.has_lines
        request.ingest.end("draining")
        request.reading.get(timeout=5)
        assert request.ingest.error.code == 503
    assert stored_data(recording_store, "run-0") == [1] * 1010
    assert is_empty(ingest_loop)


def test_a_small_producer_is_served_within_three_rounds_among_many_large_ones(
    ingest_loop, recording_store
):
    many_lines = chunk(line("x" * 100) * 400) + LAST_CHUNK
    with open_requests(ingest_loop, 31) as [small, *large_producers]:
        for producer in large_producers:
            producer.send(many_lines)
        while len(recording_store.rounds) < 3:
            gevent.sleep(0)
        small.send(chunk(line("small")))
        rounds = len(recording_store.rounds)
        while not stored_data(recording_store, "run-0"):
            gevent.sleep(0)
        assert len(recording_store.rounds) <= rounds + 3
        assert sum(producer.ingest.over for producer in large_producers) < 15
        for producer in large_producers:
            producer.reading.get(timeout=30)
            assert producer.ingest.events == 400


@pytest.mark.parametrize("framing", [b"1%b\r\n \r\n" % (b";a" * 4000), b"1\r\n \r\n" * 1300])
def test_a_round_takes_a_bounded_number_of_bytes(ingest_loop, framing, monkeypatch):
    taken = []
    with open_requests(ingest_loop, 50) as requests:
        append_together = loop_module.append_together

        def recording_append(ingests, store):
            taken.append(sum(each.body.taken for each in requests if each.ingest in ingests))
            return append_together(ingests, store)

        monkeypatch.setattr(loop_module, "append_together", recording_append)
        for request in requests:
            request.send(framing * 8)
        with gevent.Timeout(20):
            while sum(taken) < 50 * 8 * len(framing):
                gevent.sleep(0.01)
    assert max(taken) <= 2 * ROUND_BYTES


def test_blank_lines_take_little_more_memory_than_their_bytes():
    ended = run_program("ingest_blank_lines")
    assert ended.stderr == ""
    # On a busy machine all of them may wait in memory at the same time.
    assert int(ended.stdout) < 2 * BLANK_REQUESTS * BLANK_LINES


def test_a_line_that_arrives_during_a_slow_round_is_in_time(
    ingest_loop, recording_store, monkeypatch
):
    monkeypatch.setattr(json_body, "READ_SECONDS", 0.2)
    with open_requests(ingest_loop, 2) as [late, other]:
        late.send(chunk(line(1)[:5]))
        gevent.sleep(0.05)
        recording_store.pause = 3.0  # longer than SWEEP_SECONDS
        other.send(chunk(line(2)))
        gevent.sleep(0.05)
        late.send(chunk(line(1)[5:]) + LAST_CHUNK)
        late.reading.get(timeout=10)
        assert (late.ingest.error, late.ingest.events) == (None, 1)


def test_a_line_that_is_not_completed_in_time_is_408(ingest_loop, monkeypatch):
    monkeypatch.setattr(json_body, "READ_SECONDS", 0.2)
    with open_requests(ingest_loop, 1) as [slow]:
        slow.send(chunk(line(1) + b"{"))
        slow.reading.get(timeout=10)
        assert (slow.ingest.error.code, slow.ingest.events, slow.ingest.line) == (408, 1, 2)


@pytest.mark.parametrize("trickles", [False, True])
def test_trailers_that_are_not_completed_in_time_are_408(ingest_loop, monkeypatch, trickles):
    monkeypatch.setattr(json_body, "READ_SECONDS", 0.2)
    with open_requests(ingest_loop, 1) as [slow]:
        slow.send(chunk(line(1)) + b"0\r\n")
        while trickles and not slow.reading.ready():
            with contextlib.suppress(OSError):
                slow.send(b"x")
            gevent.sleep(0.05)
        slow.reading.get(timeout=10)
        assert (slow.ingest.error.code, slow.ingest.events) == (408, 1)


def test_the_worker_ends_a_request_that_waits_for_its_trailers(ingest_loop):
    with open_requests(ingest_loop, 1) as [request]:
        request.send(chunk(line(1)) + b"0\r\n")
        gevent.sleep(0.05)
        request.ingest.end("draining")
        request.reading.get(timeout=5)
        assert (request.ingest.error.code, request.ingest.events) == (503, 1)


def test_all_waiting_requests_fail_at_once_when_redis_does_not_answer(ingest_loop, recording_store):
    big = chunk(line("x" * 1000) * 100)
    with open_requests(ingest_loop, 41) as [silent, *requests]:
        recording_store.error = StoreUnavailable("Redis does not answer", None)
        for request in requests:
            request.send(big)
        for request in requests:
            request.reading.get(timeout=5)
            assert type(request.ingest.error) is StoreUnavailable
            members = request.ingest.error_members()
            assert (members["line"], members["stored"]) == (1, 0)
        assert len(recording_store.rounds) <= 2
        assert sum(request.ingest.unknown for request in requests) == sum(
            len(append.new_events) for appends in recording_store.rounds for append in appends
        )
        recording_store.error = None
        silent.send(chunk(line(1)) + LAST_CHUNK)
        silent.reading.get(timeout=5)
        assert silent.ingest.events == 1


def test_the_loop_forgets_a_connection_that_it_cannot_register(ingest_loop, monkeypatch):
    with open_requests(ingest_loop, 1) as [request]:
        with monkeypatch.context() as patch:
            patch.setattr(ingest_loop._selector, "register", lambda *args: 1 / 0)
            refused = OpenRequest(ingest_loop, "refused")
            with pytest.raises(ZeroDivisionError):
                refused.reading.get(timeout=5)
        request.send(chunk(line(1)) + LAST_CHUNK)
        request.reading.get(timeout=5)
        assert request.ingest.events == 1
        refused.connection.__exit__()
    assert is_empty(ingest_loop)


def test_nothing_is_received_while_lines_wait_to_be_stored(ingest_loop, recording_store):
    """So a slow Redis slows the producer down, and the reserved bytes stay bounded."""
    peak = 0
    piece = chunk(line("x" * 1000) * 100)
    with open_requests(ingest_loop, 1) as [request]:
        sending = gevent.spawn(lambda: [request.send(piece) for _ in range(100)])
        while not sending.ready():
            peak = max(peak, request.reservation.bytes)
            gevent.sleep(0)
        request.send(LAST_CHUNK)
        request.reading.get(timeout=20)
        assert request.ingest.events == 10_000
    assert 0 < peak <= 64 * 1024 + 1100
    assert request.reservation.bytes == 0


class StoreOfTwo(RecordingStore):
    """A store whose runs are on two servers, of which one may not answer for a while."""

    def __init__(self, **options):
        super().__init__(**options)
        self.lanes: dict[str, str] = {}
        self.hangs = ""
        self.answers = gevent.event.Event()

    def lane_of(self, run_id):
        return self.lanes.get(run_id, "first")

    def append_each(self, appends):
        if any(self.lane_of(each.run_id) == self.hangs for each in appends):
            self.answers.wait()
            raise StoreUnavailable("it does not answer")
        return super().append_each(appends)


@pytest.fixture
def store_of_two(fake_client) -> StoreOfTwo:
    return StoreOfTwo(client=fake_client)


def test_a_request_goes_to_another_loop_when_its_log_has_moved(store_of_two):
    loops = IngestLoops(store_of_two)
    with open_requests(loops, 2) as [here, there]:
        for request in (here, there):
            request.send(chunk(line(1)))
        gevent.sleep(0.05)
        assert [len(appends) for appends in store_of_two.rounds] == [2]
        store_of_two.lanes["run-1"] = store_of_two.hangs = "second"
        there.send(chunk(line(2)))
        gevent.sleep(0.05)
        here.send(chunk(line(2)) + LAST_CHUNK)
        here.reading.get(timeout=5)
        assert (here.ingest.error, here.ingest.events) == (None, 2)
        assert not there.ingest.over
        for request, lane in ((here, "first"), (there, "second")):
            held = request.admission.bytes
            assert held.held == request.ingest.size
            assert not held.held or held._held_in == {lane: held.held}
        assert there.ingest.size > 0
        store_of_two.answers.set()
        there.reading.get(timeout=5)
        assert isinstance(there.ingest.error, StoreUnavailable)
        assert there.ingest.events == 1
    assert all(is_empty(each) for each in loops._loops.values())


def test_a_server_that_does_not_answer_fails_no_request_whose_log_has_left_it(store_of_two):
    loops = IngestLoops(store_of_two)
    store_of_two.hangs = "first"
    with open_requests(loops, 3) as [failed, due, moved]:
        failed.send(chunk(line(1)))
        gevent.sleep(0.05)
        for request in (due, moved):
            request.send(chunk(line(1)) + LAST_CHUNK)
        store_of_two.lanes["run-2"] = "second"
        store_of_two.answers.set()
        for request in (failed, due, moved):
            request.reading.get(timeout=5)
        errors = [type(each.ingest.error) for each in (failed, due, moved)]
        assert errors == [StoreUnavailable, StoreUnavailable, type(None)]
        assert moved.ingest.events == 1


def test_loops_that_nobody_uses_end(store_of_two):
    loops = IngestLoops(store_of_two)
    for number in range(5):
        store_of_two.lanes["run-0"] = f"server {number}"
        with open_requests(loops, 1) as [request]:
            request.send(chunk(line(1)))
            gevent.sleep(0.02)
            if number == 2:  # its loop is used until the log moves
                store_of_two.lanes["run-0"] = "another"
            request.send(chunk(line(1)) + LAST_CHUNK)
            request.reading.get(timeout=5)
            assert request.ingest.events == 2
        if number:
            assert len(loops._loops) == 1 + (number == 2)
