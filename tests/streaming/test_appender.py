"""The appender: all emitted events are stored in order and once, or an error is raised."""

import os
import sys
import threading

import pytest

from app.streaming import appender as module
from app.streaming.appender import Appender, is_sending
from app.streaming.batch_sender import MAX_BATCH_BYTES
from app.streaming.errors import AppenderFull, EventTooLarge, InvalidEvent, InvalidInput
from app.streaming.event_queue import MAX_WAITING_BYTES, MAX_WAITING_EVENTS
from app.streaming.event_store import EventStore
from app.streaming.new_event import MAX_EVENTS
from tests.servers import wait_until
from tests.streaming.fake_log import Log, emit


def threads() -> int:
    return len(sys._current_frames())


def test_emitted_events_are_in_the_log_in_order(any_store, run_id):
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


def test_an_event_is_sent_at_once(any_store, run_id):
    with any_store.appender(run_id) as run:
        for number in (1, 2):  # the first starts the sender, the second finds it waiting
            emit(run, number)
            wait_until(
                lambda number=number: len(any_store.get_events(run_id)) == number,
                "the event is in the log",
                seconds=1,
            )
        run.flush()
        assert run.stored == 2


def test_emit_nowait_raises_instead_of_waiting():
    log = Log()
    log.open.clear()
    with Appender(log) as run:
        emit(run, 0)
        wait_until(lambda: log.calls, "the first event is being sent")
        for number in range(1, MAX_WAITING_EVENTS + 1):
            run.emit_nowait("llm", "stream", number)
        with pytest.raises(AppenderFull):
            run.emit_nowait("llm", "stream", -1)
        log.open.set()
    assert log.events == list(range(MAX_WAITING_EVENTS + 1))
    with pytest.raises(ValueError, match="closed"):
        run.emit_nowait("llm", "stream")


def test_the_thread_that_sends_knows_it():
    known = []
    with Appender(Log(lambda: known.append(is_sending()))) as run:
        emit(run, 0)
    assert (known, is_sending()) == ([True], False)


def test_flush_waits_until_all_events_are_in_the_log(any_store, run_id):
    with any_store.appender(run_id) as run:
        for number in range(100):
            emit(run, number)
        run.flush()
        assert len(any_store.get_events(run_id)) == 100


def test_events_that_come_while_a_batch_is_sent_are_the_next_batch():
    log = Log()
    log.open.clear()
    with Appender(log) as run:
        emit(run, 0)
        wait_until(lambda: log.calls, "the first event is being sent")
        for number in range(1, 2001):
            emit(run, number)
        log.open.set()
    assert [len(batch) for batch in log.batches] == [1, MAX_EVENTS, MAX_EVENTS]
    assert log.events == list(range(2001))


def test_the_bytes_of_a_batch_are_bounded():
    log = Log()
    log.open.clear()
    with Appender(log) as run:
        emit(run, 0)
        wait_until(lambda: log.calls, "the first event is being sent")
        for _ in range(30):
            run.emit("llm", "stream", "x" * 100_000)
        log.open.set()
    assert max(sum(map(len, batch)) for batch in log.batches) < MAX_BATCH_BYTES + 100_002
    assert len(log.batches) == 4


@pytest.mark.parametrize(
    ("data", "maximum"),
    [(0, MAX_WAITING_EVENTS), ("x" * 100_000, MAX_WAITING_BYTES // 100_002 + 1)],
)
def test_emit_waits_while_the_queue_is_full(data, maximum):
    log = Log()
    log.open.clear()
    run, emitted = Appender(log), []
    run.emit("llm", "stream", 0)
    wait_until(lambda: log.calls, "the first event is being sent")

    def produce() -> None:
        for number in range(maximum + 5):
            run.emit("llm", "stream", data)
            emitted.append(number)

    producer = threading.Thread(target=produce)
    producer.start()
    wait_until(lambda: len(emitted) >= maximum, "the queue is full")
    producer.join(0.2)
    assert producer.is_alive()
    assert len(emitted) == maximum
    log.open.set()
    producer.join()
    run.close()
    assert run.stored == maximum + 6


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
def test_emit_raises_for_a_wrong_event_and_the_others_are_stored(fake_store, run_id, event, error):
    with fake_store.appender(run_id) as run:
        emit(run, 1)
        with pytest.raises(error):
            run.emit(*event)
        emit(run, 2)
    assert [stored.data for stored in fake_store.get_events(run_id)] == [1, 2]


def test_emit_raises_for_a_wrong_lease(fake_store, run_id):
    with (
        fake_store.appender(run_id) as run,
        pytest.raises(InvalidInput, match="lease_seconds"),
    ):
        run.emit("llm", "stream", lease_seconds=0)
    assert fake_store.get_events(run_id) == []


def test_an_appender_has_the_event_limit_of_its_store(fake_client, run_id):
    with EventStore(client=fake_client, max_event_bytes=10).appender(run_id) as run:
        run.emit("llm", "stream", "x" * 8)
        with pytest.raises(EventTooLarge):
            run.emit("llm", "stream", "x" * 9)


def test_emit_sets_a_lease_and_a_reopened_run_has_none(store, redis_client, run_id):
    with store.appender(run_id) as run:
        run.emit("lifecycle", "started", lease_seconds=60)
        emit(run, 1)
        run.emit("lifecycle", "completed")
        run.emit("lifecycle", "started")
    entries = redis_client.xrange(f"run:{run_id}:events")
    leases = [fields.get(b"lease_seconds") for _, fields in entries]
    assert leases == [b"60", b"60", b"60", None]


def test_an_error_of_the_with_block_is_raised(any_store, run_id):
    def produce() -> None:
        with any_store.appender(run_id) as run:
            emit(run, 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        produce()
    assert [event.data for event in any_store.get_events(run_id)] == [1]


def test_a_closed_appender_takes_no_events_and_can_be_closed_again(fake_store, run_id):
    with fake_store.appender(run_id) as run:
        emit(run, 1)
    run.close()
    with pytest.raises(ValueError, match="closed"):
        emit(run, 2)


def test_an_appender_without_events_starts_no_thread(fake_store, run_id):
    before = threads()
    with fake_store.appender(run_id) as run:
        run.flush()
        assert threads() == before
    assert not fake_store.state(run_id).exists


def test_an_idle_sender_ends_and_the_next_event_starts_another(monkeypatch, fake_store, run_id):
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


def test_the_events_of_each_thread_keep_their_order(any_store, run_id):
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


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_sends_only_its_own_events():
    log = Log()
    log.open.clear()
    run = Appender(log)
    emit(run, 0)
    wait_until(lambda: log.calls, "the first event is being sent")
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
