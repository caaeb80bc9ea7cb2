"""Closing a connection whose request was not read to its end, so that the response arrives.

A client that is disconnected while it sends sees a reset in place of the response. gunicorn
would read the rest without a limit, and let no other request have a turn.
"""

import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from gunicorn.http.body import Body, ChunkedReader, LengthReader

from .gunicorn_body import READ_BYTES, close_after, closes_after

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

# This much of an unread body is left to gunicorn, which reads it and keeps the connection.
MAX_LEFT_BYTES = 65536


def take_unread(environ: "WSGIEnvironment") -> socket.socket | None:
    """Return the connection of a request whose body is unread, which gunicorn will then close.

    Returns None if the body was read, or if the server is not gunicorn.
    """
    body, connection = environ["wsgi.input"], environ.get("gunicorn.socket")
    if connection is None or not isinstance(body, Body) or not _is_unread(body):
        return None
    close_after(body, True)
    # The head of the response must say so, else the client sends another request. The worker
    # lends the body the method.
    force_close: Callable[[], None] | None = getattr(body, "force_close", None)
    if force_close is not None:
        force_close()
    unread: socket.socket = connection
    return unread


def linger(connection: socket.socket, seconds: float) -> None:
    """Close the sending half, and discard what the client sends for up to `seconds`."""
    until = time.monotonic() + seconds
    try:
        connection.shutdown(socket.SHUT_WR)
        while (left := until - time.monotonic()) > 0:
            connection.settimeout(left)
            if not connection.recv(READ_BYTES):
                break
            time.sleep(0)  # a fast sender must not keep the others waiting
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # the client has gone, which ends the wait


def _is_unread(body: Body) -> bool:
    if isinstance(body.reader, ChunkedReader):
        return body.reader.parser is not None
    if isinstance(body.reader, LengthReader):
        return body.reader.length > (0 if closes_after(body) else MAX_LEFT_BYTES)
    return False
