"""The faults of a cluster. It is whole again before the next one."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Sequence

from app.streaming.errors import StoreUnavailable
from app.streaming.redis.connection import Argument
from tests.chaos.cluster import NODE_TIMEOUT_SECONDS, SAFE_SHARD, ChaosCluster, slot_of
from tests.chaos.failovers import Failover, Failovers, now_ms
from tests.chaos.redis_faults import Fault
from tests.servers import RedisServer

SHARDS = range(3)
UNSAFE_SHARDS = [shard for shard in SHARDS if shard != SAFE_SHARD]
KEYS_AT_ONCE = 2

# A failover, or the copy of a whole log, may take that long on a busy machine.
MAX_SECONDS = 60.0
POLL_SECONDS = 0.1


class ClusterFaults:
    """Faults of nodes and slots, and a note of each failover that may lose something.

    Those that may, never reach the last shard.
    """

    def __init__(self, cluster: ChaosCluster, runs: Sequence[str], failovers: Failovers):
        """The slots of `runs` are moved."""
        self._cluster = cluster
        self._runs = runs
        self._failovers = failovers
        self._was_whole = self._began = now_ms()
        self._frozen: RedisServer | None = None
        self.kinds: Sequence[Fault] = (
            self.master_killed, self.master_killed_ahead, self.master_restarted,
            self.master_frozen, self.master_frozen_ahead, self.master_frozen_shortly,
            self.master_cut_off,
            self.replica_killed, self.failover_asked_for, self.failover_forced,
            self.slot_moved, self.slot_moved, self.node_connections_killed,
            self.node_scripts_flushed, self.node_full, self.node_paused,
        )  # fmt: skip

    # Failovers

    async def master_killed(self, dice: random.Random) -> None:
        """Kill a master, and start it again when its replica has taken over."""
        async with self._may_lose(dice) as (shard, master):
            await self._kill(shard, master, dice)

    async def master_killed_ahead(self, dice: random.Random) -> None:
        """Kill a master whose replica lacks the last moments."""
        async with self._may_lose(dice) as (shard, master), self._replica_cut_off(shard, dice):
            await self._kill(shard, master, dice)

    async def master_restarted(self, dice: random.Random) -> None:
        """Kill a master, and start it before or while the others find it dead."""
        async with self._may_lose(dice) as (_, master):
            self._began = now_ms()
            await asyncio.to_thread(master.stop)
            try:
                await asyncio.sleep(dice.choice((0, dice.uniform(0, 2 * NODE_TIMEOUT_SECONDS))))
            finally:
                await asyncio.to_thread(master.start)

    async def master_frozen(self, dice: random.Random) -> None:
        """Stop a master until its replica has taken over. It comes back and does not know that."""
        async with self._may_lose(dice) as (shard, master):
            await self._freeze(shard, master, dice)

    async def master_frozen_ahead(self, dice: random.Random) -> None:
        """Stop a master whose replica lacks the last moments."""
        async with self._may_lose(dice) as (shard, master), self._replica_cut_off(shard, dice):
            await self._freeze(shard, master, dice)

    async def master_cut_off(self, dice: random.Random) -> None:
        """Let the other nodes not hear a master, which clients still reach, nor it them."""
        async with self._may_lose(dice) as (shard, master):
            self._began = now_ms()
            with self._cluster.cut_off(master):
                await self._wait_for_failover(shard, master, dice)

    async def failover_forced(self, dice: random.Random) -> None:
        """Promote a replica that does not ask its master, or asks nobody."""
        async with self._may_lose(dice) as (shard, master):
            how = dice.choice(("FORCE", "TAKEOVER"))
            self._began = now_ms()
            await asyncio.to_thread(self._fail_over, shard, how)
            await self._taken_over(shard, master)

    async def failover_asked_for(self, dice: random.Random) -> None:
        """Promote a replica that first gets all that its master has. Nothing may be lost."""
        shard = dice.choice(SHARDS)
        async with self._loses_nothing(fails_over=True):
            master = self._cluster.shards[shard]
            await asyncio.to_thread(self._fail_over, shard)
            await self._taken_over(shard, master)

    # Nodes that stay what they are

    async def master_frozen_shortly(self, dice: random.Random) -> None:
        async with self._some_master(dice) as master:
            master.pause()
            try:
                await asyncio.sleep(NODE_TIMEOUT_SECONDS * dice.uniform(0.05, 0.5))
            finally:
                master.resume()

    async def replica_killed(self, dice: random.Random) -> None:
        shard = dice.choice(SHARDS)
        async with self._loses_nothing():
            replica = await asyncio.to_thread(self._cluster.replica_of, shard)
            await asyncio.to_thread(replica.stop)
            try:
                await asyncio.sleep(dice.uniform(0, 3))
            finally:
                await asyncio.to_thread(replica.start)

    async def node_connections_killed(self, dice: random.Random) -> None:
        async with self._some_master(dice) as master:
            for kind in dice.choice((("normal",), ("pubsub",), ("normal", "pubsub"))):
                await self._run(master, "CLIENT", "KILL", "TYPE", kind)

    async def node_scripts_flushed(self, dice: random.Random) -> None:
        async with self._some_master(dice) as master:
            await self._run(master, "SCRIPT", "FLUSH")

    async def node_full(self, dice: random.Random) -> None:
        async with self._some_master(dice) as master:
            await self._run(master, "CONFIG", "SET", "maxmemory", 1)
            try:
                await asyncio.sleep(0.1 * 20 ** dice.random())
            finally:
                await self._run(master, "CONFIG", "SET", "maxmemory", 0)

    async def node_paused(self, dice: random.Random) -> None:
        """Have a node carry out no commands for a while, or no writes."""
        async with self._some_master(dice) as master:
            seconds = 0.1 * 20 ** dice.random()
            what = dice.choice(("ALL", "WRITE"))
            await self._run(master, "CLIENT", "PAUSE", int(1000 * seconds), what)
            await asyncio.sleep(seconds)

    # Slots

    async def slot_moved(self, dice: random.Random) -> None:
        """Move the slot of a run, some keys at a time. One of the safe shard comes back."""
        slot = slot_of(dice.choice(self._runs))
        async with self._loses_nothing():
            here = await asyncio.to_thread(self._cluster.shard_of, slot)
            if here == SAFE_SHARD:
                there = dice.choice(UNSAFE_SHARDS)
                await self._move(slot, there, dice)
                await self._move(slot, here, dice)
            else:
                await self._move(slot, 1 - here, dice)

    async def _move(self, slot: int, shard: int, dice: random.Random) -> None:
        pause, target = dice.choice((0.0, 0.05, 0.3)), self._cluster.shards[shard]
        source = await asyncio.to_thread(self._cluster.begin_move, slot, target)
        await asyncio.sleep(dice.choice((0, pause, 1)))
        while keys := await self._run(source, "CLUSTER", "GETKEYSINSLOT", slot, KEYS_AT_ONCE):
            where = "127.0.0.1", target.port, "", 0, 5000, "REPLACE", "KEYS"
            with contextlib.suppress(StoreUnavailable):  # then again
                await self._run(source, "MIGRATE", *where, *keys)
            await asyncio.sleep(pause)
        await asyncio.to_thread(self._cluster.end_move, slot, source, target)

    # Inside

    @contextlib.asynccontextmanager
    async def _may_lose(self, dice: random.Random) -> AsyncIterator[tuple[int, RedisServer]]:
        """Give a shard and its master, and note a failover of it that follows."""
        shard = dice.choice(UNSAFE_SHARDS)
        await self._note_unplanned()
        slots = await asyncio.to_thread(self._cluster.slots_of, shard)
        try:
            yield shard, self._cluster.shards[shard]
        finally:
            await self._whole_again()
            if await asyncio.to_thread(self._cluster.look):
                self._failovers.found.append(Failover(slots, self._began, now_ms()))
            self._was_whole = now_ms()

    @contextlib.asynccontextmanager
    async def _some_master(self, dice: random.Random) -> AsyncIterator[RedisServer]:
        shard = dice.choice(SHARDS)
        async with self._loses_nothing():
            yield self._cluster.shards[shard]

    @contextlib.asynccontextmanager
    async def _loses_nothing(self, fails_over: bool = False) -> AsyncIterator[None]:
        await self._note_unplanned()
        try:
            yield
        finally:
            await self._whole_again()
            if fails_over:
                await asyncio.to_thread(self._cluster.look)
            await self._note_unplanned()

    async def _note_unplanned(self) -> None:
        """Note the failovers that nobody asked for: on a busy machine a node may seem dead."""
        for shard in await asyncio.to_thread(self._cluster.look):
            slots = await asyncio.to_thread(self._cluster.slots_of, shard)
            self._failovers.unplanned.append(Failover(slots, self._was_whole, now_ms()))
        self._was_whole = now_ms()

    @contextlib.asynccontextmanager
    async def _replica_cut_off(self, shard: int, dice: random.Random) -> AsyncIterator[None]:
        """Let a replica get no more writes. It runs again when the master does not."""
        replica = await asyncio.to_thread(self._cluster.replica_of, shard)
        replica.pause()
        try:
            await self._run(self._cluster.shards[shard], "CLIENT", "KILL", "TYPE", "replica")
            await asyncio.sleep(dice.uniform(0.1, 0.5) * NODE_TIMEOUT_SECONDS)
            self._frozen = replica
            yield
        finally:
            replica.resume()

    async def _kill(self, shard: int, master: RedisServer, dice: random.Random) -> None:
        """Kill a master, and start it again when its replica has taken over."""
        self._began = now_ms()
        await asyncio.to_thread(master.stop)
        try:
            await self._wait_for_failover(shard, master, dice)
        finally:
            await asyncio.to_thread(master.start)

    async def _freeze(self, shard: int, master: RedisServer, dice: random.Random) -> None:
        """Stop a master until its replica has taken over."""
        self._began = now_ms()
        master.pause()
        try:
            await self._wait_for_failover(shard, master, dice)
        finally:
            master.resume()

    async def _wait_for_failover(
        self, shard: int, master: RedisServer, dice: random.Random
    ) -> None:
        if self._frozen is not None:
            self._frozen.resume()
            self._frozen = None
        await self._taken_over(shard, master)
        await asyncio.sleep(dice.choice((0, dice.uniform(0, 2))))

    async def _taken_over(self, shard: int, former: RedisServer) -> None:
        await _until(lambda: self._cluster.is_led_by_another(shard, former))

    async def _whole_again(self) -> None:
        await _until(self._cluster.is_whole)

    def _fail_over(self, shard: int, *how: str) -> None:
        self._cluster.fail_over(self._cluster.replica_of(shard), *how)

    async def _run(self, node: RedisServer, *command: Argument) -> object:
        return await asyncio.to_thread(self._cluster.command, node, *command)


async def _until(predicate: Callable[[], bool]) -> None:
    """Wait until a predicate holds that asks nodes, which may be away."""
    async with asyncio.timeout(MAX_SECONDS):
        while not await asyncio.to_thread(_holds, predicate):
            await asyncio.sleep(POLL_SECONDS)


def _holds(predicate: Callable[[], bool]) -> bool:
    with contextlib.suppress(StoreUnavailable, StopIteration, KeyError):
        return predicate()
    return False
