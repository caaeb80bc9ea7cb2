"""The appender in signal handlers, which may interrupt any code of their own thread."""

import contextlib
import itertools
import signal
from collections.abc import Iterator
from functools import partial

import pytest

from app.streaming import appender, event_queue
from app.streaming.appender import Appender
from app.streaming.errors import ReentrantCall
from app.streaming.event_queue import MAX_WAITING_EVENTS
from app.streaming.event_store import EventStore
from app.streaming.redis import shared_connection
from app.streaming.reentrancy import one_call_per_thread
from tests.interruptions import handled_at, run_inside
from tests.servers import wait_until
from tests.streaming.fake_log import Log, emit


def test_an_interrupted_flush_does_not_stop_the_sender():
    log = Log()
    log.open.clear()
    run = Appender(log)
    emit(run, 0)
    wait_until(lambda: log.calls, "the event is being sent")
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


@pytest.mark.parametrize("emitted", [1, 3])
def test_a_signal_handler_can_emit_and_flush_wherever_it_interrupts_the_appender(emitted):
    """All events are stored once and in order."""
    for step in itertools.count(1):
        log, late = Log(), []
        run = Appender(log)

        def handle(run=run, log=log, late=late) -> None:
            with contextlib.suppress(ValueError):  # it is closed
                emit(run, -1)
                late.append(-1)
            run.flush()
            assert log.events.count(-1) == len(late)

        with handled_at(step, handle, appender, event_queue) as done:
            for number in range(emitted):
                emit(run, number)
            run.close()
        run.flush()
        assert [number for number in log.events if number >= 0] == list(range(emitted))
        assert log.events.count(-1) == len(late)
        if not done:
            break
    assert step > 100


def test_a_signal_handler_can_close_wherever_it_interrupts_the_appender():
    for step in itertools.count(1):
        log, emitted = Log(), []
        run = Appender(log)
        with (
            handled_at(step, run.close, appender, event_queue) as done,
            contextlib.suppress(ValueError),
        ):
            for number in range(3):
                emit(run, number)
                emitted.append(number)
        run.close()
        wait_until(
            lambda log=log, emitted=emitted: len(log.events) >= len(emitted), "all events are sent"
        )
        assert log.events[: len(emitted)] == emitted
        if not done:
            break
    assert step > 100


def test_a_signal_handler_can_emit_while_its_thread_waits_for_room():
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


def test_inside_a_call_emit_is_allowed_and_flush_and_close_raise():
    log = Log()
    run = Appender(log)

    def handle() -> None:
        emit(run, 0)
        for call in (run.flush, run.close):
            with pytest.raises(ReentrantCall):
                call()
        emit(run, 1)

    run_inside(one_call_per_thread, handle)
    run.close()
    assert log.events == [0, 1]


def test_inside_a_call_emit_raises_instead_of_waiting_for_room():
    log = Log()
    log.open.clear()
    run = Appender(log)
    emit(run, 0)
    wait_until(lambda: log.calls, "the first event is being sent")

    def handle() -> None:
        for number in range(1, MAX_WAITING_EVENTS + 1):
            emit(run, number)
        with pytest.raises(ReentrantCall):
            emit(run, -1)

    run_inside(one_call_per_thread, handle)
    log.open.set()
    run.close()
    assert log.events == list(range(MAX_WAITING_EVENTS + 1))


def test_a_signal_handler_can_emit_while_its_thread_appends_to_the_store(redis_server, run_id):
    store = EventStore(redis_server.url)
    run = store.appender(f"{run_id}-appender")
    for step in itertools.count(1):
        with handled_at(step, partial(emit, run, step), shared_connection) as done:
            store.add(run_id, "llm", "stream", step)
        if not done:
            break
    run.close()
    for name, count in ((run_id, step), (f"{run_id}-appender", step - 1)):
        assert [event.data for event in store.get_events(name)] == list(range(1, count + 1))
