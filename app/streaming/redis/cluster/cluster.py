"""The cluster: its nodes, which of them has a key, and what became of the slots."""

import logging
import os
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress

from redis.crc import key_slot

from ...errors import StoreUnavailable, StreamingError, copy_of, without_variables
from ..connection import REFUSES
from ..server import Server
from .discovery import Discovery
from .routing import Routed
from .silent_nodes import SilentNodes
from .slot_map import SLOTS, Address, SlotMap, host_or, read_map

# So often the map is read by a gateway, and while somebody follows runs: a node whose slots went to
# another one does not say so by itself, and one that stands still says nothing.
WATCH_SECONDS = 0.5
# So often it is read while something is wrong, at most.
MIN_REFRESH_SECONDS = 0.1
# Who asks for all nodes gets a map that was not read longer ago, or has it read.
MAX_AGE_SECONDS = 5.0
# A node that is left out of a new map has so long to answer what was sent to it.
FAREWELL_SECONDS = 1.0

ANNOUNCED = (
    "; the cluster announces this address, and REDIS_URL does not name it: if it cannot be reached "
    "from here, set cluster-announce-ip, or cluster-announce-hostname with "
    "cluster-preferred-endpoint-type hostname, on the nodes"
)

log = logging.getLogger("tailrace.cluster")


