"""The host names that a gateway answers to, so that a web page cannot reach it by DNS rebinding.

A page of any site can let its own host name lead to 127.0.0.1. For the browser, the gateway is
then of the page's origin. Only the header `Host` shows that it is not.
"""

import contextlib
import ipaddress
from collections.abc import Iterable

from flask import Flask, request

from ...server.addresses import is_loopback
from ...server.connections import HEALTH_PATHS, METRICS_PATH
from ..problems import FieldError

MAX_REMEMBERED = 64
MAX_REMEMBERED_LENGTH = 256


class Hosts:
    """Which host names are answered: every one, unless some were named or it is on loopback."""

    def __init__(self, allowed: tuple[str, ...]):
        """`allowed` are names in lower case; one that begins with a dot is for its subdomains."""
        self._names = frozenset(name for name in allowed if not name.startswith("."))
        self._suffixes = tuple(name for name in allowed if name.startswith("."))
        self._checks = bool(allowed)
        self._remembered: set[str] = set()  # headers that were allowed

    def init_app(self, app: Flask) -> None:
        app.before_request(self._check)

    def listens_on(self, addresses: Iterable[object]) -> None:
        """Note where the server listens: the addresses of its sockets, as `getsockname` gives."""
        if all(isinstance(each, tuple) and is_loopback(each[0]) for each in addresses):
            self._checks = True

    def allows(self, header: str) -> bool:
        """Return whether requests with this header `Host` are answered."""
        name = host_of(header)
        return (
            is_loopback(name)
            or name in self._names
            or name.endswith((".localhost", *self._suffixes))
            or "*" in self._names
        )

    def answers(self, header: str) -> bool:
        """Whether requests with this header `Host` are answered, if anybody asks."""
        return not self._checks or header in self._remembered or self.allows(header)

    def _check(self) -> None:
        """Raise 421 (RFC 9110, section 15.5.20) if the request is for a host of somebody else."""
        header = request.environ.get("HTTP_HOST")
        if not self._checks or header is None or header in self._remembered:
            return  # every browser sends the header
        if request.path in HEALTH_PATHS or request.path == METRICS_PATH:
            return  # those who ask often use an address, and no run is named
        if not self.allows(header):
            raise FieldError(421, "Host", "is not a name of this gateway: see ALLOWED_HOSTS")
        if len(self._remembered) < MAX_REMEMBERED and len(header) <= MAX_REMEMBERED_LENGTH:
            self._remembered.add(header)


def host_of(header: str) -> str:
    """Return the host of a header `Host`, in lower case, without its port and its final dot."""
    name = header.strip().lower()
    if name.startswith("["):
        with contextlib.suppress(ValueError):
            return str(ipaddress.ip_address(name[1:].partition("]")[0]))
    return name.partition(":")[0].removesuffix(".")
