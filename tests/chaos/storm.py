"""One storm: servers, traffic, faults, a quiet phase, and the comparison."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from redis.asyncio import Redis as AsyncRedis
from redis.asyncio import RedisCluster as AsyncRedisCluster

from app.streaming.event_store import EventStore
from tests.chaos.async_clients import AsyncEmitter, AsyncFollower
from tests.chaos.changing import ChangingRuns
from tests.chaos.cluster import ChaosCluster
from tests.chaos.cluster_faults import ClusterFaults
from tests.chaos.comparison import Log, Report, compare, read_logs
from tests.chaos.emitters import HttpEmitter, RedisEmitter
from tests.chaos.failovers import Failovers
from tests.chaos.faults import Faults
from tests.chaos.followers import Follower, MergedFollower
from tests.chaos.javascript import NodeEmitter, NodeFollower
from tests.chaos.producers import Batcher, Poster, Producer
from tests.chaos.redis_faults import RedisFaults, ServerFaults
from tests.chaos.relay import Relay
from tests.chaos.servers import DurableRedis, Footprint, MeasuredGateway, Servers
from tests.chaos.streamers import Streamer
from tests.schedules.followers import Way
from tests.servers import DURABLE

POSTERS, BATCHERS, STREAMERS = 8, 6, 6
REDIS_EMITTERS, HTTP_EMITTERS, ASYNC_EMITTERS, NODE_EMITTERS = 2, 2, 2, 2
FOLLOWERS = 60
ASYNC_FOLLOWERS = 10
MERGED_FOLLOWERS = 12
NODE_FOLLOWERS = 4
RUNS = 20
# Of a merged follower: one event for each frame, or one for all that are sent together.
RUNS_AT_ONCE = (3, RUNS)

# How long producers may go on after their time, and followers until they reach the end.
LATE_SECONDS = 150.0
QUIET_SECONDS = 45.0
SETTLE_SECONDS = 30.0

# A worker keeps up to 16 pooled connections to Redis, even closed ones, until it uses them.
SLACK = Footprint(descriptors=36, redis_connections=32, greenlets=8, memory_mib=60)
# On a cluster it does so for each node. Two greenlets append for each node that was a master.
SLACK_ON_CLUSTER = Footprint(descriptors=108, redis_connections=96, greenlets=32, memory_mib=90)


@dataclass(frozen=True)
class Plan:
    """The size of a storm. The same seed gives the same faults at the same times."""

    seed: int
    faults: int
    events: int
    seconds: float
    changing: int = 60  # how many runs have logs that change
    cluster: bool = False  # three masters with a replica each, in place of one server
    binary: str | None = None  # the path of the servers' program; None for the launcher's
    ack_replicas: int = 0

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
    redis: Servers = (
        ChaosCluster(directory, *DURABLE, binary=plan.binary)
        if plan.cluster
        else DurableRedis(directory, plan.binary)
    )
    log, replicas = directory / "gateway.log", plan.ack_replicas
    gateway = MeasuredGateway(redis.url, log, ACK_REPLICAS=replicas)
    try:
        await asyncio.to_thread(redis.start)
        await asyncio.to_thread(gateway.start)
        calm = replace(plan, faults=0, events=500, seconds=1)
        await _traffic("calm", calm, redis, gateway)
        before = await asyncio.to_thread(Footprint.of, gateway, redis)
        report = await _traffic("storm", plan, redis, gateway)
        slack = SLACK_ON_CLUSTER if plan.cluster else SLACK
        after = await _settled(before, slack, gateway, redis)
        report.wrong += after.over(before, slack)
        if "Traceback" in gateway.log.read_text():
            report.wrong.append("a traceback in the gateway's log")
        return Storm(report, before, after)
    finally:
        gateway.stop()
        redis.stop()


async def _traffic(name: str, plan: Plan, redis: Servers, gateway: MeasuredGateway) -> Report:
    async with Relay(gateway.port, plan.seed) as relay, redis.async_client() as client:
        traffic = _Traffic(name, plan, redis, gateway, relay, client)
        return await traffic.run()


class _Traffic:
    """Producers, followers and changing runs, directly and over a relay, and the faults."""

    def __init__(
        self,
        name: str,
        plan: Plan,
        redis: Servers,
        gateway: MeasuredGateway,
        relay: Relay,
        client: AsyncRedis | AsyncRedisCluster,
    ):
        self._plan = plan
        self._redis = redis
        self._relay = relay
        self._runs = [f"{name}-{number}" for number in range(RUNS)]
        ports = [gateway.port, relay.port]
        self._followers = [
            Follower(each, ports[each % 3 == 0], self._runs[each * RUNS // FOLLOWERS], plan.seed)
            for each in range(FOLLOWERS)
        ]
        self._followers += [
            AsyncFollower(each, ports[each % 3 == 0], self._runs[each * 2], plan.seed)
            for each in range(ASYNC_FOLLOWERS)
        ]
        self._merged = [
            MergedFollower(each, ports[each % 3 == 0], self._some_runs(each), plan.seed)
            for each in range(MERGED_FOLLOWERS)
        ]
        # One run, and three or all of them on one stream.
        self._in_node = [
            NodeFollower(each, ports[each % 2], runs, plan.seed)
            for each, runs in enumerate(
                [self._runs[:1], *(self._some_runs(each) for each in range(NODE_FOLLOWERS - 1))]
            )
        ]
        self._clients = [*self._followers, *self._merged, *self._in_node]
        # What each of them has of each of its runs.
        self._records = self._followers + [
            part for each in (*self._merged, *self._in_node) for part in each.parts.values()
        ]
        stores = [
            EventStore(redis.url, maxlen=10**7, ack_replicas=plan.ack_replicas)
            for _ in range(REDIS_EMITTERS)
        ]
        self._producers = _producers(self._runs, plan.seed, stores, ports)
        ways = [Way("directly", gateway.port), Way("over the relay", relay.port)]
        changing = redis.changing_runs(name, plan.changing)
        self._changing = ChangingRuns(changing, plan.seed, ways, client)
        self._failovers = Failovers(acknowledged_too=plan.ack_replicas == 0)
        self._faults = Faults(
            plan.seed, self._server_faults(), gateway, self._producers, self._clients
        )

    async def run(self) -> Report:
        """Go on for the plan's seconds, wait until all is quiet, and compare."""
        following = [asyncio.create_task(each.follow()) for each in self._clients]
        following += self._changing.follow(self._plan.seconds / 2)
        try:
            late = await self._produce()
            self._relay.quiet = True
            for client in self._clients:
                client.quiet = True
            logs = await asyncio.to_thread(read_logs, self._redis, self._runs)
            await _until(lambda: self._is_settled(logs), QUIET_SECONDS)
        finally:
            for task in following:
                task.cancel()
            await asyncio.gather(*following, return_exceptions=True)
        report = compare(logs, self._producers, self._records, self._failovers)
        for merged in self._merged:
            report.streams_opened += merged.answers[200]
            report.wrong += merged.wrong
        for each in self._in_node:
            report.wrong += each.wrong
        self._changing.add_to(report)
        report.faults, report.faults_by_kind = self._faults.injected.total(), self._faults.injected
        report.cuts = self._relay.cuts
        if late:
            done = f"{report.acknowledged} of {self._plan.events}"
            report.wrong.append(f"only {done} events were acknowledged")
        return report

    def _server_faults(self) -> ServerFaults:
        if isinstance(self._redis, ChaosCluster):
            return ClusterFaults(self._redis, self._runs, self._failovers)
        return RedisFaults(self._redis)

    def _is_settled(self, logs: Log) -> bool:
        """Return whether every follower has reached the end of its log."""
        at_the_end = (each.records[-1][-1:] == logs[each.run][-1:] for each in self._records)
        return all(at_the_end) and self._changing.settled()

    def _some_runs(self, number: int) -> list[str]:
        count = RUNS_AT_ONCE[number % len(RUNS_AT_ONCE)]
        return [self._runs[(number + each) % RUNS] for each in range(count)]

    async def _produce(self) -> bool:
        """Produce, change and inject faults. Returns whether that took too long."""
        count, seconds = len(self._producers), self._plan.seconds
        try:
            async with asyncio.timeout(seconds + LATE_SECONDS):
                await asyncio.gather(
                    self._faults.inject(self._plan.faults, seconds),
                    self._changing.change(seconds),
                    *(
                        each.produce(len(range(each.number, self._plan.events, count)), seconds)
                        for each in self._producers
                    ),
                )
        except TimeoutError:
            return True
        return False


