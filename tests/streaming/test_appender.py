"""The appender: what is emitted is in the log, in order and once, or the producer is told."""

import contextlib
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import fakeredis
import pytest

from app.streaming import appender as module
from app.streaming import batch_sender as batches
from app.streaming.appender import Appender
from app.streaming.batch_sender import MAX_BATCH_BYTES
from app.streaming.errors import (
    EventTooLarge,
    InvalidEvent,
    InvalidInput,
    RunEnded,
    StoreUnavailable,
    UnexpectedSequence,
)
from app.streaming.event_id import EventId
from app.streaming.event_queue import MAX_WAITING_BYTES, MAX_WAITING_EVENTS
from app.streaming.event_store import EventStore
from app.streaming.log import shared_connection
from app.streaming.new_event import MAX_EVENTS, Appended, NewEvent
from tests.interruptions import handled_at
from tests.servers import wait_until


class Log:
    """Takes batches as a store does, and does what a test wants at some of them first."""

    def __init__(self, *at_each: Callable[[], Any]):
        self.batches: list[list[bytes]] = []
        self.calls: list[dict] = []
        self.new_events: list[list[NewEvent]] = []
        self.open = threading.Event()
        self.open.set()
        self._at_each = iter(at_each)
        self._known: dict[str, Appended] = {}

    def __call__(self, new_events: list[NewEvent], **how: Any) -> Appended:
        self.new_events.append(new_events)
        self.calls.append(how)
        self.open.wait(20)
        next(self._at_each, lambda: None)()
        key = how["idempotency_key"]
        if key not in self._known:
            self.batches.append([new_event.data_json for new_event in new_events])
            first = sum(map(len, self.batches[:-1])) + 1
            self._known[key] = Appended(EventId(1, first), first, len(new_events), False)
        return self._known[key]

    @property
    def events(self) -> list[int]:
        return [int(data) for data in itertools.chain.from_iterable(self.batches)]


def unavailable(stored: bool | None = False) -> Callable[[], Any]:
    def fail() -> None:
        raise StoreUnavailable("away", stored)

    return fail


def stored_and_lost(log: Log, new_events: int) -> Callable[[], Any]:
    """The batch is stored, and its answer is lost."""

    def fail() -> None:
        key = log.calls[-1]["idempotency_key"]
        log.batches.append([b"%d" % number for number in range(new_events)])
        log._known[key] = Appended(EventId(1, 1), 1, new_events, True)
        raise StoreUnavailable("the answer was lost", None)

    return fail


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(batches, "INITIAL_PAUSE_SECONDS", 0.001)


def threads() -> int:
    return len(sys._current_frames())


def emit(run: Appender, number: int) -> None:
    run.emit("llm", "stream", number)


def test_what_is_emitted_is_in_the_log_in_order(any_store, run_id):
    with any_store.appender(run_id) as run:
        run.emit("lifecycle", "started", {"task": "analyse"}, source="me")
        for number in range(2500):
            emit(run, number)
        run.emit("lifecycle", "completed")
    first, *tokens, last = any_store.get_events(run_id)
    assert (first.event, first.data, first.source) == (
        {"category": "lifecycle", "action": "started"},
        {"task": "analyse"},
        "me",
    )
    assert [event.data for event in tokens] == list(range(2500))
    assert [event.sequence for event in (first, *tokens, last)] == list(range(1, 2503))
    assert (run.stored, run.last_id, run.last_sequence) == (2502, last.id, 2502)


def test_an_event_is_sent_at_once_and_not_when_the_context_ends(any_store, run_id):
    with any_store.appender(run_id) as run:
        for number in (1, 2):  # which starts the sender, and which finds it waiting
            emit(run, number)
            wait_until(
                lambda number=number: len(any_store.get_events(run_id)) == number,
                "the event is in the log",
                seconds=1,
            )
        run.flush()
        assert run.stored == 2


