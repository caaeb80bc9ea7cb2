"""A network between the nodes of a cluster and their clients, which holds back what a test says.

Each node announces the ports of relays, one for its clients and one for the other nodes. What is
held back is not lost: it comes once it is let go, as TCP repeats what was not acknowledged.
"""

import contextlib
import socket
import threading
from collections.abc import Callable, Collection, Iterator
from enum import Flag, auto
from pathlib import Path

from tests.cluster_servers import ClusterServers
from tests.servers import RedisServer, free_port

PIECE = 65536

# So much of what a client sends first is kept, to tell one connection from another.
MAX_BEGINNING = 4096


class Way(Flag):
    """A direction of a connection."""

    THERE = auto()
    BACK = auto()


BOTH = Way.THERE | Way.BACK


class Passage:
    """One connection through a relay.

    Attributes:
        source: the node that has made it, None for a client.
        target: the node that it leads to.
        beginning: the first bytes that its client has sent.
    """

    def __init__(self, source: RedisServer | None, target: RedisServer):
        self.source, self.target = source, target
        self.beginning = b""

    def leaves(self, nodes: Collection[RedisServer]) -> bool:
        """Return whether it is between one of some nodes and another node."""
        return self.source is not None and (self.source in nodes) is not (self.target in nodes)


Matches = Callable[[Passage], bool]


class Network:
    """All passages, and what is held back of them."""

    def __init__(self) -> None:
        self.passages: list[Passage] = []
        self._held: dict[int, tuple[Matches, Way]] = {}
        self._changed = threading.Condition()
        self._closed = False

    @contextlib.contextmanager
    def holding(self, matches: Matches, way: Way = BOTH) -> Iterator[None]:
        """Hold back what goes over some passages, also over those to come."""
        with self._changed:
            number = max(self._held, default=0) + 1
            self._held[number] = matches, way
        try:
            yield
        finally:
            with self._changed:
                del self._held[number]
                self._changed.notify_all()

    def wait(self, passage: Passage, way: Way) -> None:
        """Return once nothing holds back a passage."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._is_held(passage, way))

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _is_held(self, passage: Passage, way: Way) -> bool:
        return any(way in held and matches(passage) for matches, held in self._held.values())


class Relay:
    """Passes on the connections to a port of a node.

    `node_at` returns the node that has an address; it makes its own connections from there.
    """

    def __init__(
        self,
        network: Network,
        target: RedisServer,
        to_port: int,
        node_at: Callable[[str], RedisServer | None],
    ):
        self._network, self._target, self._to_port = network, target, to_port
        self._node_at = node_at
        self.port = free_port()
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=1024)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # it was closed
            while True:
                client, (address, _) = self._listener.accept()
                passage = Passage(self._node_at(address), self._target)
                self._network.passages.append(passage)
                threading.Thread(target=self._pass_on, args=(client, passage), daemon=True).start()

    def _pass_on(self, client: socket.socket, passage: Passage) -> None:
        with client:
            try:
                server = socket.create_connection(("127.0.0.1", self._to_port))
            except OSError:
                return
            for each in (client, server):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with server:
                back = threading.Thread(
                    target=self._pump, args=(server, client, passage, Way.BACK), daemon=True
                )
                back.start()
                self._pump(client, server, passage, Way.THERE)
                back.join()

    def _pump(
        self, source: socket.socket, target: socket.socket, passage: Passage, way: Way
    ) -> None:
        """Pass on bytes one way until either side ends; the end is held back too."""
        piece = b"more"
        while piece:
            try:
                piece = source.recv(PIECE)
            except OSError:
                piece = b""
            if way is Way.THERE and len(passage.beginning) < MAX_BEGINNING:
                passage.beginning += piece
            self._network.wait(passage, way)
            try:
                target.sendall(piece)
            except OSError:
                break
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


class RelayedCluster(ClusterServers):
    """A cluster whose nodes and clients reach its nodes through relays.

    `node.port` is the port of the node itself, behind the relays. Unless `relays_clients`, clients
    and replicas reach it without a relay: only what the nodes say of each other goes over one.
    """

    def __init__(
        self,
        directory: Path,
        masters: int = 3,
        replicas: int = 1,
        *options: str,
        binary: str | None = None,
        relays_clients: bool = True,
    ):
        self.network = Network()
        self._relays_clients = relays_clients
        self._ports: dict[RedisServer, int] = {}
        self._buses: dict[RedisServer, int] = {}
        self._relays: list[Relay] = []
        self._addresses: dict[str, RedisServer] = {}
        super().__init__(directory, masters, replicas, *options, binary=binary)

    def stop(self) -> None:
        super().stop()
        self.network.close()
        for relay in self._relays:
            relay.close()

    def port_of(self, node: RedisServer) -> int:
        return self._ports[node]

    def bus_of(self, node: RedisServer) -> int:
        return self._buses[node]

    def cut_off(self, *nodes: RedisServer) -> contextlib.AbstractContextManager[None]:
        """Keep some nodes from all others, but not from clients, until the context ends."""
        return self.network.holding(lambda passage: passage.leaves(nodes))

    def _make_node(self, number: int) -> RedisServer:
        node = super()._make_node(number)
        self._ports[node] = self._relay(node, node.port) if self._relays_clients else node.port
        self._buses[node] = self._relay(node, super().bus_of(node))
        address = f"127.0.1.{number + 1}"
        self._addresses[address] = node
        node._options = (
            *node._options,
            # Redis takes an address other than 127.0.0.1 for that of another machine.
            *("--bind-source-addr", address, "--protected-mode", "no"),
            *("--cluster-announce-ip", "127.0.0.1"),
            *("--cluster-announce-port", str(self._ports[node])),
            *("--cluster-announce-bus-port", str(self._buses[node])),
        )
        return node

    def _relay(self, node: RedisServer, to_port: int) -> int:
        """Return the port of a new relay to a port of a node."""
        relay = Relay(self.network, node, to_port, self._addresses.get)
        self._relays.append(relay)
        return relay.port


def named(client_name: str) -> Matches:
    """Return what matches the connections whose URL has `client_name`."""
    packed = b"$%d\r\n%b\r\n" % (len(client_name), client_name.encode())
    return lambda passage: packed in passage.beginning


def url_named(cluster: RelayedCluster, client_name: str) -> str:
    """Return the URL of a cluster, with which `named` matches."""
    return f"{cluster.url}?client_name={client_name}"
