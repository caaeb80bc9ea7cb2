"""Sends requests to one gateway over shared connections, and raises errors by their types."""

import asyncio
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import httpx

from ..protocol.bearer import Bearer
from ..protocol.calls import Request
from ..protocol.options import MAX_REDIRECTS, check_headers, check_url, check_verify
from ..protocol.repeats import FOLLOW_TIMEOUTS, LONG_BODY_TIMEOUTS, USUAL_TIMEOUTS, Repeats
from ..protocol.responses import Answer, parse_answer, parse_error
from ..streaming.errors import InvalidInput, NotAllowed, Refused, StoreUnavailable, StreamingError
from .connections import Connections, Lease
from .credentials import AsyncCredentials
from .long_body import LongBody, Watched
from .own_loop import OwnLoop
from .reading import CONNECTION_ERRORS, connection_error, read
from .redirects import next_request, parse_url


class Opened(NamedTuple):
    """A response of status 2xx before its body is read, and what sent the token for it.

    The end of the lease closes its connection.
    """

    response: httpx.Response
    bearer: Bearer | None
    lease: Lease


class AsyncTransport:
    """Sends requests to the gateway at `url`, in one event loop at a time."""

    def __init__(
        self,
        url: str,
        retry_seconds: float,
        credentials: AsyncCredentials,
        headers: Mapping[str, str],
        verify: bool | str | os.PathLike[str],
    ):
        self._url = check_url(url)
        parts = parse_url(self._url)
        if parts is None or parts.query or parts.fragment or "?" in url or "#" in url:
            raise InvalidInput("url", "must be http(s)://host[:port][/path]")
        self._scheme = parts.scheme
        self.retry_seconds = retry_seconds
        self.credentials = credentials
        own_headers = check_headers(headers)
        self._secret_headers = ("Authorization", *own_headers)
        self._connections = Connections(own_headers, check_verify(verify))
        self._connections.kept(self._scheme)  # to check the environment
        self._loop = OwnLoop("this client")

    async def request(self, request: Request) -> Answer:
        """Send a request, and repeat it for `retry_seconds` while there is no response.

        Returns a response of status 2xx. Raises the error that another response describes, or
        StoreUnavailable.
        """
        repeats = Repeats(self.retry_seconds, self._url)
        while True:
            try:
                answer = await self.send_once(request)
            except StoreUnavailable as error:
                pause = repeats.pause_after(error)
                if pause is None:
                    raise
            else:
                repeats.succeeded()
                return answer
            await asyncio.sleep(pause)

    async def send_once(self, request: Request) -> Answer:
        """Send a request as `request` does, but do not repeat it."""
        self._enter_loop()
        async with Lease(self._connections, is_long=False) as lease:
            return await _read(await self._open(lease, request, USUAL_TIMEOUTS, None))

    async def send_body(self, request: Request, body: LongBody) -> Answer:
        """Send a request with a body as it is made, once, until the gateway responds."""
        self._enter_loop()
        headers = {**request.headers, "Connection": "close"}
        async with Lease(self._connections, is_long=True) as lease:
            request = request._replace(headers=headers)
            return await _read(await self._open(lease, request, LONG_BODY_TIMEOUTS, body))

    async def open_stream(self, request: Request) -> Opened:
        """Send a request once, and return its response before its body is read.

        The caller closes its lease.
        """
        self._enter_loop()
        lease = Lease(self._connections, is_long=True)
        try:
            return await self._open(lease, request, FOLLOW_TIMEOUTS, None)
        except BaseException:
            await lease.close(interrupted=True)
            raise

    async def close(self) -> None:
        """Close the connections that are not in use."""
        self._enter_loop()
        await self._connections.close()

    def _enter_loop(self) -> None:
        if self._loop.enter():
            self.credentials.begin()
            self._connections.begin()

    async def _open(
        self,
        lease: Lease,
        request: Request,
        timeouts: tuple[float, float],
        body: LongBody | None,
    ) -> Opened:
        """Send a request, and return its response before its body is read.

        After a 401 it is sent once more with another token, if there may be one: the gateway has
        done nothing. A body of which something was sent cannot be sent again.
        """
        outcome, bearer = await self._exchange(lease, request, timeouts, body)
        if isinstance(outcome, NotAllowed) and outcome.status == 401:
            can_change = self.credentials.drop(bearer)
            if can_change and (body is None or body.is_unsent):
                outcome, bearer = await self._exchange(lease, request, timeouts, body)
        if isinstance(outcome, StreamingError):
            raise outcome
        return Opened(outcome, bearer, lease)

    async def _exchange(
        self,
        lease: Lease,
        request: Request,
        timeouts: tuple[float, float],
        body: LongBody | None,
    ) -> tuple[httpx.Response | StreamingError, Bearer | None]:
        """Send a request with the token. Return its response, or the error that it describes."""
        bearer = await self.credentials.current()  # what the user's function raises is not ours
        try:
            client = lease.client(self._scheme)
            built = self._build(client, request, timeouts, body)
            response = await self._send(lease, built, bearer)
            if 200 <= response.status_code < 300:
                return response, bearer
            return parse_error(await read(response)), bearer
        except CONNECTION_ERRORS as broken:
            raise connection_error(broken) from broken
        except httpx.InvalidURL as wrong:
            raise InvalidInput("url", f"cannot be reached as set up: {wrong}") from wrong

    def _build(
        self,
        client: httpx.AsyncClient,
        request: Request,
        timeouts: tuple[float, float],
        body: LongBody | None,
    ) -> httpx.Request:
        connect, wait = timeouts
        watched = Watched()
        content: Any = request.body if body is None else body.lines(watched)
        return client.build_request(
            request.method,
            self._url + request.path,
            params={name: each for name, each in request.query.items() if each is not None},
            headers=request.headers,
            content=content,
            timeout=httpx.Timeout(connect=connect, read=wait, write=connect, pool=None),
            extensions={} if body is None else {"trace": watched.trace},
        )

    async def _send(
        self, lease: Lease, request: httpx.Request, bearer: Bearer | None
    ) -> httpx.Response:
        """Send a request, and follow its redirects."""
        response = await lease.client(self._scheme).send(request, auth=bearer, stream=True)
        for _ in range(MAX_REDIRECTS):
            try:
                following = next_request(response, self._secret_headers)
            except Refused:
                await response.aclose()
                raise
            if following is None:
                return response
            await response.aclose()
            client = lease.client(following.url.scheme)
            response = await client.send(following, auth=None, stream=True)
        if next_request(response, self._secret_headers) is None:
            return response
        await response.aclose()
        raise Refused(response.status_code, f"more than {MAX_REDIRECTS} redirects")


async def _read(opened: Opened) -> Answer:
    try:
        return parse_answer(await read(opened.response))
    except CONNECTION_ERRORS as broken:
        raise connection_error(broken) from broken
