"""Runs whose logs change in every way, under the eyes of followers that reconnect at random."""

import asyncio
import random
from collections.abc import Sequence

import redis.asyncio

from tests.chaos.comparison import Report
from tests.schedules.contract import Contract
from tests.schedules.followers import Follower, Way
from tests.schedules.operations import choose
from tests.schedules.schedule import Outcome, make_follower
from tests.schedules.writer import Writer

FOLLOWERS_OF_A_RUN = 2
PAUSE_SECONDS = 0.3


class ChangingRuns:
    """Entries and logs are deleted, trimmed, replaced, and hidden by keys of another type.

    Each follower's record is checked with the notices that it got.
    """

    def __init__(
        self,
        runs: Sequence[str],
        seed: int,
        ways: Sequence[Way],
        client: redis.asyncio.Redis | redis.asyncio.RedisCluster,
    ):
        self._dice = random.Random(f"{seed} changing")
        self._writers = [
            Writer(run, ways, client, random.Random(self._dice.random())) for run in runs
        ]
        self._followers = [
            make_follower("its follower", run, ways, self._dice)
            for run in runs
            for _ in range(FOLLOWERS_OF_A_RUN)
        ]
        self._contracts: list[Contract] = []

    def follow(self, seconds: float) -> list[asyncio.Task[None]]:
        """Return tasks in which the followers join within some seconds, and follow."""
        joins = [(each, self._dice.uniform(0, seconds)) for each in self._followers]
        return [asyncio.create_task(_join(follower, delay)) for follower, delay in joins]

    async def change(self, seconds: float) -> None:
        """Change all logs at random for some seconds, and append to each at the end."""
        until = asyncio.get_running_loop().time() + seconds
        try:
            async with asyncio.TaskGroup() as group:
                for writer in self._writers:
                    dice = random.Random(self._dice.random())
                    group.create_task(_change(writer, until, dice))
        finally:
            for writer in self._writers:
                writer.hang_up()
        histories = {writer.run: writer.history for writer in self._writers}
        for follower in self._followers:
            follower.quiet = True
            self._contracts.append(Contract(histories[follower.run], follower.record))

    def settled(self) -> bool:
        """Return whether every follower has all that is due to it."""
        return all(contract.settled() for contract in self._contracts)

    def add_to(self, report: Report) -> None:
        """Add what was seen to the report, with the story of each miss."""
        outcome = Outcome()
        for contract in self._contracts:
            contract.finish()
        for writer in self._writers:
            contracts = [each for each in self._contracts if each.history is writer.history]
            outcome.add_run(writer.run, writer.history, contracts)
        report.changes += outcome.changes
        report.notices += outcome.notices
        report.delivered_of_changing += outcome.delivered
        report.streams_opened += outcome.streams
        report.missed += len(outcome.misses)
        report.wrong += [miss.story for miss in outcome.misses]


async def _join(follower: Follower, delay: float) -> None:
    await asyncio.sleep(delay)
    await follower.follow()


async def _change(writer: Writer, until: float, dice: random.Random) -> None:
    loop = asyncio.get_running_loop()
    while loop.time() < until:
        await choose(dice)(writer, dice)
        await asyncio.sleep(dice.expovariate(1 / PAUSE_SECONDS))
    await writer.post()
