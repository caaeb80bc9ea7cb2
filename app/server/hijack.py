"""Takes a client's connection over from gunicorn's gevent worker, once its headers are out."""

from gevent.socket import socket as GeventSocket
from gunicorn.http.wsgi import Response as GunicornResponse

from ..streaming.follow.client_socket import ClientSocket


def hijack(start_response: object) -> ClientSocket | None:
    """The client_socket of the response that was just started; None where it must be iterated."""
    writer = gunicorn_response(start_response)
    if writer is None:
        return None
    writer.force_close()  # what is pipelined behind this request is never read
    writer.send_headers()
    client_socket = ClientSocket(writer.sock, writer.chunked)
    writer.chunked = False  # the body's end is not gunicorn's to write
    return client_socket


def gunicorn_response(start_response: object) -> GunicornResponse | None:
    """What gunicorn is to write the response with; None where it writes to no plain socket.

    Other servers, TLS in the worker and HTTP/2 offer none, and a middleware may stand between.
    """
    writer = getattr(start_response, "__self__", None)
    if type(writer) is GunicornResponse and type(writer.sock) is GeventSocket:
        return writer
    return None
