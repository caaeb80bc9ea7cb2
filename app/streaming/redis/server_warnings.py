"""What INFO says of a server, and which of its settings may lose events."""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

# Redis 7.0 and newer takes several sections at once.
SECTIONS = ("memory", "persistence", "replication")

_REPLICA = re.compile("slave[0-9]+")


class ServerWarning(NamedTuple):
    """A setting with which Redis may lose what it has acknowledged.

    `code` is `eviction`, `no-append-only-file`, `replica` or `too-few-replicas`; `detail` says
    what may be lost or is refused, and what to do.
    """

    code: str
    detail: str


def parse_info(reply: bytes) -> dict[str, str]:
    """Return the fields of a reply to INFO."""
    lines = reply.decode(errors="replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def online_replicas(fields: Mapping[str, str]) -> list[int]:
    """Return up to which offset each replica has acknowledged, those that are in step only."""
    replicas = (
        dict(part.split("=", 1) for part in value.split(",") if "=" in part)
        for name, value in fields.items()
        if _REPLICA.fullmatch(name)
    )
    return [int(each["offset"]) for each in replicas if each.get("state") == "online"]


def warnings_of(fields: Mapping[str, str], ack_replicas: int = 0) -> list[ServerWarning]:
    """Return what the fields of SECTIONS warn of. A field that is missing says nothing.

    `ack_replicas` is how many replicas must acknowledge an append.
    """
    return [ServerWarning(*each) for each in _warnings(fields, ack_replicas)]


def _warnings(fields: Mapping[str, str], ack_replicas: int) -> Iterator[tuple[str, str]]:
    policy = fields.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        yield (
            "eviction",
            f"maxmemory-policy is {policy}: a Redis that reaches maxmemory deletes logs; "
            "set noeviction",
        )
    if fields.get("aof_enabled") == "0":
        yield (
            "no-append-only-file",
            "appendonly is no: when Redis ends, all events since its last snapshot are lost; "
            "set yes",
        )
    if fields.get("role") == "slave":
        yield (
            "replica",
            "Redis is a replica: what is written to it is lost when it follows its master again; "
            "name the master in REDIS_URL",
        )
    connected = len(online_replicas(fields))
    if "role" in fields and connected < ack_replicas:
        yield (
            "too-few-replicas",
            f"ACK_REPLICAS is {ack_replicas}, but the number of connected replicas is "
            f"{connected}: no append is acknowledged; connect replicas, or lower ACK_REPLICAS",
        )
