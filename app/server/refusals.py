"""What gunicorn refuses by itself. No word quotes the request, which may hold a token."""

import json
import socket
from typing import NamedTuple

from gunicorn import util
from gunicorn.http import errors

from ..metrics.answers import count_response
from .common_headers import NO_STORE, SECURITY_HEADERS
from .request_ids import HEADER, new_request_id


class Refusal(NamedTuple):
    """The status of a refusal, its reason phrase, and what is wrong."""

    status: int
    reason: str
    detail: str


_REFUSALS = {
    errors.InvalidRequestLine: Refusal(400, "Bad Request", "the request line is malformed"),
    errors.InvalidRequestMethod: Refusal(400, "Bad Request", "the method is malformed"),
    errors.InvalidHTTPVersion: Refusal(400, "Bad Request", "the HTTP version is not supported"),
    errors.InvalidHeaderName: Refusal(400, "Bad Request", "the name of a header is malformed"),
    errors.InvalidHeader: Refusal(400, "Bad Request", "a header is malformed"),
    errors.ObsoleteFolding: Refusal(400, "Bad Request", "a header is folded over several lines"),
    errors.LimitRequestLine: Refusal(414, "URI Too Long", "the request line is too long"),
    errors.ExpectationFailed: Refusal(417, "Expectation Failed", "Expect: not supported"),
    errors.LimitRequestHeaders: Refusal(
        431, "Request Header Fields Too Large", "the headers are too large, or too many"
    ),
    errors.UnsupportedTransferCoding: Refusal(
        501, "Not Implemented", "Transfer-Encoding: not supported"
    ),
}
_OTHER = Refusal(400, "Bad Request", "the request is malformed")
# New in gunicorn 27.
_ERRORS_OF_RESPONSES = (
    errors.InvalidResponseHeader,  # type: ignore[attr-defined]
    errors.InvalidResponseHeaderName,  # type: ignore[attr-defined]
)


def refusal_of(error: BaseException) -> Refusal | None:
    """Return how gunicorn's error about a request is answered; None for any other error."""
    if not isinstance(error, errors.ParseException) or isinstance(error, _ERRORS_OF_RESPONSES):
        return None
    return next((_REFUSALS[kind] for kind in type(error).__mro__ if kind in _REFUSALS), _OTHER)


def write_problem(
    sock: socket.socket, status_int: int, reason: str, mesg: str, request_id: str | None = None
) -> None:
    """Send what gunicorn refuses by itself as problem details (RFC 9457), as the app does."""
    request_id = request_id or new_request_id()
    count_response(status_int)
    problem = {
        "type": "about:blank",
        "title": reason,
        "status": status_int,
        "detail": mesg or reason,
        "request_id": request_id,
    }
    retry = "Retry-After: 1\r\n" if status_int == 503 else ""
    common = "".join(f"{name}: {value}\r\n" for name, value in (NO_STORE, *SECURITY_HEADERS))
    body = json.dumps(problem).encode()
    head = (
        f"HTTP/1.1 {status_int} {reason}\r\nConnection: close\r\n{common}{retry}"
        f"{HEADER}: {request_id}\r\n"
        f"Content-Type: application/problem+json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    util.write_nonblock(sock, head.encode("latin-1") + body)


util.write_error = write_problem  # gunicorn has no setting for it
