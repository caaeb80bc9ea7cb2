"""Random schedules of changes to a log: every follower gets what the contract of a stream says."""

import asyncio
import random

import pytest
import redis.asyncio

from tests.schedules.contract import Contract
from tests.schedules.disturbances import CLIENT_NAME, drain, keep_busy
from tests.schedules.followers import Follower, Way
from tests.schedules.pool import run
from tests.schedules.schedule import Outcome, following, settle
from tests.schedules.writer import Writer

SCHEDULES = 250

# With the busy run, as many runs as one reader follows.
RUNS = 62


@pytest.mark.timeout(200)
def test_no_follower_misses_an_event_or_a_notice(tmp_path):
    seed = random.randrange(10**6)

    async def play() -> Outcome:
        total = Outcome()
        async for outcome in run(SCHEDULES, seed, tmp_path):
            total.add(outcome)
        return total

    outcome = asyncio.run(play())
    assert [miss.story for miss in outcome.misses] == [], f"of seed {seed}"
    assert outcome.schedules == SCHEDULES
    assert outcome.delivered > SCHEDULES
    assert outcome.notices > SCHEDULES


async def replace(writer: Writer) -> None:
    await writer.delete()
    await writer.post()
    await writer.post()


async def delete_a_fresh_entry(writer: Writer) -> None:
    await writer.post()
    await writer.xdel([writer.history.retained[-1]])
    await writer.post()


@pytest.mark.timeout(200)
@pytest.mark.parametrize("change", [replace, delete_a_fresh_entry])
def test_streams_that_are_ahead_of_a_busy_reader_are_told(gateway, redis_server, run_id, change):
    async def play() -> list[tuple[int, str]]:
        async with redis.asyncio.Redis(
            port=redis_server.port, protocol=2, client_name=CLIENT_NAME
        ) as client:
            ways = [Way("gateway", gateway.port)]
            runs = [f"{run_id}-{number}" for number in range(RUNS)]
            writers = [Writer(each, ways, client, random.Random(0)) for each in runs]
            busy = f"{run_id}-busy"
            disturbing = [
                asyncio.create_task(keep_busy(busy, ways, client, random.Random(0))),
                asyncio.create_task(drain(busy, ways[0])),
            ]
            try:
                return await _follow_ahead(writers, ways, change)
            finally:
                for writer in writers:
                    writer.hang_up()
                for task in disturbing:
                    task.cancel()
                await asyncio.gather(*disturbing, return_exceptions=True)

    assert asyncio.run(play()) == []


async def _follow_ahead(writers, ways, change) -> list[tuple[int, str]]:
    """Let a second stream read the history of each run while the reader of its feed lags."""

    def follower(name: str, writer: Writer) -> Follower:
        return Follower(name, writer.run, ways, 0.0, start="earliest", fickle=False)

    async def is_caught_up(follower: Follower) -> None:
        while not any(getattr(i, "action", "") == "caught_up" for i in follower.record.items):
            await asyncio.sleep(0.001)

    misses = []
    async with asyncio.timeout(150), following() as join:
        first = [follower("first", writer) for writer in writers]
        for each in first:
            join(each)
        for each in first:
            await is_caught_up(each)
        for writer, each in zip(writers[:40], first, strict=False):
            for _ in range(5):
                await writer.post()
            second = follower("second", writer)
            join(second)
            await is_caught_up(second)
            await change(writer)
            contracts = [Contract(writer.history, x.record) for x in (each, second)]
            await settle(contracts)
            for contract in contracts:
                contract.finish()
                misses += contract.misses
    return misses
