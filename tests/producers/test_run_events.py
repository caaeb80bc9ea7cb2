"""The events of a run: when it begins and ends, and that a program never notices the appender."""

import asyncio
import concurrent.futures
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from app.async_client import AsyncAppender
from app.producers import RunEvents
from app.producers.run_events import outcome_of
from app.streaming.appender import Appender
from app.streaming.errors import StoreUnavailable
from app.streaming.event_queue import MAX_WAITING_ENDS, MAX_WAITING_EVENTS
from app.streaming.new_event import Appended, NewEvent
from tests.servers import wait_until
from tests.streaming.fake_log import Log, unavailable


class AsyncLog:
    """A log in memory for an AsyncAppender."""

    def __init__(self) -> None:
        self.log = Log()

    async def __call__(self, new_events: list[NewEvent], **options: Any) -> Appended:
        return self.log(new_events, **options)


def sent(log: Log) -> list[tuple[str, object]]:
    return [
        (f"{event.category}.{event.action}", json.loads(event.data_json))
        for batch in log.new_events
        for event in batch
    ]


def recorded(act: Callable[[RunEvents], object], **options: object) -> list[tuple[str, object]]:
    """Return the events of what a function does."""
    log = Log()
    with Appender(log) as run:
        act(RunEvents(run, **options))
    return sent(log)


def names(act: Callable[[RunEvents], object]) -> list[str]:
    return [name.removeprefix("lifecycle.") for name, _ in recorded(act)]


def test_the_first_call_begins_the_run_and_the_last_one_ends_it():
    def act(events: RunEvents) -> None:
        events.begin("a", {"name": "a"})
        events.begin("b", {"name": "b"})
        events.emit("llm", "stream", {"content": "x"})
        events.end("a", "completed", 1)
        events.emit("llm", "stream", {"content": "y"})
        events.end("b", "completed", 2)

    assert recorded(act) == [
        ("lifecycle.started", {"name": "a"}),
        ("llm.stream", {"content": "x"}),
        ("llm.stream", {"content": "y"}),
        ("lifecycle.completed", 1),
    ]


def test_an_end_that_comes_twice_is_one():
    def act(events: RunEvents) -> None:
        events.begin("a")
        events.end("unknown", "failed")
        events.end("a", "completed")
        events.end("a", "failed")
        events.fail("a", ValueError())

    assert names(act) == ["started", "completed"]


def test_nothing_comes_before_the_beginning_and_after_the_end():
    def act(events: RunEvents) -> None:
        events.emit("llm", "stream")
        events.begin("a")
        events.end("a", "completed")
        events.emit("llm", "stream")
        events.begin("a")
        events.fail("a", ValueError("x"))

    assert names(act) == ["started", "completed", "started", "failed"]


@pytest.mark.parametrize("holder", [True, False])
@pytest.mark.parametrize("action", ["failed", "cancelled"])
def test_a_call_that_holds_the_others_decides_how_the_run_ends(holder, action):
    def act(events: RunEvents) -> None:
        events.begin("outer", may_hold_others=holder)
        events.begin("inner")
        events.end("inner", action)
        events.end("outer", "completed")

    assert names(act) == ["started", "completed" if holder else action]


def test_of_calls_side_by_side_the_worst_decides():
    def act(events: RunEvents) -> None:
        for call in "abc":
            events.begin(call)
        events.end("a", "completed")
        events.fail("b", ValueError("no"))
        events.fail("c", asyncio.CancelledError())

    assert recorded(act)[-1] == ("lifecycle.failed", {"error": "ValueError: no"})


def test_a_block_is_the_run():
    def act(events: RunEvents) -> None:
        with events:
            events.begin("a")
            events.fail("a", ValueError())
            events.begin("a")
            events.end("a", "completed")

    assert recorded(act, name="all") == [
        ("lifecycle.started", {"name": "all"}),
        ("lifecycle.completed", None),
    ]


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (ValueError("no"), ("failed", {"error": "ValueError: no"})),
        (KeyError(), ("failed", {"error": "KeyError"})),
        (asyncio.CancelledError(), ("cancelled", {"reason": "CancelledError"})),
        (concurrent.futures.CancelledError(), ("cancelled", {"reason": "CancelledError"})),
        (KeyboardInterrupt(), ("cancelled", {"reason": "KeyboardInterrupt"})),
        (GeneratorExit(), ("cancelled", {"reason": "GeneratorExit"})),
        (SystemExit(1), ("cancelled", {"reason": "SystemExit: 1"})),
        (None, ("completed", None)),
    ],
)
def test_an_error_says_how_a_run_has_ended(error, end):
    assert outcome_of(error) == end

    def act(events: RunEvents) -> None:
        with events:
            if error is not None:
                raise error

    if error is None:
        assert recorded(act)[-1] == ("lifecycle.completed", None)
    else:
        log = Log()
        with Appender(log) as run, pytest.raises(type(error)):
            act(RunEvents(run))
        run.flush()
        assert sent(log)[-1] == (f"lifecycle.{end[0]}", end[1])


def test_a_block_that_leaves_a_call_half_way_cancels_the_run():
    def act(events: RunEvents) -> None:
        with events:
            events.begin("a")
        events.emit("llm", "stream")
        events.end("a", "completed")

    assert recorded(act)[-1] == ("lifecycle.cancelled", {"reason": "a call was left half-way"})


