"""The connections of an AsyncClient: their certificates, proxies, and how long they are kept."""

import asyncio
import os
import ssl
import urllib.request
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Self

import httpx

from ..protocol.repeats import MAX_IDLE_CONNECTIONS
from ..streaming.errors import InvalidInput
from .redirects import parse_url, take_location

# A gateway keeps an idle connection for 75 seconds.
IDLE_SECONDS = 60.0


class _Shared:
    """A client of httpx for several requests, closed when it is retired and nobody uses it."""

    def __init__(self, client: httpx.AsyncClient):
        self.client = client
        self.users = 0
        self.is_retired = False


class Lease:
    """What one request is sent with. A long one has a connection of its own.

    If a request is interrupted, httpx may leave its connection open for ever. So no further
    request uses its client, which is closed after the last one.
    """

    def __init__(self, connections: "Connections", is_long: bool):
        self._connections = connections
        self._is_long = is_long
        self._shared: dict[str, _Shared] = {}
        self._own: dict[str, httpx.AsyncClient] = {}

    def client(self, scheme: str) -> httpx.AsyncClient:
        """Return what sends to URLs of a scheme. Raises InvalidInput for a wrong environment."""
        if self._is_long:
            if scheme not in self._own:
                self._own[scheme] = self._connections.new_client(scheme, 0)
            return self._own[scheme]
        if scheme not in self._shared:
            self._shared[scheme] = self._connections.kept(scheme)
            self._shared[scheme].users += 1
        return self._shared[scheme].client

    async def close(self, *, interrupted: bool) -> None:
        """Give the connections back. A cancellation of this does not keep any open."""
        closing = [*self._own.values()]
        for scheme, shared in self._shared.items():
            shared.users -= 1
            if interrupted:
                self._connections.retire(scheme, shared)
            if shared.is_retired and not shared.users:
                closing.append(shared.client)
        self._own, self._shared = {}, {}
        await self._connections.close_all(closing)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *exc_info: object) -> None:
        interrupted = kind is not None and not issubclass(kind, Exception)
        await self.close(interrupted=interrupted)


class Connections:
    """Keeps connections for short requests, and makes one for each long request.

    Their number has no limit. Each scheme has its own clients, because certificates take long to
    load.
    """

    def __init__(self, headers: dict[str, str], verify: bool | str):
        self._headers = headers
        self._verify = verify
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._process = os.getpid()
        self._inherited: list[dict[str, _Shared]] = []
        self._kept: dict[str, _Shared] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def begin(self) -> None:
        """Begin anew in another event loop. In a forked child, leave those of the parent alone."""
        if self._process != os.getpid():
            self._process = os.getpid()
            self._inherited.append(self._kept)
        self._kept = {}
        self._closing = set()

    def kept(self, scheme: str) -> _Shared:
        """Return what sends short requests. Raises InvalidInput for a wrong environment."""
        if scheme not in self._kept:
            self._kept[scheme] = _Shared(self.new_client(scheme, MAX_IDLE_CONNECTIONS))
        return self._kept[scheme]

    def retire(self, scheme: str, shared: _Shared) -> None:
        """Have no further request use a client."""
        shared.is_retired = True
        if self._kept.get(scheme) is shared:
            del self._kept[scheme]

    async def close(self) -> None:
        """Close the connections that are not in use."""
        for scheme, shared in [*self._kept.items()]:
            self.retire(scheme, shared)
            if not shared.users:
                await self.close_all([shared.client])

    async def close_all(self, clients: list[httpx.AsyncClient]) -> None:
        """Close clients, also if this is cancelled."""
        for client in clients:
            closing = asyncio.create_task(client.aclose())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        if self._closing and clients:
            await asyncio.shield(asyncio.gather(*self._closing))

    def new_client(self, scheme: str, idle_connections: int) -> httpx.AsyncClient:
        """Return a client of httpx. Raises InvalidInput for a wrong environment."""
        if scheme not in self._contexts:
            _check_proxy(scheme)
        try:
            return httpx.AsyncClient(
                headers=self._headers,
                verify=self._context(scheme),
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

    def _context(self, scheme: str) -> ssl.SSLContext:
        if scheme not in self._contexts:
            nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # it trusts nobody
            self._contexts[scheme] = _context(self._verify) if scheme == "https" else nobody
        return self._contexts[scheme]


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
