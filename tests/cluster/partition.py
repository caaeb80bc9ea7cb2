"""A cluster whose nodes hear each other over relays, which can cut off some from the others."""

import contextlib
import socket
import threading
from collections.abc import Collection
from pathlib import Path

from tests.cluster_servers import ClusterServers
from tests.servers import RedisServer

# The source address of the first node's own connections. The next node has the next one.
FIRST_SOURCE = 11


class PartitionableCluster(ClusterServers):
    """Each node announces the port of a relay as that of its bus.

    Clients and replication do not go over relays: only what the nodes say of each other does.
    """

    def __init__(self, directory: Path, masters: int, replicas: int, *options: str):
        self._relays: dict[RedisServer, _Relay] = {}
        self._cut_off: set[str] = set()  # the source addresses of the smaller part
        super().__init__(directory, masters, replicas, *options)

    def stop(self) -> None:
        super().stop()
        for relay in self._relays.values():
            relay.close()

    def bus_of(self, node: RedisServer) -> int:
        return self._relays[node].port

    def cut_off(self, nodes: Collection[RedisServer]) -> None:
        """Let these nodes hear only each other, and the others too."""
        self._cut_off.update(self._relays[node].source for node in nodes)
        for relay in self._relays.values():
            relay.drop_refused()

    def join(self) -> None:
        """Let all hear each other again."""
        self._cut_off.clear()

    def is_cut(self, one: str, other: str) -> bool:
        """Return whether two nodes, named by their source addresses, do not hear each other."""
        return (one in self._cut_off) is not (other in self._cut_off)

    def _make_node(self, number: int) -> RedisServer:
        node = super()._make_node(number)
        source = f"127.0.0.{FIRST_SOURCE + number}"
        relay = _Relay(self, super().bus_of(node), source)
        node._options += ("--cluster-announce-bus-port", str(relay.port))
        node._options += ("--bind-source-addr", source)
        self._relays[node] = relay
        return node


class _Relay:
    """Passes on the connections of other nodes to the bus of one."""

    def __init__(self, cluster: PartitionableCluster, bus_port: int, source: str):
        self.source = source
        self._cluster, self._bus_port = cluster, bus_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._links: dict[socket.socket, tuple[str, socket.socket]] = {}
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def drop_refused(self) -> None:
        """End the connections between nodes that do not hear each other any more."""
        for link, (source, bus) in list(self._links.items()):
            if self._cluster.is_cut(source, self.source):
                _end(link)
                _end(bus)

    def _accept(self) -> None:
        while True:
            try:
                link, (source, _) = self._listener.accept()
            except OSError:
                return  # closed
            try:
                if self._cluster.is_cut(source, self.source):
                    raise ConnectionRefusedError
                bus = socket.create_connection(("127.0.0.1", self._bus_port))
            except OSError:
                link.close()
                continue
            self._links[link] = source, bus
            for ends in ((link, bus), (bus, link)):
                threading.Thread(target=self._pump, args=ends, daemon=True).start()
            if self._cluster.is_cut(source, self.source):  # since a moment ago
                self.drop_refused()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError), source:
            while piece := source.recv(65536):
                target.sendall(piece)
        _end(target)
        self._links.pop(source, None)


def _end(link: socket.socket) -> None:
    with contextlib.suppress(OSError):
        link.shutdown(socket.SHUT_RDWR)