class Cluster:
    """The nodes of a cluster that have logs, as one place to send commands to.

    Attributes:
        shared, writes, pool, blocking: those of the nodes; each command goes to the node that has
            its key.
        seeds: the nodes that the URL names.
        silent: the nodes that have stopped answering.
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
        self.silent = SilentNodes(self.read_soon)
        self.refreshes = 0
        self.seeds = tuple(seeds)
        self._make_server = make_server
        self._map: SlotMap | None = None
        self._owners: list[Server | None] = [None] * SLOTS
        self._servers: dict[Address, Server] = {}
        self._discovery = Discovery(self.seeds, self.server_at)
        self._named: dict[Address, None] = {}  # by others, for a slot, since the map was read
        self._listeners: list[weakref.WeakMethod[Callable[[], None]]] = []
        self._watched_in: int | None = None  # the process whose thread watches
        self._failure: StoreUnavailable | None = None  # of the last read that failed
        self._reset()
        reset = weakref.WeakMethod(self._reset)
        os.register_at_fork(after_in_child=lambda: (method := reset()) and method())

    def _reset(self) -> None:
        self._refreshing = threading.Lock()
        self._refreshed_at = -MIN_REFRESH_SECONDS
        self._reads_soon = False

    # Where keys are

    def server_of(self, key: str) -> Server:
        """Return the node that has a key. Raises StoreUnavailable if none is known."""
        if self._map is None:
            self.refresh_after(self.refreshes)
        server = self.known_server_of(key)
        if server is None:
            slot = key_slot(key.encode())
            raise StoreUnavailable(f"no node of the cluster has the slot {slot}", stored=False)
        return server

    def known_server_of(self, key: str) -> Server | None:
        """Return the node that has a key, as far as is known without asking."""
        return self._owners[key_slot(key.encode())]

    def lane_of(self, key: str) -> str:
        """Return the name of the node that has a key, as far as is known without asking."""
        server = self.known_server_of(key)
        return "" if server is None else server.name

    def servers(self) -> list[Server]:
        """Return the nodes that have slots. Raises StoreUnavailable if none was ever known."""
        return [self.server_at(address) for address in self.map().masters()]

    def server_at(self, address: Address) -> Server:
        """Return the node at an address, to which this may be the first connection."""
        server = self._servers.get(address)
        if server is None:
            server = self._servers.setdefault(address, self._make_server(address))
        return server

    def map(self) -> SlotMap:
        """Return the map, read anew if it is known to be old.

        If nobody tells it, it is the one that was last read. Raises StoreUnavailable if none was.
        """
        if self._map is None:
            self.refresh_after(self.refreshes)
        elif self._named:
            with suppress(StoreUnavailable):
                self.refresh_after(self.refreshes)
        elif time.monotonic() > self._refreshed_at + MAX_AGE_SECONDS:
            self.read_soon()
        if self._map is None:
            raise StoreUnavailable("another thread reads the map of the cluster", stored=False)
        return self._map

    # For `Routed`

    def moved(self, slot: int, host: str, port: int, by: Server) -> Server:
        """Take in that a node names another one for a slot, and return that one."""
        server = self.node_at(host, port, by)
        if self._owners[slot] is not server:
            self._named[server.address] = None
            self._owners[slot] = server
            server.availability.interrupted()
            self._tell()
            self.read_soon()
        return server

    def node_at(self, host: str, port: int, by: Server) -> Server:
        """Return the node at an address that another one named; without a host it is at its own."""
        return self.server_at((host_or(host, by.address[0]), port))

    def refresh_after(self, seen: int) -> None:
        """Read the map, unless a read has begun since `refreshes` was `seen`.

        Raises StoreUnavailable if no node tells it.
        """
        # A signal handler may have interrupted the thread that holds it.
        if not self._refreshing.acquire(timeout=2 * WATCH_SECONDS):
            return
        try:
            soon = self._refreshed_at + MIN_REFRESH_SECONDS
            if self.refreshes != seen:
                if self._map is None and self._failure is not None:
                    raise copy_of(self._failure)
                return
            time.sleep(max(0.0, soon - time.monotonic()))
            self.refreshes += 1
            try:
                self._take(self._discovery.read(self._map, self._named))
            except StoreUnavailable as error:
                self._failure = without_variables(error)
                raise
            finally:
                self._refreshed_at = time.monotonic()
        finally:
            self._refreshing.release()

    def read_soon(self) -> None:
        """Have a thread read the map, unless one does anyway. Nobody waits for it."""
        if self._watched_in != os.getpid() and not self._reads_soon:
            self._reads_soon = True
            thread = threading.Thread(
                target=_read_once, args=(weakref.ref(self),), name="tailrace-map", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:  # no more threads; `map` tries again
                self._reads_soon = False

    # Watching

    def watch(self, changed: Callable[[], None] | None = None) -> None:
        """Read the map again and again from now on, and call a bound method when it changes."""
        if changed is not None:
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

    def check_seed(self, address: Address) -> None:
        """Raise UnsupportedServer if a node that the URL names is none of this cluster's.

        Raises StoreUnavailable if it does not answer, or has joined no cluster yet.
        """
        known = self.map()
        try:
            self._discovery.check(address, known)
        finally:
            if address not in known.masters():  # another name of a node, or one without logs
                self.server_at(address).control.close()

    def count_connections(self) -> int:
        """Return how many connections to the nodes are open."""
        return sum(server.count_connections() for server in list(self._servers.values()))

    def release_idle(self) -> None:
        """Close the unused connections of the pools; after an outage they are dead."""
        for server in list(self._servers.values()):
            server.release_idle()

    # Inside

    def read_in_background(self) -> None:
        """Read the map in a thread of its own; if nobody tells it, it stays as it is."""
        try:
            self.refresh_after(self.refreshes)
        except StreamingError as error:
            log.debug("the map of the cluster cannot be read: %s", error)
        except Exception:
            log.exception("unexpected error while the map of the cluster was read")

    def _take(self, found: SlotMap) -> None:
        if not found.shards:
            raise StoreUnavailable("no node of the cluster has slots yet", stored=False)
        owners: list[Server | None] = [None] * SLOTS
        for shard in found.shards:
            server = self.server_at(shard.master)
            owners[shard.first : shard.last + 1] = [server] * (shard.last + 1 - shard.first)
        known, before = self._map, self._owners
        self._map, self._owners = found, owners
        named, self._named = self._named, {}
        if before == owners:
            self._drop_clocks(found)
            return
        gained = {now for now, was in zip(owners, before, strict=True) if now and now is not was}
        for server in gained:
            server.availability.interrupted()  # nobody knows whether producers could write
        self._drop_others({*found.masters(), *named})
        if known is not None:
            # A slot that moves between two nodes changes the map too, up to twice a second.
            has_other_nodes = set(found.masters()) != set(known.masters())
            level = logging.INFO if has_other_nodes else logging.DEBUG
            log.log(level, "the slots of the cluster are now at: %s", describe(found))
        self._tell()

    def _drop_others(self, masters: set[Address]) -> None:
        """Forget the nodes that have left the cluster, or are replicas now."""
        for address in [each for each in self._servers if each not in masters]:
            self._forget(address)

    def _drop_clocks(self, found: SlotMap) -> None:
        """Forget the nodes whose clocks tick though they have no slots.

        A node that was slow to learn of a failover has named them. Others without slots may be
        about to get some, and commands are on their way to them.
        """
        masters = set(found.masters())
        for address, server in list(self._servers.items()):
            if address not in masters and server.availability.ticks:
                self._forget(address)

    def _forget(self, address: Address) -> None:
        """Forget a node at once, and close its connections a moment later.

        It may be answering: it had slots until now, or is about to get its first one. A node that
        does not answer holds up its callers no longer.
        """
        server = self._servers.pop(address)
        server.availability.close()
        closing = threading.Timer(FAREWELL_SECONDS, server.close)
        closing.daemon = True
        try:
            closing.start()
        except RuntimeError:  # no more threads
            server.close()

    def _tell(self) -> None:
        for reference in list(self._listeners):
            changed = reference()
            if changed is None:
                self._listeners.remove(reference)
            else:
                changed()


def describe(slot_map: SlotMap) -> str:
    """Return how many slots are where, in one line."""
    counts: Counter[Address] = Counter()
    for shard in slot_map.shards:
        counts[shard.master] += shard.last + 1 - shard.first
    return ", ".join(f"{host}:{port} ({count})" for (host, port), count in counts.items())


def _watch(reference: "weakref.ref[Cluster]") -> None:
    """Read the map again and again, until nothing else refers to the cluster."""
    while (cluster := reference()) is not None:
        cluster.read_in_background()
        del cluster
        time.sleep(WATCH_SECONDS)


def _read_once(reference: "weakref.ref[Cluster]") -> None:
    """Read the map once: a moment later, when the nodes have told each other of it."""
    time.sleep(MIN_REFRESH_SECONDS)
    if (cluster := reference()) is not None:
        cluster._reads_soon = False
        cluster.read_in_background()
