"""The faults, and the order and the times in which a seed injects them."""

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable

from app.streaming.log.redis_url import COMMAND_TIMEOUT_SECONDS
from tests.chaos.followers import Follower
from tests.chaos.producers import Producer
from tests.chaos.servers import KeptRedis, WatchedGateway
from tests.chaos.wire import BROKEN, connect

BURST = 200

# Longer than an append is waited for, which is then carried out though nobody was told.
UNANSWERED_SECONDS = COMMAND_TIMEOUT_SECONDS + 0.5

Fault = Callable[[random.Random], Awaitable[None]]


class Faults:
    """Every kind in turn, in an order of chance; those of Redis one after another."""

    def __init__(
        self,
        seed: int,
        redis: KeptRedis,
        gateway: WatchedGateway,
        producers: list[Producer],
        followers: list[Follower],
    ):
        self.injected: Counter[str] = Counter()
        self._seed = seed
        self._redis = redis
        self._gateway = gateway
        self._producers = producers
        self._followers = followers
        self._redis_is_free = asyncio.Lock()
        self._of_redis = [
            self.redis_killed, self.redis_stopped, self.redis_paused,
            self.redis_connections_killed, self.redis_scripts_flushed, self.redis_full,
            self.redis_writes_paused,
        ]  # fmt: skip
        self._of_clients = [
            self.followers_cut, self.producers_cut, self.connections_in_a_burst,
            self.half_a_post, self.follower_stalled,
        ]  # fmt: skip
        self._of_workers = [self.worker_killed, self.gateway_reloaded]

    async def inject(self, count: int, seconds: float) -> None:
        """So many faults over so many seconds, which last a little longer themselves."""
        chance = random.Random(self._seed)
        times = sorted(chance.uniform(0, seconds) for _ in range(count))
        loop = asyncio.get_running_loop()
        began, kinds = loop.time(), []
        async with asyncio.TaskGroup() as under_way:
            for number, due in enumerate(times):
                if not kinds:
                    kinds = self._of_redis + self._of_clients
                    # In the second half the workers grow old, so that leaks show.
                    kinds += self._of_workers if number <= count / 2 else []
                    chance.shuffle(kinds)
                fault, its_chance = kinds.pop(), random.Random(chance.random())
                await asyncio.sleep(began + due - loop.time())
                under_way.create_task(self._one(fault, its_chance))

    async def _one(self, fault: Fault, chance: random.Random) -> None:
        if fault in self._of_redis:
            async with self._redis_is_free:
                await fault(chance)
        else:
            await fault(chance)
        self.injected[fault.__name__.replace("_", " ")] += 1

    # Redis

    async def redis_killed(self, chance: random.Random) -> None:
        await asyncio.to_thread(self._redis.stop)
        try:
            await asyncio.sleep(chance.choice((0, 0, chance.uniform(0, 2))))
        finally:
            await asyncio.to_thread(self._redis.start)

    async def redis_stopped(self, chance: random.Random) -> None:
        self._redis.pause()
        try:
            await asyncio.sleep(chance.choice((0.2 * 20 ** chance.random(), UNANSWERED_SECONDS)))
        finally:
            self._redis.resume()

    async def redis_paused(self, chance: random.Random) -> None:
        seconds = 0.1 * 20 ** chance.random()
        await asyncio.to_thread(self._redis.tell, "CLIENT", "PAUSE", int(1000 * seconds))
        await asyncio.sleep(seconds)

    async def redis_connections_killed(self, chance: random.Random) -> None:
        await asyncio.to_thread(self._redis.tell, "CLIENT", "KILL", "TYPE", "normal")

    async def redis_scripts_flushed(self, chance: random.Random) -> None:
        await asyncio.to_thread(self._redis.tell, "SCRIPT", "FLUSH")

    async def redis_full(self, chance: random.Random) -> None:
        await asyncio.to_thread(self._redis.tell, "CONFIG", "SET", "maxmemory", 1)
        try:
            await asyncio.sleep(0.1 * 20 ** chance.random())
        finally:
            await asyncio.to_thread(self._redis.tell, "CONFIG", "SET", "maxmemory", 0)

    async def redis_writes_paused(self, chance: random.Random) -> None:
        seconds = 0.1 * 20 ** chance.random()
        await asyncio.to_thread(self._redis.tell, "CLIENT", "PAUSE", int(1000 * seconds), "WRITE")
        await asyncio.sleep(seconds)

    # The gateway

    async def worker_killed(self, chance: random.Random) -> None:
        if workers := self._gateway.workers():  # those of a reload may all be on their way
            chance.choice(workers).kill()

    async def gateway_reloaded(self, chance: random.Random) -> None:
        self._gateway.process.send_signal(signal.SIGHUP)

    # The clients

    async def followers_cut(self, chance: random.Random) -> None:
        for follower in chance.sample(self._followers, len(self._followers) // 2):
            follower.cut()

    async def producers_cut(self, chance: random.Random) -> None:
        for producer in chance.sample(self._producers, len(self._producers) // 2):
            producer.cut()

    async def follower_stalled(self, chance: random.Random) -> None:
        chance.choice(self._followers).stall(2 * 20 ** chance.random())

    async def connections_in_a_burst(self, chance: random.Random) -> None:
        """Half of them ask for a stream, and nobody waits for an answer."""
        run = chance.choice(self._followers).run
        ask = f"GET /runs/{run}/events/stream HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        burst = await asyncio.gather(
            *(connect(self._gateway.port) for _ in range(BURST)), return_exceptions=True
        )
        opened = [each[1] for each in burst if isinstance(each, tuple)]
        for writer in opened[::2]:
            writer.write(ask)
        await asyncio.sleep(chance.uniform(0, 0.2))
        for writer in opened:
            writer.transport.abort()

    async def half_a_post(self, chance: random.Random) -> None:
        try:
            _, writer = await connect(self._gateway.port)
        except BROKEN:
            return
        writer.write(
            b"POST /runs/half/events HTTP/1.1\r\nHost: localhost\r\n"
            b'Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"event_category":'
        )
        await asyncio.sleep(chance.uniform(0.5, 8))
        writer.transport.abort()
