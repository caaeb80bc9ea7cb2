"""The header Accept: whether a client prefers JSON lines."""

from functools import lru_cache

from flask import request
from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

JSON_LINES = "application/x-ndjson"

# A longer Accept header counts as absent. Parsing takes a millisecond for as much as this.
MAX_ACCEPT_LENGTH = 1000


def accept_header() -> str:
    """Return the header of the current request, empty if it is too long."""
    accept = request.headers.get("Accept", "")
    return accept if len(accept) <= MAX_ACCEPT_LENGTH else ""


def prefers_json_lines(default: str) -> bool:
    """Whether the current request prefers JSON lines to the content type `default`."""
    return _prefers_json_lines(accept_header(), default)


@lru_cache(maxsize=100)
def _prefers_json_lines(accept: str, default: str) -> bool:
    accepted = parse_accept_header(accept, MIMEAccept)
    return accepted.best_match((default, JSON_LINES), default=default) == JSON_LINES
