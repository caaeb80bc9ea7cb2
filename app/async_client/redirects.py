"""Where a response redirects to, and what the next server may see."""

import re

import httpx

from ..streaming.errors import Refused

_STATUSES = (301, 302, 303, 307, 308)
_PORTS = {"http": 80, "https": 443}
_MAX_PORT = 65535
_HOST = re.compile(rb"[A-Za-z0-9_:-][A-Za-z0-9_.:-]*")  # a name or an address


async def take_location(response: httpx.Response) -> None:
    """Hide where a response redirects to from httpx, which raises for what is no URL."""
    response.extensions["location"] = response.headers.pop("Location", None)


def next_request(response: httpx.Response, secret_headers: tuple[str, ...]) -> httpx.Request | None:
    """Return the request that a response redirects to, None if it does not.

    Another server gets neither the token nor the headers of the user. Raises Refused if the
    target is no URL of HTTP.
    """
    request = response.request
    location = response.extensions["location"]
    if request.method != "GET" or response.status_code not in _STATUSES or not location:
        return None
    target = parse_url(location, request.url)
    if target is None:
        reason = f"it redirects to {location!r}, which is no URL of HTTP"
        raise Refused(response.status_code, reason)
    headers = httpx.Headers(request.headers)
    headers["Host"] = target.netloc.decode("ascii")
    if not _is_trusted(request.url, target):
        for name in secret_headers:
            headers.pop(name, None)
    return httpx.Request("GET", target, headers=headers, extensions=request.extensions)


def parse_url(text: str, base: httpx.URL | None = None) -> httpx.URL | None:
    """Return a URL of HTTP, None if it is none that can be requested."""
    try:
        url = httpx.URL(text) if base is None else base.join(text)
        url.host.encode("idna")
    except (httpx.InvalidURL, ValueError, TypeError):
        return None
    is_address = _HOST.fullmatch(url.raw_host) and 0 <= (url.port or 0) <= _MAX_PORT
    return url if url.scheme in _PORTS and is_address else None


def _is_trusted(url: httpx.URL, target: httpx.URL) -> bool:
    """Return whether a target is on the same server, or on its https instead of its http."""
    if url.host != target.host:
        return False
    ports = url.port or _PORTS[url.scheme], target.port or _PORTS[target.scheme]
    if url.scheme == target.scheme:
        return ports[0] == ports[1]
    return (url.scheme, target.scheme) == ("http", "https") and ports == (80, 443)
