"""Many schedules at once over the same gateways."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import redis.asyncio

from tests.schedules.disturbances import CLIENT_NAME, disturb
from tests.schedules.followers import Way
from tests.schedules.schedule import Miss, Outcome, play
from tests.servers import GatewayServer, RedisServer

# More runs than one reader of a gateway follows.
AT_ONCE = 100

# Readers of the second gateway are far behind the log.
GATEWAYS = {"promptly": "wsgi:app", "late": "tests.schedules.late_wsgi:app"}

HEARTBEAT_SECONDS = 1


async def run(
    count: int, seed: int, directory: Path, at_once: int = AT_ONCE
) -> AsyncIterator[Outcome]:
    """Start servers with their data and logs in a directory; yield each schedule's outcome."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(RedisServer(directory))
        ways = [
            Way(name, stack.enter_context(gateway).port)
            for name, gateway in _gateways(server, directory)
        ]
        async with redis.asyncio.Redis(
            port=server.port, protocol=2, client_name=CLIENT_NAME
        ) as client:
            disturbing = asyncio.create_task(disturb(ways, client, random.Random(seed)))
            try:
                async for outcome in _play_all(count, seed, ways, client, at_once):
                    yield outcome
            finally:
                disturbing.cancel()
                await asyncio.gather(disturbing, return_exceptions=True)


def _gateways(server: RedisServer, directory: Path) -> Iterator[tuple[str, GatewayServer]]:
    for name, application in GATEWAYS.items():
        log = directory / f"{name}.log"
        settings = {"HEARTBEAT_SECONDS": HEARTBEAT_SECONDS, "PYTHONFAULTHANDLER": 1}
        yield name, GatewayServer(server.url, log, application=application, **settings)


async def _play_all(
    count: int, seed: int, ways: Sequence[Way], client: redis.asyncio.Redis, at_once: int
) -> AsyncIterator[Outcome]:
    numbers = iter(range(count))
    outcomes: asyncio.Queue[Outcome | Exception] = asyncio.Queue()

    async def play_some() -> None:
        for number in numbers:
            name = f"s{number}"
            try:
                outcome = await play(name, f"{seed}/{number}", ways, client)
            except TimeoutError:
                outcome = Outcome(1, misses=[Miss("stuck: a gateway does not answer", name)])
            except Exception as error:
                outcomes.put_nowait(error)
                raise
            outcomes.put_nowait(outcome)

    players = [asyncio.create_task(play_some()) for _ in range(min(at_once, count))]
    try:
        for _ in range(count):
            outcome = await outcomes.get()
            if isinstance(outcome, Exception):
                raise outcome
            yield outcome
    finally:
        for player in players:
            player.cancel()
        await asyncio.gather(*players, return_exceptions=True)
