"""An HTTP adapter for long bodies of lines: it stops sending when the answer is there already.

A server that refuses a part of a body answers at once, throws away what still comes for a
while, and then closes. By itself a client would go on sending into that, and might at last see
a reset in the place of the answer.
"""

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.util import wait_for_read

from .keepalive import with_keepalive


class EarlyResponseAdapter(HTTPAdapter):
    """Sends a body up to the moment in which the server answers, and gives that answer.

    For sessions of a single request: what was broken off leaves a connection of no use.
    """

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> HTTPConnectionPool:
        pool = super().get_connection_with_tls_context(*args, **kwargs)
        pool.ConnectionCls = _SecureConnection if pool.scheme == "https" else _Connection
        return pool


class _Lines:
    """Sends the lines of a body, each in a chunk of its own, and blank ones between them."""

    def request(self, method: str, url: str, body: Iterator[bytes], **options: Any) -> None:
        blank_line = partial(self.send, b"1\r\n\n\r\n")
        with contextlib.closing(with_keepalive(body, blank_line)) as lines:
            super().request(method, url, lines, **options)


class _Connection(_Lines, HTTPConnection):
    # urllib3 takes a BrokenPipeError while it sends for what an early answer may look like,
    # and goes on to read the answer.

    def send(self, data: Any) -> None:
        if self.sock is not None and wait_for_read(self.sock, timeout=0):
            raise BrokenPipeError
        _send(super(), data)


class _SecureConnection(_Lines, HTTPSConnection):
    # Its socket is readable for more reasons than an answer (session tickets), so that one is
    # noticed only when sending fails.

    def send(self, data: Any) -> None:
        _send(super(), data)


def _send(connection: Any, data: Any) -> None:
    try:
        connection.send(data)
    except OSError as error:
        raise BrokenPipeError from error
