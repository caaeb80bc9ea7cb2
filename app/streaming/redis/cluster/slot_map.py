"""The map of a cluster: which node has which slots, as one of the nodes tells it."""

from collections.abc import Iterator
from typing import NamedTuple

from ...errors import UnsupportedServer
from ..connection import Reply, checked
from ..server import Server
from ..server_warnings import parse_info

SLOTS = 16384

Address = tuple[str, int]


class Shard(NamedTuple):
    """A range of slots, with the node that has them and those that have copies of them."""

    first: int
    last: int
    master: Address
    replicas: tuple[Address, ...]


class SlotMap(NamedTuple):
    """What a node says of its cluster.

    Attributes:
        shards: all ranges of slots that some node has.
        node_ids: the ids of the nodes in `shards`.
        is_ok: whether the node takes part in a cluster that serves.
        epoch: how many failovers and moves the node knows of; a higher one is newer.
    """

    shards: tuple[Shard, ...]
    node_ids: frozenset[str]
    is_ok: bool
    epoch: int

    def masters(self) -> list[Address]:
        """Return the nodes that have slots, each once, in the order of their first slots."""
        return list(dict.fromkeys(each.master for each in self.shards))

    def replicas(self) -> list[Address]:
        """Return the nodes that have copies, each once."""
        return list(dict.fromkeys(address for each in self.shards for address in each.replicas))


def read_map(server: Server) -> SlotMap:
    """Ask a node for the map. Raises StoreUnavailable, and UnsupportedServer if it is no node."""
    slots, info = server.control.call_all(("CLUSTER", "SLOTS"), ("CLUSTER", "INFO"))
    for command, reply in (("CLUSTER SLOTS", slots), ("CLUSTER INFO", info)):
        text = str(reply) if isinstance(reply, Exception) else ""
        if "cluster support disabled" in text:
            raise UnsupportedServer(
                f"{server.name} is not in cluster mode: use redis:// for a single server"
            )
        if "no permissions" in text.lower() or "NOPERM" in text:
            raise UnsupportedServer(f"Redis forbids {command} to this user")
    fields = parse_info(checked(info))
    return SlotMap(
        shards=tuple(sorted(_shards(checked(slots), server.address[0]))),
        node_ids=frozenset(node[2].decode() for each in slots for node in each[2:]),
        is_ok=fields.get("cluster_state") == "ok",
        epoch=int(fields.get("cluster_current_epoch", 0)),
    )


def _shards(reply: Reply, asked: str) -> Iterator[Shard]:
    for first, last, *nodes in reply:
        master, *replicas = [_address(node, asked) for node in nodes]
        yield Shard(first, last, master, tuple(replicas))


def _address(node: Reply, asked: str) -> Address:
    return host_or((node[0] or b"").decode(), asked), node[1]


def host_or(told: str, asked: str) -> str:
    """Return the host that a node tells of another one.

    It tells "" if it does not know it, and "?" if that node announces no hostname, and hostnames
    are preferred. Then it is that of the node that was asked.
    """
    return told if told not in ("", "?") else asked
