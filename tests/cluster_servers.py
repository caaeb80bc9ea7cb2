"""A real cluster of Redis or Valkey servers on loopback."""

import contextlib
import time
from pathlib import Path
from typing import Self

import redis
from redis.crc import key_slot

from app.streaming.errors import StoreUnavailable
from app.streaming.log.redis_keys import log_key
from app.streaming.redis import connection
from app.streaming.redis.connection import Argument, Reply
from tests.servers import RedisServer, free_port, wait_until

# After so long without an answer the others take a node for dead.
NODE_TIMEOUT_MS = 1000


class ClusterServers:
    """Some masters with replicas, each on a free port, that share all slots evenly.

    `binary` is the path of the servers' program. The options are for all of them.
    """

    def __init__(
        self,
        directory: Path,
        masters: int = 3,
        replicas: int = 1,
        *options: str,
        binary: str | None = None,
        address: str = "127.0.0.1",
    ):
        self._directory = directory
        self._options = options
        self._binary = binary
        self.nodes = [self._make_node(number) for number in range(masters * (1 + replicas))]
        self.masters = self.nodes[:masters]
        self._address = address

    @property
    def url(self) -> str:
        """The URL of the cluster, which names all nodes."""
        return "redis+cluster://" + ",".join(
            f"127.0.0.1:{self.port_of(node)}" for node in self.nodes
        )

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self) -> Self:
        for node in self.nodes:
            node.start()
        self._share_slots()
        first = self.masters[0]
        for node in self.nodes:
            self.command(
                node, "CLUSTER", "MEET", self._address, self.port_of(first), self.bus_of(first)
            )
        wait_until(lambda: all(self._knows_all(node) for node in self.nodes), "all have met", 60)
        for number, node in enumerate(self.nodes[len(self.masters) :]):
            master = self.masters[number % len(self.masters)]
            self.command(node, "CLUSTER", "REPLICATE", self.id_of(master))
        wait_until(self.serves, "the cluster serves, and all copies are whole", 60)
        return self

    def stop(self) -> None:
        """Kill all nodes."""
        for node in self.nodes:
            node.stop()

    # Looking

    def serves(self) -> bool:
        """Return whether all nodes that run say so, and all replicas have all data."""
        return all(self._serves(node) for node in self.nodes if node.process is not None)

    def master_of(self, run_id: str) -> RedisServer:
        """Return the node that has the log of a run, as a node that runs says."""
        return self.owner_of_key(log_key(run_id))

    def owner_of_key(self, key: str) -> RedisServer:
        """Return the node that has a key."""
        return self.owner_of(key_slot(key.encode()))

    def owner_of(self, slot: int) -> RedisServer:
        """Return the node that has a slot."""
        for asked in self.nodes:
            if asked.process is None:
                continue
            with contextlib.suppress(StoreUnavailable):  # it may stand still
                for first, last, master, *_ in self.command(asked, "CLUSTER", "SLOTS", wait=0.5):
                    if first <= slot <= last:
                        return next(node for node in self.nodes if self.port_of(node) == master[1])
        raise AssertionError(f"nobody has the slot {slot}")

    def replicas_of(self, master: RedisServer) -> list[RedisServer]:
        """Return the nodes that copy another one."""
        info = self.info(master)
        ports = [
            int(value.split("port=")[1].split(",")[0])
            for name, value in info.items()
            if name.startswith("slave") and "port=" in value
        ]
        return [node for node in self.nodes if node.port in ports]

    def info(self, node: RedisServer) -> dict[str, str]:
        lines = self.command(node, "INFO").decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def id_of(self, node: RedisServer) -> str:
        return self.command(node, "CLUSTER", "MYID").decode()

    def runs_on(self, node: RedisServer, count: int, prefix: str = "r") -> list[str]:
        """Return ids of runs whose logs a node has."""
        found: list[str] = []
        ranges = [
            (first, last)
            for first, last, master, *_ in self.command(node, "CLUSTER", "SLOTS")
            if master[1] == self.port_of(node)
        ]
        number = 0
        while len(found) < count:
            number += 1
            slot = key_slot(log_key(f"{prefix}-{number}").encode())
            if any(first <= slot <= last for first, last in ranges):
                found.append(f"{prefix}-{number}")
        return found

    @staticmethod
    def command(node: RedisServer, *command: Argument, wait: float = 10.0) -> Reply:
        """Send a command to one node, and return the raw reply, which comes within some seconds."""
        with redis.Redis(
            port=node.port, protocol=2, socket_timeout=wait, retry=connection.NO_RETRIES
        ) as client:
            return connection.call(client, *command)

    def port_of(self, node: RedisServer) -> int:
        """Return the port at which a node says that it is."""
        return node.port

    def bus_of(self, node: RedisServer) -> int:
        """Return the port at which a node says that it hears the others."""
        return int(node._options[node._options.index("--cluster-port") + 1])

    # Changing

    def fail_over(self, replica: RedisServer, *how: str) -> None:
        """Have a replica become the master; `how` is nothing, FORCE or TAKEOVER."""
        self.command(replica, "CLUSTER", "FAILOVER", *how)

    def wait_for_master(self, run_id: str, other_than: RedisServer, seconds: float = 30.0) -> float:
        """Wait until another node has the log of a run; return when that was seen."""
        wait_until(lambda: self.master_of(run_id) is not other_than, "another master", seconds)
        return time.monotonic()

    def begin_move(self, slot: int, target: RedisServer) -> RedisServer:
        """Begin to move a slot, whose keys stay where they are; return the source."""
        source = self.owner_of(slot)
        self.command(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", self.id_of(source))
        self.command(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", self.id_of(target))
        return source

    def move_keys(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """Move the keys that a slot has now."""
        while keys := self.command(source, "CLUSTER", "GETKEYSINSLOT", slot, 100):
            where = "127.0.0.1", self.port_of(target), "", 0, 5000, "REPLACE", "KEYS"
            self.command(source, "MIGRATE", *where, *keys)

    def end_move(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """Give a slot to its new node."""
        for node in (target, source, *self.masters):
            if node.process is not None:
                with contextlib.suppress(StoreUnavailable):  # a replica
                    self.command(node, "CLUSTER", "SETSLOT", slot, "NODE", self.id_of(target))

    def move(self, slot: int, target: RedisServer) -> None:
        """Move a slot with its keys."""
        source = self.begin_move(slot, target)
        self.move_keys(slot, source, target)
        self.end_move(slot, source, target)

    # Inside

    def _make_node(self, number: int) -> RedisServer:
        folder = self._directory / f"node-{number}"
        folder.mkdir(parents=True)
        options = (
            *("--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT_MS)),
            *("--cluster-port", str(free_port()), "--repl-diskless-sync-delay", "0"),
            *("--cluster-require-full-coverage", "no", *self._options),
        )
        return RedisServer(folder, *options, binary=self._binary)

    def _share_slots(self) -> None:
        count = len(self.masters)
        for number, node in enumerate(self.masters):
            first, last = 16384 * number // count, 16384 * (number + 1) // count - 1
            self.command(node, "CLUSTER", "ADDSLOTSRANGE", first, last)

    def _knows_all(self, node: RedisServer) -> bool:
        lines = self.command(node, "CLUSTER", "NODES").decode().splitlines()
        return len([line for line in lines if "handshake" not in line]) == len(self.nodes)

    def _serves(self, node: RedisServer) -> bool:
        state = self.command(node, "CLUSTER", "INFO").decode()
        info = self.info(node)
        is_whole = info["role"] == "master" or info["master_link_status"] == "up"
        replicas = len(self.nodes) // len(self.masters) - 1
        has_copies = info["role"] != "master" or int(info["connected_slaves"]) >= replicas
        return "cluster_state:ok" in state and is_whole and has_copies
