"""One GET that ends in time, however slow the server is, and however much it sends."""

import contextlib
import http.client
import socket
import threading
from typing import Any, Self
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import ConnectionPool, HTTPConnectionPool

# For each wait for the network. A connection that was made is also held to the deadline.
WAIT_SECONDS = 5.0
PIECE_BYTES = 65536

# What still reads this long after the time is over is sent bytes without a pause.
LAST_SECONDS = 1.0


class FetchFailed(Exception):
    """There was no good answer; the message says why, and does not show the URL."""


class _Deadline:
    """Shuts connections down when the time is over, wherever a read of them waits.

    A timeout of a socket begins anew with every byte, and http.client reads heads of any number.
    """

    def __init__(self, seconds: float) -> None:
        self.is_over = False
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._is_done = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(seconds,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._is_done.set()
        with self._lock:
            for each in self._sockets:
                each.close()
            self._sockets.clear()

    def watch(self, connection: socket.socket) -> None:
        """Hold a connection to the deadline. TLS takes its descriptor, so keep another one.

        Raises TimeoutError if the time is over.
        """
        with self._lock:
            if self.is_over:
                connection.close()
                raise TimeoutError
            self._sockets.append(connection.dup())

    def _run(self, seconds: float) -> None:
        if self._is_done.wait(seconds):
            return
        # Only reads end first: ssl leaves a socket open that is disconnected before its handshake.
        self._shut_down(socket.SHUT_RD)
        if not self._is_done.wait(LAST_SECONDS):
            self._shut_down(socket.SHUT_RDWR)

    def _shut_down(self, how: int) -> None:
        with self._lock:
            self.is_over = True
            for each in self._sockets:
                with contextlib.suppress(OSError):  # the other side has closed it
                    each.shutdown(how)


class _Connection(HTTPConnection):
    deadline: _Deadline

    def _new_conn(self) -> socket.socket:
        connection = super()._new_conn()
        self.deadline.watch(connection)
        return connection


class _Adapter(HTTPAdapter):
    def __init__(self, deadline: _Deadline) -> None:
        super().__init__()
        self._deadline = deadline

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> ConnectionPool:
        pool = super().get_connection_with_tls_context(*args, **kwargs)
        if isinstance(pool, HTTPConnectionPool):
            # The pool's own class knows TLS, or the way through a proxy.
            bases = (_Connection, pool.ConnectionCls)
            pool.ConnectionCls = type("_Watched", bases, {"deadline": self._deadline})
        return pool


def fetch(url: str, seconds: float, max_bytes: int) -> bytes:
    """Return the body of a URL: the status is 200, and there are no redirects.

    The proxies and certificates of the environment hold for https. No password of a .netrc is
    sent. Raises FetchFailed, also if not all has come after `seconds`, or if it has, unpacked,
    more than `max_bytes`.
    """
    with _Deadline(seconds) as deadline:
        try:
            return _get(url, deadline, max_bytes)
        except (
            requests.RequestException,
            urllib3.exceptions.HTTPError,
            http.client.HTTPException,
            OSError,
        ) as error:
            late = f"there was no whole answer within {seconds:g} s"
            raise FetchFailed(late if deadline.is_over else type(error).__name__) from None


def _get(url: str, deadline: _Deadline, max_bytes: int) -> bytes:
    with requests.Session() as session:
        for scheme in ("http://", "https://"):
            session.mount(scheme, _Adapter(deadline))
        session.trust_env = urlsplit(url).scheme == "https"
        session.auth = _without_password
        with session.get(url, timeout=WAIT_SECONDS, stream=True, allow_redirects=False) as response:
            if response.status_code != 200:
                raise FetchFailed(f"the status is {response.status_code}")
            body = bytearray()
            while piece := response.raw.read1(PIECE_BYTES, decode_content=True):
                body += piece
                if len(body) > max_bytes:
                    raise FetchFailed(f"the answer has more than {max_bytes} bytes")
    # A shutdown looks like the end of a body without a length.
    if deadline.is_over:
        raise TimeoutError
    return bytes(body)


def _without_password(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request
