"""The id of a request: the client's `X-Request-Id`, or one that is made for it."""

import os
import re
import secrets
from collections.abc import Iterable, MutableMapping
from itertools import count
from typing import Any

MAX_LENGTH = 128
HEADER = "X-Request-Id"

# Neither a header nor a line of a log can be broken by these.
SAFE = "[A-Za-z0-9._:/+=@~-]"
_SAFE = re.compile(rf"{SAFE}{{1,{MAX_LENGTH}}}\Z")
_ENVIRON = "tailrace.request_id"


class _Numbers:
    """Numbers the requests of one process, behind a prefix that no other process has."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Begin anew, as a worker does after the fork."""
        self.prefix = secrets.token_hex(6)
        self.next = count(1).__next__


_numbers = _Numbers()
os.register_at_fork(after_in_child=_numbers.begin)


def new_request_id() -> str:
    """Return an id that no other request has."""
    return f"{_numbers.prefix}-{_numbers.next()}"


def given_request_id(header: str | None) -> str | None:
    """Return the id that a header brings, None if it is none: it is too long, or not safe."""
    return header if header is not None and _SAFE.match(header) else None


def request_id_of(environ: MutableMapping[str, Any]) -> str:
    """Return the id of a WSGI request, which keeps it."""
    found: str | None = environ.get(_ENVIRON)
    if found is None:
        found = given_request_id(environ.get("HTTP_X_REQUEST_ID")) or new_request_id()
        environ[_ENVIRON] = found
    return found


def set_request_id(environ: MutableMapping[str, Any], request_id: str) -> None:
    """Give a WSGI request an id."""
    environ[_ENVIRON] = request_id


def request_id_of_headers(headers: Iterable[tuple[str, str]]) -> str:
    """Return the id of a request that gunicorn itself answers, from its headers."""
    values = [value for name, value in headers if name == "X-REQUEST-ID"]
    given = given_request_id(values[0]) if len(values) == 1 else None
    return given or new_request_id()
