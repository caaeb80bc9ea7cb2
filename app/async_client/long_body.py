"""A long body of lines: blank lines while none comes, and its end once the gateway has responded.

A gateway that refuses part of a body responds at once. For a while it discards what still comes,
and then it closes the connection. A client that goes on sending could see a reset instead of
the response.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from typing import Any

import httpcore

from ..protocol import repeats
from ..protocol.request_body import encode_line

Events = Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]]


class Watched:
    """The connection of one request, as httpcore's `trace` tells of it."""

    def __init__(self) -> None:
        self._stream: httpcore.AsyncNetworkStream | None = None

    async def trace(self, name: str, info: Mapping[str, Any]) -> None:
        """Take an event of the request."""
        if name.endswith(".connect_tcp.complete"):
            self._stream = info["return_value"]
        elif name.endswith(".start_tls.complete"):
            # Over TLS the socket is also readable without a response (session tickets). So an
            # early response is noticed only when sending fails.
            self._stream = None

    def has_response(self) -> bool:
        """Return whether something can be read."""
        return self._stream is not None and bool(self._stream.get_extra_info("is_readable"))


class LongBody:
    """The lines of events, for one attempt after another while none of them was sent.

    The first event that fails ends the lines, and `error` is its error.
    """

    def __init__(self, events: Events, max_event_bytes: int):
        self.is_unsent = True
        self.error: Exception | None = None
        self._max_event_bytes = max_event_bytes
        self._index = 0
        self._held: bytes | None = None  # the first line, once it was taken and until it is sent
        self._coming: asyncio.Future[Any] | None = None  # the next event
        self._events: Any = events
        self._is_async = isinstance(events, AsyncIterable)

    async def lines(self, watched: Watched) -> AsyncIterator[bytes]:
        """Yield the lines of an attempt."""
        while (line := await self._next()) is not None:
            if watched.has_response():
                # httpcore reads the response after this error, as after one of the connection.
                raise httpcore.WriteError("the gateway has responded")
            if line is self._held:
                self.is_unsent, self._held = False, None
            yield line

    async def close(self) -> None:
        """Stop waiting for the next event."""
        if self._coming is not None and not self._coming.done():
            self._coming.cancel()
            await asyncio.wait([self._coming])

    async def _next(self) -> bytes | None:
        """Return the next line, None at the end, and a blank line if none has come for long."""
        if self._held is not None:
            return self._held
        try:
            if self._is_async:
                if not await self._has_come():
                    return b"\n"
                event = self._take()
            else:
                event = self._take_at_once()
            line = encode_line(self._index, event, self._max_event_bytes)
        except (StopIteration, StopAsyncIteration):
            return None
        except Exception as error:  # also of the caller's iterable; raised after the response
            self.error = error
            return None
        self._index += 1
        if self.is_unsent:
            self._held = line
        return line

    def _take_at_once(self) -> Mapping[str, Any]:
        if not self._index:
            self._events = iter(self._events)
        event: Mapping[str, Any] = next(self._events)
        return event

    async def _has_come(self) -> bool:
        if self._coming is None:
            if not self._index:
                self._events = aiter(self._events)
            self._coming = asyncio.ensure_future(anext(self._events))
        done, _ = await asyncio.wait([self._coming], timeout=repeats.SILENT_SECONDS)
        return bool(done)

    def _take(self) -> Mapping[str, Any]:
        coming, self._coming = self._coming, None
        assert coming is not None
        event: Mapping[str, Any] = coming.result()
        return event
