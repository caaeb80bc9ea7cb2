"""What holds for every response, and JSON responses whose head and body leave in one send."""

import time
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

from flask import Response, request
from gevent.socket import socket as GeventSocket
from gunicorn import SERVER
from werkzeug.http import http_date

from ..streaming.follow import client_socket
from .common_headers import NO_STORE, SECURITY_HEADERS
from .hijack import gunicorn_response
from .request_ids import HEADER, request_id_of

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

# A larger body is not copied behind its head.
MAX_ONE_SEND_BYTES = 64 * 1024


def add_common_headers(response: Response) -> Response:
    """Add what every response has: the request's id, security headers, that no cache may store it.

    A response may have a Cache-Control of its own. One without content has no type of it.
    """
    if response.status_code == 204:
        response.headers.pop("Content-Type", None)
    response.headers.add(HEADER, request_id_of(request.environ))
    for name, value in SECURITY_HEADERS:  # one microsecond; `extend` takes four
        response.headers.add(name, value)
    # Three times as fast as a look-up by name, which raises an exception for an absent header.
    if not any(name == "Cache-Control" for name, _ in response.headers):
        response.headers.add(*NO_STORE)
    return response


class JsonResponse(Response):
    """A JSON response, sent at once where the server is gunicorn.

    gunicorn sends the head by itself first, and builds it from its parts for each response.
    That costs an append more than its JSON does.
    """

    default_mimetype = "application/json"

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        response = gunicorn_response(start_response)
        if response is None or environ["REQUEST_METHOD"] == "HEAD":
            return super().__call__(environ, start_response)
        body = self.get_data()
        response.status, response.status_code = self.status, self.status_code
        response.response_length = response.sent = len(body)
        head = head_of(self, response.should_close(), response.req.version or (1, 1))
        response.headers_sent = True
        try:
            _send(response.sock, head, body)
        finally:
            self.close()
        return ()


def head_of(response: Response, closes: bool, version: tuple[int, int] = (1, 1)) -> bytes:
    """Return the head of a response as gunicorn sends it."""
    fields = [f"{name}: {value}\r\n" for name, value in response.headers]
    major, minor = version
    head = (
        f"HTTP/{major}.{minor} {response.status}\r\nServer: {SERVER}\r\n"
        f"Date: {date_now()}\r\n"
        f"Connection: {'close' if closes else 'keep-alive'}\r\n"
        f"{''.join(fields)}\r\n"
    )
    return head.encode("latin-1")


def _send(connection: GeventSocket, head: bytes, body: bytes) -> None:
    """Send a response; a client that reads nothing for STALLED_SECONDS is disconnected.

    gevent's `sendall` has one timeout for everything, and asks the system for the size of its
    buffer each time.
    """
    connection.settimeout(client_socket.STALLED_SECONDS)
    for piece in (head + body,) if len(body) < MAX_ONE_SEND_BYTES else (head, body):
        sent = connection.send(piece)
        while sent < len(piece):
            sent += connection.send(memoryview(piece)[sent:])


def date_now() -> str:
    """Return the header Date."""
    return _date(int(time.time()))


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return http_date(second)
