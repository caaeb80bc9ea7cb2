"""The gateway, all of whose streams are `format=payload`."""

from collections.abc import Iterable
from typing import Any

from wsgi import app

__all__ = ["app"]

_wsgi_app = app.wsgi_app


def _with_format(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Ask for the payload of events in place of the client, which knows no query."""
    if environ["PATH_INFO"].endswith("/events/stream"):
        environ["QUERY_STRING"] = "format=payload"
    return _wsgi_app(environ, start_response)


app.wsgi_app = _with_format
