"""Reads the responses of httpx, and raises its errors by the client's own types."""

import httpx

from ..protocol.responses import Response
from ..streaming.errors import StoreUnavailable

# httpx raises these if a connection cannot be made, breaks, or stays silent, and for a response
# that is not of HTTP. An error of TLS may come as it is, and so does one of a SOCKS proxy.
CONNECTION_ERRORS = (httpx.TransportError, OSError)

# Nothing of the request was sent then.
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout)


async def read(response: httpx.Response) -> Response:
    """Read a response to its end. Raises CONNECTION_ERRORS."""
    body: bytes | None
    try:
        body = await response.aread()
    except httpx.DecodingError:
        body = None
    finally:
        await response.aclose()
    return Response(
        response.status_code,
        response.reason_phrase,
        response.headers,
        body,
        is_framed(response),
        response.request.headers.get("Authorization", ""),
    )


def is_framed(response: httpx.Response) -> bool:
    """Return whether the response said where its body ends, other than with its connection."""
    has_no_body = response.status_code in (204, 304)
    named = "Content-Length" in response.headers or "Transfer-Encoding" in response.headers
    return has_no_body or named


def connection_error(error: Exception) -> StoreUnavailable:
    """Return the error to raise for one of CONNECTION_ERRORS."""
    reason = str(error) or type(error).__name__
    stored = False if isinstance(error, _NEVER_SENT) else None
    return StoreUnavailable(f"no response from the gateway: {reason}", stored=stored)
