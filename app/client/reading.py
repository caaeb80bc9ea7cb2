"""Reads the responses of `requests`, and raises its errors by the client's own types."""

from collections.abc import Iterator

import requests
import urllib3

from ..protocol.responses import Response
from ..streaming.errors import StoreUnavailable
from .connections import is_framed

# `requests` raises these if a connection cannot be made, breaks, or stays silent, and if the
# lengths in the head of a response contradict each other.
CONNECTION_ERRORS = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.InvalidHeader,
    urllib3.exceptions.HTTPError,
)


READ_BYTES = 65536


def pieces(response: requests.Response) -> Iterator[bytes]:
    """Yield the body of a response as it comes. Raises CONNECTION_ERRORS."""
    while piece := response.raw.read1(READ_BYTES, decode_content=True):
        yield piece


def read(response: requests.Response) -> Response:
    """Read a response to its end. Raises CONNECTION_ERRORS."""
    with response:
        body: bytes | None
        try:
            body = response.content
        except requests.exceptions.ContentDecodingError:
            body = None
        return Response(
            response.status_code,
            response.reason,
            response.headers,
            body,
            is_framed(response),
            str(response.request.headers.get("Authorization", "")),
        )


def connection_error(error: Exception) -> StoreUnavailable:
    """Return the error to raise for one of CONNECTION_ERRORS."""
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    never_sent = isinstance(reason, urllib3.exceptions.ConnectTimeoutError)
    return StoreUnavailable(
        f"no response from the gateway: {error}", stored=False if never_sent else None
    )
