"""Notices that a client has gone, from its socket, without waiting for a failed write."""

import socket
from collections.abc import Callable

import gevent
from gevent.socket import socket as GeventSocket

READABLE = 1


class DisconnectWatch:
    """Calls `gone` once, from the hub, when the peer of a socket has closed or reset it.

    Works on the plain sockets of a gevent server; anything else (TLS, another server) is
    left alone, and a failed write tells instead. Must be closed before the socket is.
    """

    def __init__(self, connection: object, gone: Callable[[], None]):
        self._connection = connection
        self._gone = gone
        self._watcher = None
        if type(connection) is GeventSocket and connection.fileno() >= 0:
            self._watcher = gevent.get_hub().loop.io(connection.fileno(), READABLE)
            self._watcher.start(self._look)

    def close(self) -> None:
        """Stop watching; safe to repeat."""
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.close()
            self._watcher = None

    def _look(self) -> None:
        try:
            peeked = self._connection._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            peeked = b""
        # A pipelined request would make the socket readable for ever, so it ends the watch.
        self.close()
        if not peeked:
            self._gone()
