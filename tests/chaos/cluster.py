"""The cluster of the chaos suite: three masters, each with a replica."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot

from app.streaming.log.redis_keys import log_key
from app.streaming.redis.connection import Reply
from tests.cluster.network import RelayedCluster
from tests.servers import RedisServer

# A frozen node is dead after that for the others. Shorter freezes must not promote a replica,
# though the machine may be slow.
NODE_TIMEOUT_SECONDS = 2.0

# What a storm may break without losing anything: the shard that has the last slots at the start.
SAFE_SHARD = 2


def slot_of(run: str) -> int:
    return key_slot(log_key(run).encode())


class ChaosCluster(RelayedCluster):
    """A cluster whose shards are numbered from 0, whichever node is the master of one.

    Attributes:
        shards: the node that is the master of each shard, as `look` has found it.
    """

    def __init__(self, directory: Path, *options: str, binary: str | None = None):
        timeout = "--cluster-node-timeout", str(int(1000 * NODE_TIMEOUT_SECONDS))
        super().__init__(
            directory / "cluster",
            *(3, 1, *options, *timeout),
            binary=binary,
            relays_clients=False,
        )
        self.shards: list[RedisServer] = list(self.masters)
        self._first_slots = [16384 * number // 3 for number in range(3)]

    def client(self) -> redis.RedisCluster:
        return redis.RedisCluster("127.0.0.1", self.nodes[0].port, protocol=2, socket_timeout=10)

    def async_client(self) -> redis.asyncio.RedisCluster:
        return redis.asyncio.RedisCluster(
            "127.0.0.1",
            self.nodes[0].port,
            protocol=2,
            socket_timeout=30,
            require_full_coverage=False,
            retry=Retry(NoBackoff(), 0),
        )

    def connections(self) -> int:
        """Return how many other clients are connected to all nodes."""
        return sum(self._connections_of(node) for node in self.nodes)

    def look(self) -> list[int]:
        """Find the master of each shard anew. Returns the shards that have another one."""
        before, self.shards = self.shards, [self.owner_of(slot) for slot in self._first_slots]
        return [number for number in range(3) if before[number] is not self.shards[number]]

    def replica_of(self, shard: int) -> RedisServer:
        [replica] = self.replicas_of(self.shards[shard])
        return replica

    def is_led_by_another(self, shard: int, former: RedisServer) -> bool:
        """Return whether some node says so. The former master may be the last to hear of it."""
        slot = self._first_slots[shard]
        return any(
            master[1] != former.port
            for node in self.nodes
            if node is not former and node.process is not None
            for first, last, master, *_ in self.command(node, "CLUSTER", "SLOTS")
            if first <= slot <= last
        )

    def slots_of(self, shard: int) -> frozenset[int]:
        """Return the slots that a shard has now."""
        port, found = self.shards[shard].port, list[int]()
        for first, last, master, *_ in self._slots():
            if master[1] == port:
                found += range(first, last + 1)
        return frozenset(found)

    def shard_of(self, slot: int) -> int:
        return self.shards.index(self.owner_of(slot))

    def changing_runs(self, name: str, count: int) -> list[str]:
        """Return ids of runs that a fault which loses events never reaches."""
        names = (f"{name}-changing-{number}" for number in itertools.count())
        first = self._first_slots[SAFE_SHARD]
        return list(itertools.islice((each for each in names if slot_of(each) >= first), count))

    def is_whole(self) -> bool:
        """Return whether all nodes serve and take each other for well, and all copies are whole."""
        return (
            self.serves()
            and all(self._sees_all(node) for node in self.nodes)
            and all(self._is_copied(node) for node in self.nodes)
        )

    # Inside

    def _slots(self) -> Iterator[list[Reply]]:
        """Yield what a node that runs says of the slots."""
        node = next(each for each in self.shards if each.process is not None)
        yield from self.command(node, "CLUSTER", "SLOTS")

    def _sees_all(self, node: RedisServer) -> bool:
        # A replica of a master with the flag may still take over, though the master is back.
        lines = self.command(node, "CLUSTER", "NODES").decode().splitlines()
        flags = {flag for line in lines for flag in line.split()[2].split(",")}
        return not flags & {"fail", "fail?"}

    def _is_copied(self, master: RedisServer) -> bool:
        there = int(self.info(master)["master_repl_offset"])
        return all(
            int(self.info(replica)["slave_repl_offset"]) >= there
            for replica in self.replicas_of(master)
        )

    def _connections_of(self, node: RedisServer) -> int:
        with node.client() as client:
            kinds = "normal", "pubsub"
            return sum(len(client.client_list(_type=kind)) for kind in kinds) - 1
