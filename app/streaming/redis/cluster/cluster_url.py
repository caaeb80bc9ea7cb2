"""The URL of a cluster: `redis+cluster://user:password@host:port,host:port`."""

import re
from typing import Any

from redis.connection import parse_url

from ..sentinel import ENCODE
from .slot_map import Address

DEFAULT_PORT = 6379

_SCHEME = re.compile(r"(rediss?|valkeys?)\+cluster://")
_ENDS_HOST = re.compile(r"[/?#]")


def is_cluster_url(url: str) -> bool:
    """Return whether a URL is that of a cluster."""
    return _SCHEME.match(url) is not None


def parse_cluster_url(url: str) -> tuple[list[Address], dict[str, Any]]:
    """Return the nodes that a URL names, and redis-py's settings of a connection to each.

    Raises ValueError for a URL that cannot be used.
    """
    scheme, _, rest = url.partition("+cluster://")
    credentials, at, rest = rest.rpartition("@")
    if _ENDS_HOST.search(credentials):
        raise ValueError(ENCODE)
    hosts, question_mark, query = rest.partition("?")
    hosts, _, database = hosts.partition("/")
    if database not in ("", "0"):
        raise ValueError("a cluster has only the database 0")
    secure = "s" if scheme in ("rediss", "valkeys") else ""
    addresses: list[Address] = []
    settings: dict[str, Any] = {}
    for host in hosts.split(","):
        each = f"redis{secure}://{credentials}{at}{host}{question_mark}{query}"
        settings = dict(parse_url(each))
        if not settings.get("host"):
            raise ValueError("behind // must stand host:port,host:port")
        addresses.append((settings.pop("host"), settings.pop("port", DEFAULT_PORT)))
    if settings.pop("db", 0):
        raise ValueError("a cluster has only the database 0")
    return addresses, settings
