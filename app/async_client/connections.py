"""The connections of an AsyncClient: their certificates, proxies, and how long they are kept."""

import os
import ssl
import urllib.request
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx

from ..protocol.repeats import MAX_IDLE_CONNECTIONS
from ..streaming.errors import InvalidInput
from .redirects import parse_url, take_location

# A gateway keeps an idle connection for 75 seconds.
IDLE_SECONDS = 60.0


class SharedClient:
    """A client of httpx, closed only when nobody uses it."""

    def __init__(self, client: httpx.AsyncClient):
        self._client = client
        self._users = 0
        self._is_retired = False

    async def __aenter__(self) -> httpx.AsyncClient:
        self._users += 1
        return self._client

    async def __aexit__(self, *exc_info: object) -> None:
        self._users -= 1
        if self._is_retired and not self._users:
            await self._client.aclose()

    async def retire(self) -> None:
        """Close the client now, or at the end of its last use."""
        self._is_retired = True
        if not self._users:
            await self._client.aclose()


class Connections:
    """Keeps connections for short requests, and makes one for each long request.

    They are apart, and their number has no limit: httpx would keep no idle connection for short
    requests while there are many long ones. Each scheme has its own clients, because certificates
    take long to load.
    """

    def __init__(self, headers: dict[str, str], verify: bool | str):
        self._headers = headers
        self._verify = verify
        self._context: ssl.SSLContext | None = None
        self._process = os.getpid()
        self._inherited: list[dict[str, SharedClient]] = []
        self._kept: dict[str, SharedClient] = {}
        self._single: dict[str, SharedClient] = {}

    def begin(self) -> None:
        """Begin anew in another event loop. In a forked child, leave those of the parent alone."""
        if self._process != os.getpid():
            self._process = os.getpid()
            self._inherited += (self._kept, self._single)
        self._kept, self._single = {}, {}

    def kept(self, scheme: str) -> SharedClient:
        """Return what sends short requests. Raises InvalidInput for a wrong environment."""
        if scheme not in self._kept:
            self._kept[scheme] = SharedClient(self._new(scheme, MAX_IDLE_CONNECTIONS))
        return self._kept[scheme]

    def single(self, scheme: str) -> SharedClient:
        """Return what sends long requests. Raises InvalidInput for a wrong environment."""
        if scheme not in self._single:
            self._single[scheme] = SharedClient(self._new(scheme, 0))
        return self._single[scheme]

    async def close(self) -> None:
        """Close the connections that are not in use."""
        kept, self._kept = self._kept, {}
        for client in kept.values():
            await client.retire()

    def _new(self, scheme: str, idle_connections: int) -> httpx.AsyncClient:
        _check_proxy(scheme)
        try:
            return httpx.AsyncClient(
                headers=self._headers,
                verify=self._certificates() if scheme == "https" else _no_certificates(),
                limits=httpx.Limits(
                    max_connections=None,
                    max_keepalive_connections=idle_connections,
                    keepalive_expiry=IDLE_SECONDS,
                ),
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
                event_hooks={"response": [take_location]},
                http2=False,
            )
        except (httpx.InvalidURL, ImportError, OSError, ValueError) as error:
            # A proxy of the environment that cannot be, or SOCKS, for which httpx needs more.
            raise InvalidInput("url", f"cannot be reached as set up: {error}") from error

    def _certificates(self) -> ssl.SSLContext:
        if self._context is None:
            self._context = _context(self._verify)
        return self._context


def _check_proxy(scheme: str) -> None:
    """Raise InvalidInput for a proxy of the environment that httpx would find wrong later."""
    proxies = urllib.request.getproxies()
    proxy = proxies.get(scheme) or proxies.get("all")
    if proxy and proxy.partition("://")[0] in ("http", "https") and parse_url(proxy) is None:
        raise InvalidInput("url", "cannot be reached as set up: its proxy is no URL")


def _context(verify: bool | str) -> ssl.SSLContext:
    """Return what verifies certificates, as the variables of `requests` and httpx say."""
    bundle = verify
    if verify is True:
        environ = os.environ
        bundle = environ.get("REQUESTS_CA_BUNDLE") or environ.get("CURL_CA_BUNDLE") or True
    if isinstance(bundle, bool):
        return httpx.create_ssl_context(verify=bundle)
    is_folder = os.path.isdir(bundle)
    return ssl.create_default_context(
        cafile=None if is_folder else bundle, capath=bundle if is_folder else None
    )


def _no_certificates() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # it trusts nobody
