"""The sender of an appender: repeats, final errors, and batches that are refused in part."""

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import fakeredis
import pytest

from app.streaming import batch_sender
from app.streaming.appender import Appender
from app.streaming.errors import EventTooLarge, RunEnded, StoreUnavailable, UnexpectedSequence
from app.streaming.event_id import EventId
from app.streaming.event_queue import MAX_WAITING_EVENTS
from app.streaming.event_store import EventStore
from app.streaming.new_event import MAX_EVENTS, Appended
from tests.servers import wait_until
from tests.streaming.fake_log import Log, emit, unavailable


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(batch_sender, "INITIAL_PAUSE_SECONDS", 0.001)


def reply_lost(log: Log, new_events: int) -> Callable[[], Any]:
    """Store a batch, and then fail as if the reply was lost."""

    def fail() -> None:
        key = log.calls[-1]["idempotency_key"]
        log.batches.append([b"%d" % number for number in range(new_events)])
        log._known[key] = Appended(EventId(1, 1), 1, new_events, True)
        raise StoreUnavailable("the reply was lost", None)

    return fail


def test_a_batch_that_redis_cannot_take_counts_as_a_refusal(run_id):
    """The lease of a run may be over only because nobody could append."""
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
    assert store.engine.availability.since() >= before


def test_a_batch_that_was_not_stored_is_repeated_with_its_key():
    log = Log(unavailable(), unavailable(), unavailable())
    with Appender(log) as run:
        emit(run, 0)
        run.flush()
        emit(run, 1)
    keys = [call["idempotency_key"] for call in log.calls]
    assert len(set(keys[:4])) == 1
    assert len(set(keys)) == 2
    assert log.events == [0, 1]


def test_a_batch_whose_reply_was_lost_is_stored_once():
    log = Log()
    log._at_each = iter([reply_lost(log, 1)])
    with Appender(log) as run:
        emit(run, 0)
        run.flush()
        emit(run, 1)
    assert log.events == [0, 1]
    assert run.stored == 2


@pytest.mark.parametrize("first", [None, False])
def test_every_call_after_a_long_outage_raises_its_error(first):
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


def test_an_emit_that_waits_for_room_raises_the_final_error():
    log = Log(*[unavailable()] * 10_000)
    log.open.clear()
    run = Appender(log, retry_seconds=0.05)
    emitted: list[int] = []
    errors: list[Exception] = []

    def produce() -> None:
        try:
            for number in range(MAX_WAITING_EVENTS + 1001):
                emit(run, number)
                emitted.append(number)
        except StoreUnavailable as error:
            errors.append(error)

    producer = threading.Thread(target=produce)
    producer.start()
    wait_until(lambda: len(emitted) >= MAX_WAITING_EVENTS, "emit waits for room")
    log.open.set()
    producer.join(20)
    assert errors


def test_events_after_a_terminal_event_raise_run_ended(any_store, run_id):
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
    """Refuse batches of more than `events` events, and batches with one of the numbers."""

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


def test_after_a_batch_was_too_large_the_next_ones_are_smaller():
    log, emitted = Log(), threading.Event()
    refuse = too_large_for(log, events=100)
    numbers = range(1000, 9000)  # events of one size, since batches are limited by their bytes

    def refuse_once_all_are_emitted() -> None:  # else a fast sender sends small batches
        assert emitted.wait(20)
        refuse()

    log._at_each = itertools.repeat(refuse_once_all_are_emitted)
    with Appender(log) as run:
        for number in numbers:
            emit(run, number)
        emitted.set()
    assert log.events == list(numbers)
    assert len(log.calls) < 8000 / 50 + 50


def test_refused_events_are_left_out_and_the_others_are_stored():
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


def test_the_expected_sequence_holds_for_all_events(any_store, run_id):
    run = any_store.appender(run_id, expected_sequence=1)
    for number in range(1500):
        emit(run, number)
    run.flush()
    any_store.add(run_id, "llm", "stream", "of another producer")
    emit(run, 1500)
    with pytest.raises(UnexpectedSequence):
        run.close()
    assert any_store.get_events(run_id)[-1].data == "of another producer"
