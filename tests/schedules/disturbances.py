"""What makes readers lag: a busy run, broken connections, and a Redis that waits."""

import asyncio
import contextlib
import random
from collections.abc import Sequence

import redis.asyncio
from redis.exceptions import RedisError

from tests.chaos.wire import BROKEN, connect
from tests.schedules.followers import Way
from tests.schedules.writer import Writer

# The connections of the tests have this name, and are spared.
CLIENT_NAME = "schedules"
BUSY_RUN = "busy"


async def disturb(ways: Sequence[Way], client: redis.asyncio.Redis, dice: random.Random) -> None:
    """Disturb the gateways until this is cancelled."""
    async with asyncio.TaskGroup() as group:
        group.create_task(keep_busy(BUSY_RUN, ways, client, dice))
        group.create_task(_break_connections(client, dice))
        group.create_task(_pause(client, dice))
        for way in ways:
            group.create_task(drain(BUSY_RUN, way))


async def keep_busy(
    run: str, ways: Sequence[Way], client: redis.asyncio.Redis, dice: random.Random
) -> None:
    """Append big bursts to one run, and begin its log again now and then."""
    while True:
        writer = Writer(run, ways, client, random.Random(dice.random()))
        try:
            for _ in range(50):
                await writer.post(100, padding=100)
                await asyncio.sleep(0.1)
            await writer.close()
        finally:
            writer.hang_up()


async def drain(run: str, way: Way) -> None:
    """Follow a run, and look at nothing."""
    request = f"GET /runs/{run}/events/stream HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    while True:
        with contextlib.suppress(*BROKEN):
            reader, writer = await connect(way.port)
            try:
                writer.write(request)
                while await reader.read(65536):
                    pass
            finally:
                writer.transport.abort()
        await asyncio.sleep(0.1)


async def _break_connections(client: redis.asyncio.Redis, dice: random.Random) -> None:
    """Break connections of the gateways, sometimes again and again, so that readers back off."""
    while True:
        await asyncio.sleep(dice.uniform(0.5, 4))
        only_readers = dice.random() < 0.7
        for _ in range(dice.choice((1, 1, 30))):
            with contextlib.suppress(RedisError, OSError):
                for each in await client.client_list():
                    spared = each["name"] == CLIENT_NAME or (
                        only_readers and each["cmd"] != "xread"
                    )
                    if not spared:
                        await client.client_kill_filter(_id=each["id"])
            await asyncio.sleep(0.03)


async def _pause(client: redis.asyncio.Redis, dice: random.Random) -> None:
    while True:
        await asyncio.sleep(dice.uniform(1, 6))
        with contextlib.suppress(RedisError, OSError):
            await client.client_pause(dice.randint(30, 400), all=dice.random() < 0.5)
