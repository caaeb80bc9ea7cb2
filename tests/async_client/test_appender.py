"""The appender of AsyncClient: room, cancellation, the end of the loop, and errors."""

import asyncio
import contextlib
import os
import re

import pytest

from app.async_client import AsyncAppender
from app.async_client import appender as module
from app.streaming import at_exit, event_queue
from app.streaming.errors import (
    AppenderFull,
    EventTooLarge,
    InvalidEvent,
    RunEnded,
    StoreUnavailable,
)
from app.streaming.event_queue import MAX_WAITING_EVENTS
from app.streaming.new_event import MAX_EVENTS
from tests.streaming.fake_log import Log, unavailable


class AsyncLog:
    """A log in memory whose appends wait while `open` is cleared."""

    def __init__(self, *at_each):
        self.log = Log(*at_each)
        self.open = asyncio.Event()
        self.open.set()

    async def __call__(self, new_events, **options):
        await self.open.wait()
        return self.log(new_events, **options)


@pytest.fixture(autouse=True)
def _nothing_is_printed_at_the_exit():
    yield
    at_exit._with_error.clear()


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 20))


async def emit(appender: AsyncAppender, *numbers: int) -> None:
    for number in numbers:
        await appender.emit("llm", "stream", number)


async def fill(appender: AsyncAppender) -> None:
    """Emit until the appender is full, while its sender cannot send."""
    await emit(appender, 0)
    await turns()  # the sender has taken it
    for number in range(MAX_WAITING_EVENTS):
        appender.emit_nowait("llm", "stream", number)


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_events_are_stored_in_order_and_in_batches():
    async def main():
        log = AsyncLog()
        async with AsyncAppender(log, expected_sequence=1) as appender:
            await emit(appender, *range(2500))
            await appender.flush()
            assert (appender.stored, appender.not_stored) == (2500, 0)
            appender.emit_nowait("llm", "stream", 2500, lease_seconds=9)
        assert log.log.events == list(range(2501))
        assert max(map(len, log.log.batches)) <= MAX_EVENTS
        assert log.log.calls[-1]["lease_seconds"] == 9
        assert log.log.calls[-1]["expected_sequence"] == 2501
        assert appender.last_sequence == 2501

    run(main())


def test_emit_gives_the_other_tasks_turns():
    async def main():
        others = 0

        async def count() -> None:
            nonlocal others
            while True:
                others += 1
                await asyncio.sleep(0)

        log = AsyncLog()
        log.open.clear()
        counting = asyncio.create_task(count())
        appender = AsyncAppender(log)
        await emit(appender, *range(5000))
        assert others >= 5000 // module.EVENTS_A_TURN - 1
        counting.cancel()
        log.open.set()
        await appender.close()

    run(main())


def test_a_full_appender_makes_emit_wait_and_emit_nowait_raise():
    async def main():
        log = AsyncLog()
        log.open.clear()
        appender = AsyncAppender(log)
        await fill(appender)
        with pytest.raises(AppenderFull):
            appender.emit_nowait("llm", "stream", -2)
        waiting = [asyncio.create_task(emit(appender, number)) for number in (-3, -4)]
        waiting[0].cancel()
        await turns()
        assert [each.done() for each in waiting] == [True, False]
        log.open.set()
        await waiting[1]
        await appender.close()
        assert -4 in log.log.events
        assert not {-2, -3} & {*log.log.events}

    run(main())


def test_large_events_fill_an_appender_too(monkeypatch):
    monkeypatch.setattr(event_queue, "MAX_WAITING_BYTES", 1000)

    async def main():
        log = AsyncLog()
        log.open.clear()
        appender = AsyncAppender(log)
        appender.emit_nowait("llm", "stream", "x" * 1500)
        with pytest.raises(AppenderFull):
            appender.emit_nowait("llm", "stream")
        log.open.set()
        await appender.close()
        assert appender.stored == 1

    run(main())


def test_a_batch_that_was_not_stored_is_repeated_with_its_key(monkeypatch):
    monkeypatch.setattr("app.streaming.batch_sender.INITIAL_PAUSE_SECONDS", 0.001)

    async def main():
        log = AsyncLog(unavailable(), unavailable(None))
        async with AsyncAppender(log) as appender:
            await emit(appender, 1, 2)
        assert len({call["idempotency_key"] for call in log.log.calls}) == 1
        assert log.log.events == [1, 2]

    run(main())


def test_an_error_is_final_and_every_later_call_raises_it():
    async def main():
        appender = AsyncAppender(AsyncLog(unavailable(None)), retry_seconds=0)
        await emit(appender, 1)
        for call in (appender.flush, lambda: emit(appender, 2), appender.close):
            with pytest.raises(StoreUnavailable, match="away"):
                await call()
        with pytest.raises(ValueError, match="closed"):
            await emit(appender, 3)
        assert (appender.stored, appender.not_stored, appender.has_final_error) == (0, 1, True)

    run(main())
    assert not at_exit._with_error


def test_those_who_wait_for_room_get_a_final_error():
    async def main():
        def ended():
            raise RunEnded("over")

        log = AsyncLog(ended)
        log.open.clear()
        appender = AsyncAppender(log)
        await fill(appender)
        waiting = asyncio.create_task(emit(appender, 1))
        await turns()
        log.open.set()
        with pytest.raises(RunEnded):
            await waiting

    run(main())


