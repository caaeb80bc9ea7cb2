"""What INFO says of a server, and which of its settings may lose events."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

# Redis 7.0 and newer takes several sections at once.
SECTIONS = ("memory", "persistence", "replication")


class ServerWarning(NamedTuple):
    """A setting with which Redis may lose what it has acknowledged.

    `code` is `eviction`, `no-append-only-file` or `replica`; `detail` says what may be lost and
    what to do.
    """

    code: str
    detail: str


def parse_info(reply: bytes) -> dict[str, str]:
    """Return the fields of a reply to INFO."""
    lines = reply.decode(errors="replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def warnings_of(fields: Mapping[str, str]) -> list[ServerWarning]:
    """Return what the fields of SECTIONS warn of. A field that is missing says nothing."""
    return [ServerWarning(*each) for each in _warnings(fields)]


def _warnings(fields: Mapping[str, str]) -> Iterator[tuple[str, str]]:
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
