"""The cluster: its nodes, which of them has a key, and what became of the slots."""

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from random import SystemRandom

from redis.crc import key_slot

from ...errors import StoreUnavailable, StreamingError, UnsupportedServer
from ..connection import REFUSES
from ..server import Server
from .routing import Routed
from .slot_map import SLOTS, Address, SlotMap, read_map

# So often the map is read while somebody follows runs: a node whose slots went to another one does
# not say so by itself.
WATCH_SECONDS = 0.5
# So often it is read while something is wrong, at most.
MIN_REFRESH_SECONDS = 0.1

# A node that did not answer is asked last for so long: to wait for it again holds up the others.
AVOID_SECONDS = 60.0

ANNOUNCED = (
    "; the cluster announces this address, and REDIS_URL does not name it: if it cannot be reached "
    "from here, set cluster-announce-ip, or cluster-announce-hostname with "
    "cluster-preferred-endpoint-type hostname, on the nodes"
)

log = logging.getLogger("tailrace.cluster")

_dice = SystemRandom()  # the program's own random numbers stay as they are


class Cluster:
    """The nodes of a cluster that have logs, as one place to send commands to.

    Attributes:
        shared, writes, pool, blocking: those of the nodes; each command goes to the node that has
            its key.
        seeds: the nodes that the URL names.
        refreshes: how often a read of the map has begun.
    """

    def __init__(
        self,
        seeds: Sequence[Address],
        make_server: Callable[[Address], Server],
        ack_replicas: int = 0,
    ):
        """`make_server` makes the server at an address, which connects nowhere yet."""
        self.ack_replicas = ack_replicas
        self.writes = Routed(self, lambda server: server.writes)
        self.shared = Routed(self, lambda server: server.shared)
        self.pool = Routed(self, lambda server: server.pool)
        self.blocking = Routed(self, lambda server: server.blocking)
        self.refreshes = 0
        self._seeds_are_checked = False
        self.seeds = tuple(seeds)
        self._make_server = make_server
        self._map: SlotMap | None = None
        self._owners: list[Server | None] = [None] * SLOTS
        self._servers: dict[Address, Server] = {}
        self._failed: dict[Address, float] = {}  # when a node did not answer
        self._listeners: list[weakref.WeakMethod[Callable[[], None]]] = []
        self._watched_in: int | None = None  # the process whose thread watches
        self._reset()
        reset = weakref.WeakMethod(self._reset)
        os.register_at_fork(after_in_child=lambda: (method := reset()) and method())

    def _reset(self) -> None:
        self._refreshing = threading.Lock()
        self._refreshed_at = -MIN_REFRESH_SECONDS

    # Where keys are

    def server_of(self, key: str) -> Server:
        """Return the node that has a key. Raises StoreUnavailable if none is known."""
        if self._map is None:
            self.refresh_after(self.refreshes)
        slot = key_slot(key.encode())
        server = self._owners[slot]
        if server is None:
            raise StoreUnavailable(f"no node of the cluster has the slot {slot}", stored=False)
        return server

    def lane_of(self, key: str) -> str:
        """Return the name of the node that has a key, as far as is known without asking."""
        server = self._owners[key_slot(key.encode())]
        return "" if server is None else server.name

    def servers(self) -> list[Server]:
        """Return the nodes that have slots. Raises StoreUnavailable if no node answers."""
        return [self._server_at(address) for address in self.map().masters()]

    def map(self) -> SlotMap:
        """Return the map as it was last read. Raises StoreUnavailable if it never was."""
        if self._map is None:
            self.refresh_after(self.refreshes)
        if self._map is None:
            raise StoreUnavailable("another thread reads the map of the cluster", stored=False)
        return self._map

    # For `Routed`

    def moved(self, slot: int, host: str, port: int, by: Server) -> Server:
        """Take in that a node names another one for a slot, and return that one."""
        server = self.node_at(host, port, by)
        if self._owners[slot] is not server:
            self._owners[slot] = server
            server.availability.interrupted()
            self._tell()
        return server

    def node_at(self, host: str, port: int, by: Server) -> Server:
        """Return the node at an address that another one named; without a host it is at its own."""
        return self._server_at((host or by.address[0], port))

    def refresh_after(self, seen: int) -> None:
        """Read the map, unless a read has begun since `refreshes` was `seen`.

        Raises StoreUnavailable if no node tells it.
        """
        # A signal handler may have interrupted the thread that holds it.
        if not self._refreshing.acquire(timeout=2 * WATCH_SECONDS):
            return
        try:
            soon = self._refreshed_at + MIN_REFRESH_SECONDS
            if self.refreshes != seen and self._map is not None:
                return
            time.sleep(max(0.0, soon - time.monotonic()))
            self.refreshes += 1
            try:
                self._take(self._read())
            finally:
                self._refreshed_at = time.monotonic()
        finally:
            self._refreshing.release()

    # Watching

    def watch(self, changed: Callable[[], None]) -> None:
        """Read the map again and again from now on, and call a bound method when it changes."""
        self._listeners.append(weakref.WeakMethod(changed))
        if self._watched_in != os.getpid():
            self._watched_in = os.getpid()
            threading.Thread(
                target=_watch, args=(weakref.ref(self),), name="tailrace-cluster", daemon=True
            ).start()

    # What a server can do

    def ping(self) -> None:
        """Raise StoreUnavailable unless some node responds and accepts writes."""
        failures: list[StoreUnavailable] = []
        for server in self.servers():
            try:
                server.ping()
                return
            except StoreUnavailable as error:
                failures.append(error)
        raise failures[0]

    def count_away(self) -> int:
        """Return how many nodes that have slots do not respond, or accept no writes.

        Raises StoreUnavailable if none can serve.
        """
        servers, failures = self.servers(), []
        for server in servers:
            try:
                server.ping()
                if not read_map(server).is_ok:
                    raise StoreUnavailable("The cluster is down", stored=False)
            except StoreUnavailable as error:
                failures.append(error)
        if len(failures) == len(servers):
            raise failures[0]
        return len(failures)

    def info(self, *sections: str) -> dict[str, str]:
        """Return sections of INFO of a node that answers, or {} if this user may not read it."""
        failures: list[str] = []
        for server in self.servers():
            try:
                return server.info(*sections)
            except StoreUnavailable as error:
                failures.append(f"{server.name}: {self.explained(server, error)}")
        raise StoreUnavailable(failures[0], stored=False)

    def explained(self, server: Server, error: StreamingError) -> str:
        """Return why a node cannot serve. If it was never reached, its address may be wrong."""
        reason = str(error)
        if server.address in self.seeds or server.was_reached or reason.startswith(REFUSES):
            return reason
        return reason.rstrip(".") + ANNOUNCED

    def check_seeds(self) -> None:
        """Raise UnsupportedServer if a node that the URL names is none of this cluster's.

        Nodes that do not answer are no matter. Does nothing once all have been found right.
        """
        if self._seeds_are_checked:
            return
        known, unknown = self.map(), 0
        for address in self.seeds:
            try:
                told = read_map(self._server_at(address))
            except UnsupportedServer:
                raise
            except StoreUnavailable:
                unknown += 1
                continue
            if not told.node_ids & known.node_ids:
                raise UnsupportedServer(
                    f"{address[0]}:{address[1]} belongs to another cluster than the other nodes"
                )
        self._seeds_are_checked = not unknown

    def count_connections(self) -> int:
        """Return how many connections to the nodes are open."""
        return sum(server.count_connections() for server in list(self._servers.values()))

    def release_idle(self) -> None:
        """Close the unused connections of the pools; after an outage they are dead."""
        for server in list(self._servers.values()):
            server.release_idle()

    # Inside

    def _read(self) -> SlotMap:
        """Return the map of the first node that takes part in a cluster that serves.

        If none does, or none knows as much as was known before, it is the newest map.
        """
        known = self._map
        found: list[SlotMap] = []
        failure: StreamingError | None = None
        for address in self._to_ask():
            try:
                told = read_map(self._server_at(address))
                self._check_same(told, address)
            except (StoreUnavailable, UnsupportedServer) as error:
                failure = failure or error
                self._failed[address] = time.monotonic()
                continue
            if told.is_ok and told.shards and (known is None or told.epoch >= known.epoch):
                return told
            found.append(told)
        if not found:
            if isinstance(failure, UnsupportedServer):
                raise failure
            raise StoreUnavailable(f"no node of the cluster answers: {failure}", stored=False)
        return max(found, key=lambda each: (len(each.shards) > 0, each.epoch))

    def _check_same(self, told: SlotMap, address: Address) -> None:
        """Raise UnsupportedServer if a node is one of another cluster now."""
        known = self._map
        if known is not None and told.node_ids and not told.node_ids & known.node_ids:
            raise UnsupportedServer(
                f"{address[0]}:{address[1]} belongs to another cluster than the other nodes"
            )

    def _to_ask(self) -> Iterator[Address]:
        """Yield the nodes to ask for the map: first those that answered, and have slots."""
        known = self._map
        masters = known.masters() if known else []
        _dice.shuffle(masters)
        addresses = dict.fromkeys([*masters, *(known.replicas() if known else []), *self.seeds])
        since = time.monotonic() - AVOID_SECONDS
        yield from sorted(addresses, key=lambda each: self._failed.get(each, 0.0) > since)

    def _take(self, found: SlotMap) -> None:
        if not found.shards:
            raise StoreUnavailable("no node of the cluster has slots yet", stored=False)
        owners: list[Server | None] = [None] * SLOTS
        for shard in found.shards:
            server = self._server_at(shard.master)
            owners[shard.first : shard.last + 1] = [server] * (shard.last + 1 - shard.first)
        known, before = self._map, self._owners
        self._map, self._owners = found, owners
        if before == owners:
            return
        gained = {now for now, was in zip(owners, before, strict=True) if now and now is not was}
        for server in gained:
            server.availability.interrupted()  # nobody knows whether producers could write
        self._drop_others(found)
        if known is not None:
            log.info("slots of the cluster are at other nodes now: %s", describe(found))
        self._tell()

    def _drop_others(self, found: SlotMap) -> None:
        """Forget the nodes that have left the cluster, or are replicas now."""
        masters = set(found.masters())
        for address in [each for each in self._servers if each not in masters]:
            self._servers.pop(address).close()

    def _server_at(self, address: Address) -> Server:
        server = self._servers.get(address)
        if server is None:
            server = self._servers.setdefault(address, self._make_server(address))
        return server

    def _tell(self) -> None:
        for reference in list(self._listeners):
            changed = reference()
            if changed is None:
                self._listeners.remove(reference)
            else:
                changed()


def describe(slot_map: SlotMap) -> str:
    """Return which slots are where, in one line."""
    return ", ".join(
        f"{each.first}-{each.last} at {each.master[0]}:{each.master[1]}" for each in slot_map.shards
    )


def _watch(reference: "weakref.ref[Cluster]") -> None:
    """Read the map again and again, until nothing else refers to the cluster."""
    while (cluster := reference()) is not None:
        try:
            cluster.refresh_after(cluster.refreshes)
        except StreamingError as error:
            log.debug("the map of the cluster cannot be read: %s", error)
        except Exception:
            log.exception("unexpected error in the watch over the cluster")
        del cluster
        time.sleep(WATCH_SECONDS)
