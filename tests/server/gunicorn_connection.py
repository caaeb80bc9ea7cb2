"""A connection with the test as the client, and gunicorn's request parser as the server."""

import gevent.socket
from gunicorn.config import Config
from gunicorn.http.body import Body
from gunicorn.http.parser import RequestParser
from gunicorn.http.wsgi import Response

from app.server.bodies.nonblocking_body import NonBlockingBody

HEAD = b"POST /runs/1/events HTTP/1.1\r\nHost: localhost\r\n%b\r\n\r\n"
CHUNKED = HEAD % b"Transfer-Encoding: chunked"


def with_length(length: int) -> bytes:
    """Return the head of a request with this Content-Length."""
    return HEAD % b"Content-Length: %d" % length


class GunicornConnection:
    """A pair of sockets, and the request that gunicorn parsed from the bytes `first`."""

    def __init__(self, first: bytes) -> None:
        self.client, self.server = gevent.socket.socketpair()
        self.client.sendall(first)
        self._config = Config()
        self.request = next(RequestParser(self._config, self.server, ("127.0.0.1", 1)))
        self.body: Body = self.request.body
        self.unreader = self.request.unreader
        self.environ = {
            "REQUEST_METHOD": self.request.method,
            "wsgi.input": self.body,
            "gunicorn.socket": self.server,
        }

    def __enter__(self) -> "GunicornConnection":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.client.close()
        self.server.close()

    def nonblocking_body(self) -> NonBlockingBody:
        body = NonBlockingBody.of(self.environ)
        assert body is not None
        return body

    def response(self) -> Response:
        """Return gunicorn's response object; it has the `start_response` of WSGI."""
        return Response(self.request, self.server, self._config)