def test_the_lease_is_that_of_the_run():
    log = Log()
    with Appender(log) as run, RunEvents(run, lease_seconds=60):
        pass
    assert [call["lease_seconds"] for call in log.calls if call["lease_seconds"]] == [60]
    with pytest.raises(ValueError, match="lease_seconds"):
        RunEvents(run, lease_seconds=0)


def test_a_full_appender_drops_events_but_not_the_end():
    log = Log()
    log.open.clear()
    run = Appender(log)
    events = RunEvents(run)
    events.begin("a")
    wait_until(lambda: log.calls, "the first event is being sent")
    for number in range(MAX_WAITING_EVENTS + 5):
        events.emit("llm", "stream", {"content": number})
    assert events.dropped == 5
    events.end("a", "completed", {"output": 1})
    log.open.set()
    run.flush()
    assert sent(log)[-1] == ("lifecycle.completed", {"output": 1, "dropped": 5})
    assert len(sent(log)) == MAX_WAITING_EVENTS + 2
    events.begin("a", {"name": "again"})
    run.close()
    assert sent(log)[-1] == ("lifecycle.started", {"name": "again"})


def test_the_place_for_ends_has_an_end():
    log = Log()
    log.open.clear()
    with Appender(log) as run:
        run.emit("llm", "stream")
        wait_until(lambda: log.calls, "the first event is being sent")
        for _ in range(MAX_WAITING_EVENTS):
            run.emit_nowait("llm", "stream")
        events = RunEvents(run)
        for number in range(MAX_WAITING_ENDS + 3):
            events.begin(number)
            events.end(number, "completed")
        log.open.set()
    # Of the first run only the beginning is dropped, of the last ones all.
    assert events.dropped == 2 * (MAX_WAITING_ENDS + 3) - MAX_WAITING_ENDS
    assert [name for name, _ in sent(log)].count("lifecycle.completed") == MAX_WAITING_ENDS


def test_a_program_does_not_notice_an_error_and_it_is_logged_once(caplog):
    run = Appender(Log(unavailable()), retry_seconds=0)
    events = RunEvents(run)
    with events:
        events.emit("llm", "stream")
        with pytest.raises(StoreUnavailable):
            run.flush()
        for _ in range(3):
            events.emit("llm", "stream")
    [record] = [each for each in caplog.records if each.name == "tailrace.producers"]
    assert record.getMessage() == "an event is not stored: StoreUnavailable: away"
    assert events.dropped == 4


def test_wrong_names_raise_nothing(caplog):
    def act(events: RunEvents) -> None:
        with events:
            events.emit("no name", "at all")

    assert len(recorded(act)) == 2
    assert "InvalidEvent" in caplog.text


def test_an_event_inside_of_which_the_run_ends_is_left_out():
    """A finalizer of the collector, or a `repr`, may end a call in the middle of an event."""

    class Nested:
        def __repr__(self) -> str:
            events.emit("llm", "stream", 1)
            events.end("a", "cancelled")
            return "nested"

    log = Log()
    with Appender(log) as run:
        events = RunEvents(run)
        events.begin("a")
        events.emit("llm", "stream", Nested())
    assert [name for name, _ in sent(log)][:3] == [
        "lifecycle.started", "llm.stream", "lifecycle.cancelled",
    ]  # fmt: skip


def test_threads_share_a_run_and_the_end_comes_last():
    def act(events: RunEvents) -> None:
        def call(name: int) -> None:
            events.begin(name)
            barrier.wait()
            for number in range(200):
                events.emit("llm", "stream", [name, number])
            events.end(name, "completed")

        barrier = threading.Barrier(6, timeout=20)
        threads = [threading.Thread(target=call, args=(name,)) for name in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)

    events = recorded(act)
    assert [name for name, _ in events] == [
        "lifecycle.started", *["llm.stream"] * 1200, "lifecycle.completed",
    ]  # fmt: skip
    for name in range(6):
        mine = [data[1] for _, data in events[1:-1] if data[0] == name]
        assert mine == [*range(200)]


def test_events_of_threads_reach_an_async_appender_in_order():
    """Its calls belong to one event loop. Nothing overtakes what a thread has emitted."""

    async def main() -> None:
        async with AsyncAppender(log) as run:
            with RunEvents(run) as events:
                for number in range(50):
                    await asyncio.to_thread(events.emit, "llm", "stream", number)
                    events.emit("llm", "stream", number)
                thread = threading.Thread(target=events.emit, args=("llm", "stream", "last"))
                thread.start()
                thread.join()  # and so the loop has not got it yet

    log = AsyncLog()
    asyncio.run(main())
    events = sent(log.log)
    assert [data for _, data in events[1:-1]] == [n // 2 for n in range(100)] + ["last"]
    assert events[-1][0] == "lifecycle.completed"


def test_while_the_loop_does_not_turn_only_so_many_events_wait():
    async def main() -> int:
        async with AsyncAppender(log) as run:
            with RunEvents(run) as events:
                thread = threading.Thread(target=emit_many, args=(events,))
                thread.start()
                thread.join()  # and so the loop stands still
            return events.dropped

    def emit_many(events: RunEvents) -> None:
        for number in range(MAX_WAITING_EVENTS + 3):
            events.emit("llm", "stream", {"content": number})

    log = AsyncLog()
    assert asyncio.run(main()) >= 3
    assert sent(log.log)[-1][0] == "lifecycle.completed"


def test_an_async_appender_without_its_loop_raises_nothing(caplog):
    async def make() -> RunEvents:
        return RunEvents(AsyncAppender(AsyncLog()))

    events = asyncio.run(make())
    with events:
        pass
    assert events.dropped == 2
    assert "RuntimeError" in caplog.text
