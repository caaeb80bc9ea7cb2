"""A producer and a follower that use AsyncClient."""

import asyncio
from typing import Any

from app.async_client import AsyncClient
from app.streaming.errors import StreamingError
from tests.chaos.emitters import MAX_EMITTED, RETRY_SECONDS
from tests.chaos.followers import Follower
from tests.chaos.producers import Entry, Producer


class AsyncEmitter(Producer):
    """Emits to one run with an async appender, closes it, and goes on with another run."""

    kind = "appender, asyncio"

    def __init__(self, number: int, runs: list[str], seed: int, url: str):
        super().__init__(number, runs, seed)
        self._client = AsyncClient(url, retry_seconds=RETRY_SECONDS)

    async def _produce(self, count: int) -> None:
        first = 0
        async with self._client:
            while first < count:
                end = min(count, first + self._random.randint(1, MAX_EMITTED))
                try:
                    await self._emit(self._choose_run(), range(first, end))
                except StreamingError as error:
                    self.wrong.append(f"gave up: {error}")
                    return
                first = end

    async def _emit(self, run: str, numbers: range) -> None:
        async with self._client.appender(run) as appender:
            for number in numbers:
                await asyncio.sleep(self._due_in(number))
                await appender.emit("chaos", "event", self._data(number))
        if appender.stored != len(numbers):
            self.wrong.append(f"{appender.stored} of {len(numbers)} stored")
        entries = self.acknowledged[run]
        entries += [Entry(None, None, self.number, number) for number in numbers[:-1]]
        entries.append(Entry(appender.last_id, appender.last_sequence, self.number, numbers[-1]))


class AsyncFollower(Follower):
    """Follows one run with AsyncClient, which reconnects by itself."""

    reconnects = True

    def __init__(self, number: int, port: int, run: str, seed: int):
        super().__init__(number, port, run, seed)
        self.behaviour = "asyncio"
        self.name = f"follower {number} (AsyncClient) of {run}"
        self.cursor = "earliest"

    async def follow(self) -> None:
        while True:
            async with AsyncClient(f"http://127.0.0.1:{self._port}") as client:
                self._reading = asyncio.create_task(self._read(client))
                try:
                    await asyncio.wait([self._reading])
                finally:
                    self._reading.cancel()
                    await asyncio.gather(self._reading, return_exceptions=True)
            await asyncio.sleep(0.1)

    def cut(self) -> None:
        """Cancel the iteration in the middle, and begin another one."""
        if hasattr(self, "_reading"):
            self._reading.cancel()

    async def _read(self, client: AsyncClient) -> None:
        try:
            async for event in client.follow(self.run, self.cursor):
                await self._read_slowly(0)
                if event.id is None:
                    self.record_control(f"gateway.{event.action}")
                    self.cursor = "earliest" if event.action == "reset" else self.cursor
                else:
                    self.record(_document(event))
                    self.cursor = event.id
        except StreamingError as error:
            self.wrong.append(f"{self.name}: {error!r} after {self.cursor}")


def _document(event: Any) -> dict[str, Any]:
    return {"id": event.id, "sequence": event.sequence, "data": event.data}
