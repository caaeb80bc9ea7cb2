"""Producers that use an appender, over HTTP or straight to Redis."""

import asyncio
import atexit
from collections.abc import Callable
from functools import partial

from app.client import Client
from app.streaming.appender import Appender
from app.streaming.errors import StreamingError
from app.streaming.event_store import EventStore
from tests.chaos.producers import Entry, Producer

MAX_EMITTED = 200  # by one appender

# Longer than Redis is ever away. An appender that gives up leaves the rest to its program.
RETRY_SECONDS = 90.0


class Emitter(Producer):
    """Emits to one run with an appender, closes it, and goes on with another run and appender."""

    def __init__(
        self, number: int, runs: list[str], seed: int, appender: Callable[[str], Appender]
    ):
        super().__init__(number, runs, seed)
        self._appender = appender

    async def _produce(self, count: int) -> None:
        first = 0
        while first < count:
            end = min(count, first + self._random.randint(1, MAX_EMITTED))
            try:
                await self._emit(self._choose_run(), range(first, end))
            except StreamingError as error:
                self.wrong.append(f"gave up: {error}")
                return
            first = end

    async def _emit(self, run: str, numbers: range) -> None:
        appender = self._appender(run)
        try:
            for number in numbers:
                await asyncio.sleep(self._due_in(number))
                appender.emit("chaos", "event", self._data(number))
            await asyncio.to_thread(appender.close)
        finally:
            atexit.unregister(appender.flush)  # after the storm nobody waits for the rest
        if appender.stored != len(numbers):
            self.wrong.append(f"{appender.stored} of {len(numbers)} stored")
        entries = self.acknowledged[run]
        entries += [Entry(None, None, self.number, number) for number in numbers[:-1]]
        last = Entry(appender.last_id, appender.last_sequence, self.number, numbers[-1])
        entries.append(last)


class RedisEmitter(Emitter):
    """Appends straight to Redis."""

    kind = "appender, Redis"

    def __init__(self, number: int, runs: list[str], seed: int, store: EventStore):
        super().__init__(number, runs, seed, partial(store.appender, retry_seconds=RETRY_SECONDS))


class HttpEmitter(Emitter):
    """Appends over HTTP."""

    kind = "appender, HTTP"

    def __init__(self, number: int, runs: list[str], seed: int, url: str):
        client = Client(url, retry_seconds=RETRY_SECONDS)
        super().__init__(number, runs, seed, client.appender)