def _producers(
    runs: list[str], seed: int, stores: list[EventStore], ports: list[int]
) -> list[Producer]:
    """Make producers of every kind. Each streamer gets one of the last runs for itself."""
    shared, streamed = runs[:-STREAMERS], runs[-STREAMERS:]
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    producers: list[Producer] = [
        Streamer(each, streamed[each], seed, ports[each % 2]) for each in range(STREAMERS)
    ]
    for kind, count, servers in (
        (Poster, POSTERS, ports),
        (Batcher, BATCHERS, ports),
        (RedisEmitter, REDIS_EMITTERS, stores),
        (HttpEmitter, HTTP_EMITTERS, urls),
        (NodeEmitter, NODE_EMITTERS, urls),
        (AsyncEmitter, ASYNC_EMITTERS, urls),
    ):
        producers += [
            kind(len(producers) + each, shared, seed, servers[each % len(servers)])
            for each in range(count)
        ]
    return producers


async def _settled(
    before: Footprint, slack: Footprint, gateway: MeasuredGateway, redis: Servers
) -> Footprint:
    """Wait until the footprint is back where it was. Returns the last one measured."""
    until = time.monotonic() + SETTLE_SECONDS
    while True:
        after = await asyncio.to_thread(Footprint.of, gateway, redis)
        if not after.over(before, slack) or time.monotonic() > until:
            return after
        await asyncio.sleep(1)


async def _until(predicate: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not predicate() and time.monotonic() < until:
        await asyncio.sleep(0.05)