def test_refused_events_are_left_out_and_counted():
    async def main():
        async def append(new_events, **options):
            if len(new_events) > 1 or new_events[0].data_json == b"3":
                raise EventTooLarge("body" if len(new_events) > 1 else "data", "no")
            return await log(new_events, **options)

        log = AsyncLog()
        appender = AsyncAppender(append)
        await emit(appender, *range(6))
        with pytest.raises(EventTooLarge):
            await appender.flush()
        await appender.close()
        assert log.log.events == [0, 1, 2, 4, 5]
        assert (appender.stored, appender.refused, appender.not_stored) == (5, 1, 1)

    run(main())


def test_a_wrong_event_is_refused_at_once():
    async def main():
        appender = AsyncAppender(AsyncLog())
        with pytest.raises(InvalidEvent):
            await appender.emit("no name", "stream")
        with pytest.raises(InvalidEvent):
            appender.emit_nowait("llm", "stream", {1})
        await appender.close()
        with pytest.raises(ValueError, match="closed"):
            appender.emit_nowait("llm", "stream")

    run(main())


def test_a_cancelled_context_stores_what_waits():
    async def main():
        log = AsyncLog()
        log.open.clear()

        async def produce():
            async with AsyncAppender(log) as appender:
                await emit(appender, 1, 2, 3)
                await asyncio.sleep(60)

        producer = asyncio.create_task(produce())
        await turns()
        producer.cancel()
        await turns()
        assert not producer.done()
        log.open.set()
        with pytest.raises(asyncio.CancelledError):
            await producer
        assert log.log.events == [1, 2, 3]

    run(main())


def test_a_loop_that_cancels_all_its_tasks_stores_what_a_context_waits_for():
    """As asyncio.run does at its end; the sender is one of the tasks."""
    log = None

    async def produce():
        async with AsyncAppender(log) as appender:
            await emit(appender, 1, 2, 3)
            await asyncio.sleep(60)

    async def main():
        nonlocal log
        log = AsyncLog()
        log.open.clear()
        asyncio.get_running_loop().call_later(0.05, log.open.set)
        main.task = asyncio.create_task(produce())
        await turns()

    asyncio.run(main())
    assert log.log.events == [1, 2, 3]


def test_a_cancelled_flush_leaves_the_appender_usable():
    async def main():
        log = AsyncLog()
        log.open.clear()
        appender = AsyncAppender(log)
        await emit(appender, 1)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(appender.flush(), 0.01)
        log.open.set()
        await emit(appender, 2)
        await appender.close()
        assert log.log.events == [1, 2]

    run(main())


def test_a_cancelled_sender_repeats_its_batch_with_the_same_key():
    async def main():
        log = AsyncLog()
        log.open.clear()
        appender = AsyncAppender(log)
        await emit(appender, 1)
        await turns()
        flushing = asyncio.create_task(appender.flush())
        await turns()
        appender._sender.cancel()
        await turns()
        log.open.set()
        await flushing
        assert log.log.events == [1]

    run(main())


def test_events_that_wait_at_the_end_of_the_loop_are_printed_at_the_exit(capsys, monkeypatch):
    monkeypatch.setattr(at_exit, "_has_flushed", at_exit._has_flushed)  # as it was, afterwards

    async def main():
        log = AsyncLog()
        log.open.clear()
        await emit(AsyncAppender(log, name="run 7"), 1, 2, 3)
        await turns()

    asyncio.run(main())
    at_exit._flush_all()
    printed = capsys.readouterr().err
    pattern = r"tailrace: 3 events of run 7 may not be stored: StoreUnavailable: .*loop.*\n"
    assert re.fullmatch(pattern, printed)


def test_an_appender_that_has_stored_all_is_not_kept():
    async def main():
        appender = AsyncAppender(AsyncLog())
        await emit(appender, 1)
        await turns(20)
        assert appender.stored == 1

    run(main())
    assert not at_exit._with_error


def test_an_appender_belongs_to_one_loop():
    async def begin():
        appender = AsyncAppender(AsyncLog())
        await emit(appender, 1)
        return appender

    async def go_on(appender):
        await emit(appender, 2)

    loop = asyncio.new_event_loop()
    appender = loop.run_until_complete(begin())
    try:
        with pytest.raises(RuntimeError, match="another event loop"):
            run(go_on(appender))
    finally:
        loop.run_until_complete(appender.close())
        loop.close()
    with pytest.raises(RuntimeError, match="no running event loop"):
        appender.emit_nowait("llm", "stream")


def test_a_forked_child_starts_with_an_empty_appender():
    async def main():
        log = AsyncLog()
        log.open.clear()
        appender = AsyncAppender(log)
        await emit(appender, 1, 2, 3)
        await turns()
        child = os.fork()
        if child == 0:
            is_empty = appender.not_stored == 0 and appender.is_idle()
            os._exit(0 if is_empty and not at_exit._with_error else 1)
        assert os.waitpid(child, 0)[1] == 0
        log.open.set()
        await appender.close()
        assert log.log.events == [1, 2, 3]

    run(main())
