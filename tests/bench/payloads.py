"""The gateway, all of whose streams are `format=payload`."""

from collections.abc import Iterable
from typing import Any

from app import create_app

_app = create_app()


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Ask for the payload of events in place of the client, which knows no query."""
    if environ["PATH_INFO"].endswith("/events/stream"):
        environ["QUERY_STRING"] = "format=payload"
    return _app(environ, start_response)