def test_flush_waits_until_what_was_emitted_is_in_the_log(any_store, run_id):
    with any_store.appender(run_id) as run:
        for number in range(100):
            emit(run, number)
        run.flush()
        assert len(any_store.get_events(run_id)) == 100


def test_what_comes_while_a_batch_is_under_way_is_the_next_batch():
    log = Log()
    log.open.clear()
    with Appender(log) as run:
        emit(run, 0)
        wait_until(lambda: log.calls, "the first is under way")
        for number in range(1, 2001):
            emit(run, number)
        log.open.set()
    assert [len(batch) for batch in log.batches] == [1, MAX_EVENTS, MAX_EVENTS]
    assert log.events == list(range(2001))


def test_a_batch_has_no_more_bytes_than_one_round_trip_should():
    log = Log()
    log.open.clear()
    with Appender(log) as run:
        emit(run, 0)
        wait_until(lambda: log.calls, "the first is under way")
        for _ in range(30):
            run.emit("llm", "stream", "x" * 100_000)
        log.open.set()
    assert max(sum(map(len, batch)) for batch in log.batches) < MAX_BATCH_BYTES + 100_002
    assert len(log.batches) == 4


@pytest.mark.parametrize(
    ("data", "most"), [(0, MAX_WAITING_EVENTS), ("x" * 100_000, MAX_WAITING_BYTES // 100_002 + 1)]
)
def test_emit_waits_while_too_much_waits(data, most):
    log = Log()
    log.open.clear()
    run, emitted = Appender(log), []
    run.emit("llm", "stream", 0)
    wait_until(lambda: log.calls, "the first is under way")

    def produce() -> None:
        for number in range(most + 5):
            run.emit("llm", "stream", data)
            emitted.append(number)

    producer = threading.Thread(target=produce)
    producer.start()
    wait_until(lambda: len(emitted) >= most, "as much waits as may")
    producer.join(0.2)
    assert producer.is_alive()
    assert len(emitted) == most
    log.open.set()
    producer.join()
    run.close()
    assert run.stored == most + 6


@pytest.mark.parametrize(
    ("event", "error"),
    [
        (("gateway", "gap"), InvalidEvent),
        (("lifecycle", "lost"), InvalidEvent),
        (("llm", "a b"), InvalidEvent),
        (("llm", "stream", float("nan")), InvalidEvent),
        (("llm", "stream", {1}), InvalidEvent),
        (("llm", "stream", "x" * 262_144), EventTooLarge),
    ],
)
def test_a_bad_event_is_refused_where_it_is_emitted_and_the_others_are_stored(
    fake_store, run_id, event, error
):
    with fake_store.appender(run_id) as run:
        emit(run, 1)
        with pytest.raises(error):
            run.emit(*event)
        emit(run, 2)
    assert [stored.data for stored in fake_store.get_events(run_id)] == [1, 2]


def test_a_bad_lease_is_refused_where_it_is_emitted(fake_store, run_id):
    with (
        fake_store.appender(run_id) as run,
        pytest.raises(InvalidInput, match="lease_seconds"),
    ):
        run.emit("llm", "stream", lease_seconds=0)
    assert fake_store.get_events(run_id) == []


def test_the_limit_of_an_event_is_the_stores(fake_client, run_id):
    with EventStore(client=fake_client, max_event_bytes=10).appender(run_id) as run:
        run.emit("llm", "stream", "x" * 8)
        with pytest.raises(EventTooLarge):
            run.emit("llm", "stream", "x" * 9)


def test_a_lease_is_set_and_a_run_that_is_reopened_has_none(store, redis_client, run_id):
    with store.appender(run_id) as run:
        run.emit("lifecycle", "started", lease_seconds=60)
        emit(run, 1)
        run.emit("lifecycle", "completed")
        run.emit("lifecycle", "started")
    entries = redis_client.xrange(f"run:{run_id}:events")
    leases = [fields.get(b"lease_seconds") for _, fields in entries]
    assert leases == [b"60", b"60", b"60", None]


def test_no_run_is_lost_soon_after_a_batch_was_refused(run_id):
    """Its lease may have run out only because nobody could append."""
    server = fakeredis.FakeServer()
    store = EventStore(client=fakeredis.FakeRedis(server=server, protocol=2))
    run = store.appender(run_id, retry_seconds=0)
    run.emit("lifecycle", "started", lease_seconds=1)
    run.flush()
    server.connected = False
    before = time.monotonic()
    emit(run, 1)
    with pytest.raises(StoreUnavailable):
        run.flush()
    assert store.last_refusal >= before


def test_a_batch_that_was_not_stored_is_repeated_under_its_key():
    log = Log(unavailable(), unavailable(), unavailable())
    with Appender(log) as run:
        emit(run, 0)
        run.flush()
        emit(run, 1)
    keys = [call["idempotency_key"] for call in log.calls]
    assert len(set(keys[:4])) == 1
    assert len(set(keys)) == 2
    assert log.events == [0, 1]


def test_a_batch_whose_answer_was_lost_is_not_appended_twice():
    log = Log()
    log._at_each = iter([stored_and_lost(log, 1)])
    with Appender(log) as run:
        emit(run, 0)
        run.flush()
        emit(run, 1)
    assert log.events == [0, 1]
    assert run.stored == 2


@pytest.mark.parametrize("first", [None, False])
def test_an_outage_that_lasts_is_raised_by_every_later_call(first):
    log = Log(*[unavailable(first)] + [unavailable(False)] * 10_000)
    run = Appender(log, retry_seconds=0.05)
    emit(run, 0)
    with pytest.raises(StoreUnavailable) as raised:
        run.flush()
    assert raised.value.stored is first  # one of the attempts may have stored it
    calls = len(log.calls)
    for call in (lambda: emit(run, 1), run.flush, run.close):
        with pytest.raises(StoreUnavailable):
            call()
    assert run.stored == 0
    assert len(log.calls) == calls > 1


def test_who_waits_for_room_is_told_what_went_wrong():
    log = Log(*[unavailable()] * 10_000)
    log.open.clear()
    run = Appender(log, retry_seconds=0.05)
    emitted: list[int] = []
    told: list[Exception] = []

    def produce() -> None:
        try:
            for number in range(MAX_WAITING_EVENTS + 1001):
                emit(run, number)
                emitted.append(number)
        except StoreUnavailable as error:
            told.append(error)

    producer = threading.Thread(target=produce)
    producer.start()
    wait_until(lambda: len(emitted) >= MAX_WAITING_EVENTS, "it waits for room")
    log.open.set()
    producer.join(20)
    assert told


def test_an_ended_run_is_raised_and_what_ended_it_is_stored(any_store, run_id):
    run = any_store.appender(run_id)
    run.emit("lifecycle", "started")
    run.emit("lifecycle", "completed")
    emit(run, 1)
    with pytest.raises(RunEnded):
        run.close()
    with pytest.raises((RunEnded, ValueError)):
        emit(run, 2)
    assert [event.action for event in any_store.get_events(run_id)] == ["started", "completed"]
    assert (run.stored, run.last_sequence) == (2, 2)


def too_large_for(log: Log, *numbers: int, events: int = MAX_EVENTS) -> Callable[[], Any]:
    """Refuses batches of more events than that, and those with one of some numbers in them."""

    def refuse() -> None:
        data = [int(new_event.data_json) for new_event in log.new_events[-1]]
        if len(data) > events:
            raise EventTooLarge("body", "is too large")
        bad = [number for number in data if number in numbers]
        if bad:
            index = f"{data.index(bad[0])}." if len(data) > 1 else ""
            raise EventTooLarge(f"{index}data", f"{bad[0]} is too large")

    return refuse


@pytest.mark.parametrize("events", [MAX_EVENTS, 300, 1])
def test_a_batch_that_is_too_large_is_sent_in_parts(events):
    log = Log()
    log._at_each = itertools.repeat(too_large_for(log, events=events))
    with Appender(log, expected_sequence=1) as run:
        for number in range(1500):
            emit(run, number)
    assert log.events == list(range(1500))
    assert max(map(len, log.batches)) <= events
    assert len({call["idempotency_key"] for call in log.calls}) == len(log.calls)
    assert (run.stored, run.refused, run.last_sequence) == (1500, 0, 1500)
    assert log.calls[-1]["expected_sequence"] == 1500 - len(log.batches[-1]) + 1


def test_what_was_too_large_once_is_not_tried_again():
    log = Log()
    log._at_each = itertools.repeat(too_large_for(log, events=100))
    with Appender(log) as run:
        for number in range(8000):
            emit(run, number)
    assert log.events == list(range(8000))
    assert len(log.calls) < 8000 / 50 + 50


def test_an_event_that_is_refused_is_left_out_and_the_others_are_stored():
    log = Log()
    log._at_each = itertools.repeat(too_large_for(log, 0, 700, 701, 1999))
    run = Appender(log)
    for number in range(2000):
        emit(run, number)
    with pytest.raises(EventTooLarge, match=r"^data: 0 is too large"):
        run.flush()
    assert log.events == [number for number in range(2000) if number not in (0, 700, 701, 1999)]
    assert (run.stored, run.refused) == (1996, 4)
    run.flush()
    emit(run, 2000)
    emit(run, 700)
    with pytest.raises(EventTooLarge, match=r"^data: 700 is"):
        run.close()
    run.close()
    assert (log.events[-1], run.stored, run.refused) == (2000, 1997, 5)


def test_an_expected_sequence_holds_for_the_first_event_and_those_after_it(any_store, run_id):
    run = any_store.appender(run_id, expected_sequence=1)
    for number in range(1500):
        emit(run, number)
    run.flush()
    any_store.add(run_id, "llm", "stream", "of another producer")
    emit(run, 1500)
    with pytest.raises(UnexpectedSequence):
        run.close()
    assert any_store.get_events(run_id)[-1].data == "of another producer"


def test_an_error_of_the_body_is_not_hidden(any_store, run_id):
    def produce() -> None:
        with any_store.appender(run_id) as run:
            emit(run, 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        produce()
    assert [event.data for event in any_store.get_events(run_id)] == [1]


def test_a_closed_appender_takes_nothing_and_may_be_closed_again(fake_store, run_id):
    with fake_store.appender(run_id) as run:
        emit(run, 1)
    run.close()
    with pytest.raises(ValueError, match="closed"):
        emit(run, 2)


def test_an_appender_with_nothing_emitted_starts_no_thread(fake_store, run_id):
    before = threads()
    with fake_store.appender(run_id) as run:
        run.flush()
        assert threads() == before
    assert not fake_store.state(run_id).exists


def test_a_sender_for_which_nothing_comes_ends_and_another_goes_on(monkeypatch, fake_store, run_id):
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.01)
    before = threads()
    with fake_store.appender(run_id) as run:
        for number in range(3):
            emit(run, number)
            wait_until(lambda: threads() == before, "the sender has ended")
    assert [event.data for event in fake_store.get_events(run_id)] == [0, 1, 2]


def test_closing_ends_the_sender(fake_store, run_id):
    before = threads()
    with fake_store.appender(run_id) as run:
        emit(run, 1)
    wait_until(lambda: threads() == before, "the sender has ended")


def test_many_threads_emit_and_each_keeps_its_order(any_store, run_id):
    with any_store.appender(run_id) as run:

        def produce(name: int) -> None:
            for number in range(500):
                run.emit("llm", "stream", [name, number])

        producers = [threading.Thread(target=produce, args=(name,)) for name in range(6)]
        for producer in producers:
            producer.start()
        for producer in producers:
            producer.join()
    events = [event.data for event in any_store.get_events(run_id)]
    for name in range(6):
        assert [number for by, number in events if by == name] == list(range(500))


def test_who_is_interrupted_while_it_waits_leaves_the_sender_alone():
    log = Log()
    log.open.clear()
    run = Appender(log)
    emit(run, 0)
    wait_until(lambda: log.calls, "it is under way")
    with pytest.raises(KeyboardInterrupt), interrupted_after(0.1):
        run.flush()
    emit(run, 1)
    log.open.set()
    run.close()
    assert log.batches == [[b"0"], [b"1"]]


@contextlib.contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# Signal handlers


@pytest.mark.parametrize("emitted", [1, 3])
def test_a_signal_handler_may_emit_wherever_it_has_interrupted_the_appender(emitted):
    """And wait for what it has emitted, which is in order and there once."""
    for step in itertools.count(1):
        log, late = Log(), []
        run = Appender(log)

        def handle(run=run, log=log, late=late) -> None:
            with contextlib.suppress(ValueError):  # it is closed
                emit(run, -1)
                late.append(-1)
            run.flush()
            assert log.events.count(-1) == len(late)

        with handled_at(step, handle, module) as done:
            for number in range(emitted):
                emit(run, number)
            run.close()
        run.flush()
        assert [number for number in log.events if number >= 0] == list(range(emitted))
        assert log.events.count(-1) == len(late)
        if not done:
            break
    assert step > 100


def test_a_signal_handler_may_close_wherever_it_has_interrupted_the_appender():
    for step in itertools.count(1):
        log, emitted = Log(), []
        run = Appender(log)
        with handled_at(step, run.close, module) as done, contextlib.suppress(ValueError):
            for number in range(3):
                emit(run, number)
                emitted.append(number)
        run.close()
        wait_until(lambda log=log, emitted=emitted: len(log.events) >= len(emitted), "all are sent")
        assert log.events[: len(emitted)] == emitted
        if not done:
            break
    assert step > 100


def test_a_signal_handler_may_emit_while_whom_it_has_interrupted_waits_for_room():
    log = Log()
    log.open.clear()
    run = Appender(log)
    for number in range(MAX_WAITING_EVENTS):
        emit(run, number)

    def handle(*_: object) -> None:
        log.open.set()
        emit(run, -1)

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        for number in range(MAX_WAITING_EVENTS, MAX_WAITING_EVENTS + 1500):
            emit(run, number)
    finally:
        signal.signal(signal.SIGALRM, before)
    run.close()
    assert [number for number in log.events if number >= 0] == list(
        range(MAX_WAITING_EVENTS + 1500)
    )
    assert log.events.count(-1) == 1


def test_a_signal_handler_may_flush_while_the_store_is_being_appended_to(redis_server, run_id):
    """The call that it has interrupted goes on only after it."""
    store = EventStore(redis_server.url)
    run = store.appender(f"{run_id}-appender")
    for step in itertools.count(1):

        def handle(step=step) -> None:
            emit(run, step)
            run.flush()

        with handled_at(step, handle, shared_connection) as done:
            store.add(run_id, "llm", "stream", step)
        if not done:
            break
    run.close()
    for name, count in ((run_id, step), (f"{run_id}-appender", step - 1)):
        assert [event.data for event in store.get_events(name)] == list(range(1, count + 1))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_sends_nothing_of_its_parents():
    log = Log()
    log.open.clear()
    run = Appender(log)
    emit(run, 0)
    wait_until(lambda: log.calls, "the first is under way")
    emit(run, 1)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        log.open = threading.Event()
        log.open.set()
        try:
            emit(run, 2)
            run.close()
            os.write(writer, repr((log.events, run.stored)).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 100) == b"([2], 1)"
    log.open.set()
    run.close()
    assert log.events == [0, 1]
