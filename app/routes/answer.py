"""Short answers, head and body of which go out in one send."""

import time
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from flask import Response
from werkzeug.http import http_date
from werkzeug.wsgi import ClosingIterator

from app.routes.handover import writer_of


class Answer(Response):
    """JSON, sent at once where the server is gunicorn: it would send the head by itself first,
    and make it anew from its parts at each request, which costs an append more than its JSON.
    """

    default_mimetype = "application/json"

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        writer = writer_of(start_response)
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
        answer = head.encode("latin-1") + body
        # gevent's sendall asks the system for the size of its buffer each time.
        sent = writer.sock.send(answer)
        if sent < len(answer):
            writer.sock.sendall(memoryview(answer)[sent:])
        return ClosingIterator((), self.close)


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return http_date(second)
