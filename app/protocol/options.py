"""The options of a client: which URLs, headers and certificates it accepts."""

import os
import re
from collections.abc import Mapping

from ..streaming.errors import InvalidInput

MAX_REDIRECTS = 10

# What the client sets itself, in lower case.
OWN_HEADERS = (
    *("accept", "accept-encoding", "authorization", "connection", "content-length"),
    *("content-type", "host", "idempotency-key", "last-event-id", "transfer-encoding"),
)

_PASSWORD = re.compile(r"(?<=://)[^/]*@")

# RFC 9110, sections 5.6.2 and 5.5, without what is obsolete.
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[!-~]([\t -~]*[!-~])?|")


def check_url(url: str) -> str:
    """Return a URL without a slash at its end. Raises InvalidInput unless it is of HTTP."""
    if not isinstance(url, str) or not url.startswith(("http://", "https://")):
        raise InvalidInput("url", "must begin with http:// or https://")
    return url.rstrip("/")


def shown_url(url: str) -> str:
    """Return a URL without the name and the password in it."""
    return _PASSWORD.sub("", url)


def check_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return a copy of the headers of a user. Raises InvalidInput, which shows no value."""
    for name, value in headers.items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise InvalidInput("headers", f"{name!r} is not the name of a header")
        if name.lower() in OWN_HEADERS:
            raise InvalidInput("headers", f"{name} is set by the client itself")
        if not isinstance(value, str) or not _HEADER_VALUE.fullmatch(value):
            raise InvalidInput("headers", f"the value of {name} must be a str of printable ASCII")
    return dict(headers)


def check_verify(verify: bool | str | os.PathLike[str]) -> bool | str:
    """Return `verify` as a bool or a str. Raises InvalidInput for a path without a file."""
    if isinstance(verify, bool):
        return verify
    path = os.fspath(verify) if isinstance(verify, str | os.PathLike) else None
    if not isinstance(path, str) or not os.path.exists(path):
        raise InvalidInput("verify", f"must be a bool or the path of a CA bundle, not {path!r}")
    return path
