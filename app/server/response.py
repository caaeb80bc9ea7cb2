"""Short answers, head and body of which go out in one send."""

import time
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from flask import Response
from gevent.socket import socket as GeventSocket
from werkzeug.exceptions import ServiceUnavailable
from werkzeug.http import http_date

from ..streaming.follow import client_socket as client_socket
from .hijack import gunicorn_response

# A larger body is not copied behind its head.
ONE_SEND_BYTES = 64 * 1024

# What large answers may hold together until their clients have taken them.
MAX_UNSENT_BYTES = 256 * 1024 * 1024


class Unsent:
    """Counts the bytes of pages that this worker's clients have not taken yet."""

    def __init__(self):
        self.bytes = 0

    def hold(self, answer: "Answer") -> None:
        """Count an answer until it is sent or given up; raises 503 where there is no room."""
        size = len(answer.get_data())
        if self.bytes + size > MAX_UNSENT_BYTES:
            raise ServiceUnavailable("too many pages wait for clients that do not take them")
        self.bytes += size

        def let_go() -> None:
            self.bytes -= size

        answer.call_on_close(let_go)


class Answer(Response):
    """JSON, sent at once where the server is gunicorn: it would send the head by itself first,
    and make it anew from its parts at each request, which costs an append more than its JSON.
    """

    default_mimetype = "application/json"

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        writer = gunicorn_response(start_response)
        if writer is None or environ["REQUEST_METHOD"] == "HEAD":
            return super().__call__(environ, start_response)
        body = self.get_data()
        writer.status, writer.status_code = self.status, self.status_code
        writer.response_length = writer.sent = len(body)
        fields = [f"{name}: {value}\r\n" for name, value in self.headers]
        major, minor = writer.req.version
        head = (
            f"HTTP/{major}.{minor} {self.status}\r\nServer: {writer.version}\r\n"
            f"Date: {_date(int(time.time()))}\r\n"
            f"Connection: {'close' if writer.should_close() else 'keep-alive'}\r\n"
            f"{''.join(fields)}\r\n"
        )
        writer.headers_sent = True
        try:
            _send(writer.sock, head.encode("latin-1"), body)
        finally:
            self.close()
        return ()


def _send(connection: GeventSocket, head: bytes, body: bytes) -> None:
    """Send an answer; a client that takes nothing of it for too long counts as gone.

    gevent's `sendall` has one time-out for the whole, and asks the system for the size of its
    buffer each time.
    """
    connection.settimeout(client_socket.STALLED_SECONDS)
    for piece in (head + body,) if len(body) < ONE_SEND_BYTES else (head, body):
        sent = connection.send(piece)
        while sent < len(piece):
            sent += connection.send(memoryview(piece)[sent:])


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return http_date(second)
