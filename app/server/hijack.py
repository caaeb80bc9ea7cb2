"""Hijacks a client's connection from gunicorn's gevent worker, once the headers are sent."""

from collections.abc import Callable

from gevent.socket import socket as GeventSocket
from gunicorn.http.wsgi import Response as GunicornResponse

from ..streaming.follow.client_socket import ClientSocket


def hijack(start_response: object) -> ClientSocket | None:
    """Send the headers of the response just started, and return its connection.

    Returns None if the server is not gunicorn on a plain socket: then the response must be
    iterated.
    """
    response = gunicorn_response(start_response)
    if response is None:
        return None
    response.force_close()  # requests pipelined behind this one are never read
    response.send_headers()
    count: Callable[[], Callable[[], None]] | None = getattr(response.req, "hijack", None)
    client_socket = ClientSocket(response.sock, response.chunked, count() if count else None)
    response.chunked = False  # gunicorn must not write the end of the body
    return client_socket


def gunicorn_response(start_response: object) -> GunicornResponse | None:
    """Return gunicorn's response object, or None if it does not write to a plain socket.

    Other servers, TLS in the worker and HTTP/2 have none. A middleware may stand between.
    """
    response = getattr(start_response, "__self__", None)
    if type(response) is GunicornResponse and type(response.sock) is GeventSocket:
        return response
    return None
