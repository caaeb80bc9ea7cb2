"""Short answers, head and body of which go out in one send."""

from collections.abc import Iterable
from typing import Any

from flask import Response
from werkzeug.wsgi import ClosingIterator

from app.routes.handover import writer_of


class Answer(Response):
    """JSON, sent at once where the server is gunicorn: it would send the head by itself first."""

    default_mimetype = "application/json"

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        writer = writer_of(start_response)
        if writer is None:
            return super().__call__(environ, start_response)
        start_response(self.status, self.headers.to_wsgi_list())
        fields = [f"{name}: {value}\r\n" for name, value in writer.headers]
        head = "".join([*writer.default_headers(), *fields, "\r\n"])
        body = self.get_data()
        writer.sock.sendall(head.encode("latin-1") + body)
        writer.headers_sent, writer.sent = True, len(body)
        return ClosingIterator((), self.close)
