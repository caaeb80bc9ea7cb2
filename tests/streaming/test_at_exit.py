"""The exit of a process: every appender is flushed, and what is not stored is printed."""

import _thread
import contextlib
import itertools
import re
import threading
import weakref

import pytest

from app.streaming import appender, at_exit, event_queue
from app.streaming.appender import Appender
from app.streaming.errors import EventTooLarge, ReentrantCall, StoreUnavailable
from tests.interruptions import handled_at
from tests.servers import wait_until
from tests.streaming.fake_log import Log, emit, unavailable


@pytest.fixture
def after_flush(monkeypatch):
    monkeypatch.setattr(at_exit, "_has_flushed", True)


@pytest.fixture
def no_new_threads(monkeypatch):
    """Refuse to start threads, as Python 3.12 and newer do while they exit."""

    def refuse(*arguments: object) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(_thread, "start_new_thread", refuse)


def failing(**options: object) -> Appender:
    return Appender(Log(*[unavailable()] * 1000), retry_seconds=0, name="run 7", **options)


def test_appenders_made_meanwhile_do_not_end_the_flush(monkeypatch):
    log, made = Log(), []

    class Growing(weakref.WeakSet):
        """Gets another appender while it is read for the first time."""

        def __iter__(self):
            for each in super().__iter__():
                if not made:
                    made.append(Appender(log))
                yield each

    monkeypatch.setattr(at_exit, "_all", Growing())
    monkeypatch.setattr(at_exit, "_has_flushed", False)
    log.open.clear()
    runs = [Appender(log) for _ in range(10)]
    for number, run in enumerate(runs):
        emit(run, number)
    threading.Timer(0.05, log.open.set).start()
    at_exit._flush_all()
    assert made
    assert sorted(log.events) == list(range(10))


def test_after_the_flush_an_event_is_stored_when_emit_returns(after_flush):
    log = Log()
    run = Appender(log)
    for number in range(3):
        emit(run, number)
        assert log.events == list(range(number + 1))


def test_without_new_threads_an_event_is_stored_when_emit_returns(no_new_threads, after_flush):
    log = Log()
    with Appender(log) as run:
        for number in range(3):
            emit(run, number)
            assert log.events == list(range(number + 1))


def test_a_sender_that_still_waits_for_events_stores_them(monkeypatch, no_new_threads):
    monkeypatch.undo()
    log = Log()
    run = Appender(log)
    emit(run, 0)
    run.flush()
    monkeypatch.setattr(at_exit, "_has_flushed", True)
    emit(run, 1)
    assert log.events == [0, 1]


def test_a_signal_handler_can_emit_wherever_it_interrupts_the_exit(no_new_threads, after_flush):
    for step in itertools.count(1):
        log, late = Log(), []
        run = Appender(log)

        def handle(run=run, log=log, late=late) -> None:
            with contextlib.suppress(ValueError):  # it is closed
                emit(run, -1)
                late.append(-1)
            with contextlib.suppress(ReentrantCall):
                run.flush()

        with handled_at(step, handle, appender, event_queue, at_exit) as done:
            for number in range(2):
                emit(run, number)
            run.close()
        run.flush()
        assert [number for number in log.events if number >= 0] == [0, 1]
        assert log.events.count(-1) == len(late)
        if not done:
            break
    assert step > 100


def test_an_error_is_printed_in_one_line_and_once(capsys, after_flush):
    run = failing()
    emit(run, 0)
    line = r"tailrace: 1 event of run 7 is not stored: StoreUnavailable: away\n"
    assert re.fullmatch(line, capsys.readouterr().err)
    with pytest.raises(StoreUnavailable):
        emit(run, 1)
    at_exit._flush_all()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("at_each", "printed"),
    [
        (unavailable(False), "3 events of run 7 are not stored: StoreUnavailable: away"),
        (unavailable(None), "3 events of run 7 may not be stored: StoreUnavailable: away"),
    ],
)
def test_the_line_counts_the_events(capsys, monkeypatch, at_each, printed):
    monkeypatch.setattr(at_exit, "_has_flushed", False)
    log = Log(lambda: None, *[at_each] * 1000)
    run = Appender(log, retry_seconds=0, name="run 7")
    emit(run, 0)
    run.flush()
    log.open.clear()
    for number in range(1, 4):
        emit(run, number)
    log.open.set()
    at_exit._flush_all()
    assert f"tailrace: {printed}\n" in capsys.readouterr().err


def test_ctrl_c_ends_the_flush_and_what_waits_is_printed(capsys, monkeypatch):
    monkeypatch.setattr(at_exit, "_has_flushed", False)
    log = Log()
    log.open.clear()
    runs = [Appender(log, name=f"run {number}") for number in range(2)]
    for run in runs:
        for number in range(3):
            emit(run, number)
    real_wait = event_queue.Wakeup.wait

    def wait(self, timeout: float = -1) -> bool:
        if timeout < 0:
            raise KeyboardInterrupt
        return real_wait(self, timeout)

    monkeypatch.setattr(event_queue.Wakeup, "wait", wait)
    with pytest.raises(KeyboardInterrupt):
        at_exit._flush_all()
    monkeypatch.undo()
    printed = capsys.readouterr().err
    for number in range(2):
        line = f"tailrace: 3 events of run {number} may not be stored: KeyboardInterrupt\n"
        assert line in printed
    log.open.set()
    for run in runs:
        run.close()


def test_a_refused_event_is_printed(capsys, monkeypatch):
    monkeypatch.setattr(at_exit, "_has_flushed", False)

    def refuse() -> None:
        raise EventTooLarge("data", "is\ntoo large")

    run = Appender(Log(refuse), name="run 7")
    emit(run, 0)
    at_exit._flush_all()
    line = "tailrace: 1 event of run 7 is not stored: EventTooLarge: data: is too large\n"
    assert line in capsys.readouterr().err


def test_without_stderr_nothing_is_printed(capsys, monkeypatch, after_flush):
    monkeypatch.setattr("sys.stderr", None)
    run = failing()
    emit(run, 0)
    wait_until(lambda: run.has_final_error, "the appender has failed")
    assert capsys.readouterr().out == ""
