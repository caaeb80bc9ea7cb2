"""The faults of one Redis server."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from app.streaming.redis.redis_url import COMMAND_TIMEOUT_SECONDS
from tests.chaos.servers import DurableRedis

# Longer than an append waits for its reply: the append is carried out, but not acknowledged.
UNANSWERED_SECONDS = COMMAND_TIMEOUT_SECONDS + 0.5

Fault = Callable[[random.Random], Awaitable[None]]


class ServerFaults(Protocol):
    """What can be done to Redis. Only one of these faults may last at a time."""

    @property
    def kinds(self) -> Sequence[Fault]: ...


class RedisFaults:
    """Faults of a server that has on disk what it acknowledged."""

    def __init__(self, server: DurableRedis):
        self._server = server
        self.kinds: Sequence[Fault] = (
            self.redis_killed, self.redis_stopped, self.redis_paused,
            self.redis_connections_killed, self.redis_scripts_flushed, self.redis_full,
            self.redis_writes_paused,
        )  # fmt: skip

    async def redis_killed(self, dice: random.Random) -> None:
        await asyncio.to_thread(self._server.stop)
        try:
            await asyncio.sleep(dice.choice((0, 0, dice.uniform(0, 2))))
        finally:
            await asyncio.to_thread(self._server.start)

    async def redis_stopped(self, dice: random.Random) -> None:
        self._server.pause()
        try:
            await asyncio.sleep(dice.choice((0.2 * 20 ** dice.random(), UNANSWERED_SECONDS)))
        finally:
            self._server.resume()

    async def redis_paused(self, dice: random.Random) -> None:
        seconds = 0.1 * 20 ** dice.random()
        await asyncio.to_thread(self._server.run, "CLIENT", "PAUSE", int(1000 * seconds))
        await asyncio.sleep(seconds)

    async def redis_connections_killed(self, dice: random.Random) -> None:
        await asyncio.to_thread(self._server.run, "CLIENT", "KILL", "TYPE", "normal")

    async def redis_scripts_flushed(self, dice: random.Random) -> None:
        await asyncio.to_thread(self._server.run, "SCRIPT", "FLUSH")

    async def redis_full(self, dice: random.Random) -> None:
        await asyncio.to_thread(self._server.run, "CONFIG", "SET", "maxmemory", 1)
        try:
            await asyncio.sleep(0.1 * 20 ** dice.random())
        finally:
            await asyncio.to_thread(self._server.run, "CONFIG", "SET", "maxmemory", 0)

    async def redis_writes_paused(self, dice: random.Random) -> None:
        seconds = 0.1 * 20 ** dice.random()
        await asyncio.to_thread(self._server.run, "CLIENT", "PAUSE", int(1000 * seconds), "WRITE")
        await asyncio.sleep(seconds)
