"""One storm: servers, traffic, faults, a quiet phase, and the comparison."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tests.chaos.comparison import Report, compare, read_logs
from tests.chaos.emitters import HttpEmitter, RedisEmitter
from tests.chaos.faults import Faults
from tests.chaos.followers import Follower
from tests.chaos.producers import Batcher, Poster, Producer
from tests.chaos.servers import DurableRedis, Footprint, MeasuredGateway
from tests.chaos.streamers import Streamer

POSTERS, BATCHERS, STREAMERS = 8, 6, 6
REDIS_EMITTERS, HTTP_EMITTERS = 2, 2
FOLLOWERS = 60
RUNS = 20

# How long producers may go on after their time, and followers until they reach the end.
LATE_SECONDS = 150.0
QUIET_SECONDS = 45.0
SETTLE_SECONDS = 30.0

# A worker keeps up to 16 pooled connections to Redis, even closed ones, until it uses them.
SLACK = Footprint(descriptors=36, redis_connections=32, greenlets=8, memory_mib=60)


@dataclass(frozen=True)
class Plan:
    """The size of a storm. The same seed gives the same faults at the same times."""

    seed: int
    faults: int
    events: int
    seconds: float

    @property
    def max_seconds(self) -> float:
        """More seconds than a storm can take."""
        return self.seconds + LATE_SECONDS + QUIET_SECONDS + 3 * SETTLE_SECONDS + 60


@dataclass(frozen=True)
class Storm:
    """The outcome of a plan."""

    report: Report
    before: Footprint
    after: Footprint


async def storm(plan: Plan, directory: Path) -> Storm:
    """Start servers with their data and logs in the directory, and run a storm on them."""
    redis = DurableRedis(directory)
    gateway = MeasuredGateway(redis.url, directory / "gateway.log")
    try:
        await asyncio.to_thread(redis.start)
        await asyncio.to_thread(gateway.start)
        calm = replace(plan, faults=0, events=500, seconds=1)
        await _traffic("calm", calm, redis, gateway)
        before = await asyncio.to_thread(Footprint.of, gateway, redis)
        report = await _traffic("storm", plan, redis, gateway)
        after = await _settled(before, gateway, redis)
        report.wrong += after.over(before, SLACK)
        if "Traceback" in gateway.log.read_text():
            report.wrong.append("a traceback in the gateway's log")
        return Storm(report, before, after)
    finally:
        gateway.stop()
        redis.stop()


async def _traffic(name: str, plan: Plan, redis: DurableRedis, gateway: MeasuredGateway) -> Report:
    runs = [f"{name}-{number}" for number in range(RUNS)]
    followers = [
        Follower(each, gateway.port, runs[each * RUNS // FOLLOWERS], plan.seed)
        for each in range(FOLLOWERS)
    ]
    producers = _producers(runs, plan.seed, redis, gateway)
    faults = Faults(plan.seed, redis, gateway, producers, followers)
    shares = [len(range(each.number, plan.events, len(producers))) for each in producers]
    following = [asyncio.create_task(each.follow()) for each in followers]
    late = False
    try:
        try:
            async with asyncio.timeout(plan.seconds + LATE_SECONDS):
                await asyncio.gather(
                    faults.inject(plan.faults, plan.seconds),
                    *(each.produce(shares[each.number], plan.seconds) for each in producers),
                )
        except TimeoutError:
            late = True
        for follower in followers:
            follower.quiet = True
        logs = await asyncio.to_thread(read_logs, redis, runs)
        await _until(
            lambda: all(each.records[-1][-1:] == logs[each.run][-1:] for each in followers),
            QUIET_SECONDS,
        )
    finally:
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)
    report = compare(logs, producers, followers)
    report.faults, report.faults_by_kind = faults.injected.total(), faults.injected
    if late:
        report.wrong.append(f"only {report.acknowledged} of {plan.events} events were acknowledged")
    return report


def _producers(
    runs: list[str], seed: int, redis: DurableRedis, gateway: MeasuredGateway
) -> list[Producer]:
    """Make producers of every kind. Each streamer gets one of the last runs for itself."""
    shared, streamed = runs[:-STREAMERS], runs[-STREAMERS:]
    producers: list[Producer] = [
        Streamer(each, streamed[each], seed, gateway.port) for each in range(STREAMERS)
    ]
    for kind, count, server in (
        (Poster, POSTERS, gateway.port),
        (Batcher, BATCHERS, gateway.port),
        (RedisEmitter, REDIS_EMITTERS, redis.url),
        (HttpEmitter, HTTP_EMITTERS, gateway.url),
    ):
        producers += [kind(len(producers) + each, shared, seed, server) for each in range(count)]
    return producers


async def _settled(before: Footprint, gateway: MeasuredGateway, redis: DurableRedis) -> Footprint:
    """Wait until the footprint is back where it was. Returns the last one measured."""
    until = time.monotonic() + SETTLE_SECONDS
    while True:
        after = await asyncio.to_thread(Footprint.of, gateway, redis)
        if not after.over(before, SLACK) or time.monotonic() > until:
            return after
        await asyncio.sleep(1)


async def _until(predicate: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not predicate() and time.monotonic() < until:
        await asyncio.sleep(0.05)
