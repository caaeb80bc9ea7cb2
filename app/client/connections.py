"""HTTP connections that raise an error for every response that was cut off.

`http.client` takes the end of a connection for the end of a line: of the status line, of the
headers, of a chunk's size. A response that was cut off there would look like a shorter one.
"""

import http.client
import io
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import ConnectionPool, HTTPConnectionPool


class _LineReader(io.BufferedReader):
    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        full = size is not None and 0 <= size <= len(line)
        if not full and not line.endswith(b"\n"):
            raise http.client.RemoteDisconnected("the connection ended within the response")
        return line


class _Response(http.client.HTTPResponse):
    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.fp = _LineReader(self.fp.detach())


class Connection(HTTPConnection):
    """A connection whose responses are whole, or raise an error."""

    response_class = _Response


class SecureConnection(HTTPSConnection):
    """The same over TLS."""

    response_class = _Response


class Adapter(HTTPAdapter):
    """Makes such connections, also through proxies."""

    connection_class: type[HTTPConnection] = Connection
    secure_connection_class: type[HTTPConnection] = SecureConnection

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> ConnectionPool:
        pool = super().get_connection_with_tls_context(*args, **kwargs)
        if isinstance(pool, HTTPConnectionPool):
            secure = pool.scheme == "https"
            wanted = self.secure_connection_class if secure else self.connection_class
            if not issubclass(pool.ConnectionCls, wanted):
                # The pool's own class may know the way through a proxy (SOCKS).
                pool.ConnectionCls = type(wanted.__name__, (wanted, pool.ConnectionCls), {})
        return pool

    def check_certificates(self, pool: ConnectionPool, url: str, verify: Any, cert: Any) -> None:
        """Raise OSError if a file of certificates that https needs does not exist."""
        self.cert_verify(pool, url, verify, cert)  # type: ignore[no-untyped-call]


def is_framed(response: requests.Response) -> bool:
    """Return whether the response said where its body ends, other than with its connection."""
    # A length that was not sent, or makes no sense, is None.
    return response.raw.chunked or response.raw.length_remaining is not None
