"""The faults, and the order and the times at which a seed injects them."""

import asyncio
import contextlib
import random
import signal
from collections import Counter

import psutil

from tests.chaos.followers import Follower
from tests.chaos.producers import Producer
from tests.chaos.redis_faults import Fault, ServerFaults
from tests.chaos.servers import MeasuredGateway
from tests.chaos.wire import BROKEN, connect

BURST = 200


class Faults:
    """Injects every kind in turn, in a random order. Only one fault of Redis lasts at a time."""

    def __init__(
        self,
        seed: int,
        server_faults: ServerFaults,
        gateway: MeasuredGateway,
        producers: list[Producer],
        followers: list[Follower],
    ):
        self.injected: Counter[str] = Counter()
        self._seed = seed
        self._gateway = gateway
        self._producers = producers
        self._followers = followers
        self._redis_is_free = asyncio.Lock()
        self._of_redis = server_faults.kinds
        self._of_connections = [
            self.followers_cut, self.producers_cut, self.connections_in_a_burst,
            self.half_a_post, self.follower_stalled, self.worker_stopped,
        ]  # fmt: skip
        self._of_workers = [self.worker_killed, self.gateway_reloaded]

    async def inject(self, count: int, seconds: float) -> None:
        """Begin `count` faults over some seconds. The last ones end a little later."""
        dice = random.Random(self._seed)
        times = sorted(dice.uniform(0, seconds) for _ in range(count))
        loop = asyncio.get_running_loop()
        began, kinds = loop.time(), []
        async with asyncio.TaskGroup() as under_way:
            for number, due in enumerate(times):
                if not kinds:
                    kinds = [*self._of_redis, *self._of_connections]
                    # In the second half the workers live on, so that leaks show.
                    kinds += self._of_workers if number <= count / 2 else []
                    dice.shuffle(kinds)
                fault, fault_dice = kinds.pop(), random.Random(dice.random())
                await asyncio.sleep(began + due - loop.time())
                under_way.create_task(self._one(fault, fault_dice))

    async def _one(self, fault: Fault, dice: random.Random) -> None:
        if fault in self._of_redis:
            async with self._redis_is_free:
                await fault(dice)
        else:
            await fault(dice)
        self.injected[fault.__name__.replace("_", " ")] += 1

    # The gateway

    async def worker_killed(self, dice: random.Random) -> None:
        if workers := self._gateway.workers():  # during a reload there may be none
            dice.choice(workers).kill()

    async def worker_stopped(self, dice: random.Random) -> None:
        """Stop a worker, as when its machine is out of memory. Its connections stay open."""
        with contextlib.suppress(psutil.NoSuchProcess):  # it may be killed meanwhile
            if workers := self._gateway.workers():
                worker = dice.choice(workers)
                worker.suspend()
                try:
                    await asyncio.sleep(0.2 * 15 ** dice.random())
                finally:
                    worker.resume()

    async def gateway_reloaded(self, dice: random.Random) -> None:
        self._gateway.process.send_signal(signal.SIGHUP)

    # The clients

    async def followers_cut(self, dice: random.Random) -> None:
        for follower in dice.sample(self._followers, len(self._followers) // 2):
            follower.cut()

    async def producers_cut(self, dice: random.Random) -> None:
        for producer in dice.sample(self._producers, len(self._producers) // 2):
            producer.cut()

    async def follower_stalled(self, dice: random.Random) -> None:
        dice.choice(self._followers).stall(2 * 20 ** dice.random())

    async def connections_in_a_burst(self, dice: random.Random) -> None:
        """Open connections, request a stream on half of them, and abort them all."""
        path = dice.choice(self._followers).path()
        ask = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        burst = await asyncio.gather(
            *(connect(self._gateway.port) for _ in range(BURST)), return_exceptions=True
        )
        opened = [each[1] for each in burst if isinstance(each, tuple)]
        for writer in opened[::2]:
            writer.write(ask)
        await asyncio.sleep(dice.uniform(0, 0.2))
        for writer in opened:
            writer.transport.abort()

    async def half_a_post(self, dice: random.Random) -> None:
        try:
            _, writer = await connect(self._gateway.port)
        except BROKEN:
            return
        writer.write(
            b"POST /runs/half/events HTTP/1.1\r\nHost: localhost\r\n"
            b'Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"event_category":'
        )
        await asyncio.sleep(dice.uniform(0.5, 8))
        writer.transport.abort()
