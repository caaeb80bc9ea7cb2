"""The listening sockets: they open when a worker serves, and close when nobody waits in them."""

import socket
from typing import Any

from gunicorn.sock import BaseSocket

# More than a listener's queue can hold (gunicorn's setting `backlog` is 2,048).
MAX_QUEUED = 1 << 16


def open_late() -> None:
    """Have gunicorn's master only bind its sockets, so that connections are refused at first.

    A worker takes a second or more to start. A connection that is accepted before would wait for
    it; one that is refused goes to another gateway at once.
    """
    BaseSocket._is_listening = staticmethod(lambda sock: True)  # type: ignore[attr-defined]


def open_now(listener: socket.socket, backlog: int) -> None:
    """Accept connections from now on; safe to repeat, also in another worker.

    Raises OSError if another program has begun to listen there meanwhile.
    """
    if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        listener.listen(backlog)


def close_empty(server: Any) -> None:
    """Close a server of gevent after it has accepted those who wait in the queue of its listener.

    The kernel resets those. A proxy may have sent a POST on such a connection, and cannot know
    what became of it.
    """
    if server.started:
        server.max_accept = MAX_QUEUED
        server._do_read()
    server.close()
