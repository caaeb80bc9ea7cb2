"""A relay before the gateway, which cuts off clients after as many events as it is told."""

import asyncio
import re
import threading
from collections import Counter
from collections.abc import Callable
from typing import Self

from tests.chaos.wire import BROKEN, connect
from tests.raw_http import reset_when_closed

PIECE = 65536

_CONNECTION = re.compile(rb"\r\nconnection: [^\r]*", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)


class Relay:
    """Passes on requests for `/<client>/<path>` as requests for `/<path>`.

    A stream is cut after some events and a part of the next one: with the end of the connection,
    or with a reset. A POST to a path in `begins` is that of a back end which has begun a run: it
    answers 303.

    Attributes:
        events_of: returns after how many events the next stream of a client is cut, None if it
            is not. It is given the client, and how often that was cut off.
        pages: the type and the bytes of what the relay itself serves, by path.
        returns: says whether clients that were cut off may come back now.
        opened: how many streams each client has opened.
        cuts: how often each client was cut off.
    """

    def __init__(
        self,
        to_port: int,
        begins: dict[str, str] | None = None,
        events_of: Callable[[str, int], int | None] = lambda client, cuts: None,
    ):
        self.events_of = events_of
        self.pages: dict[str, tuple[str, bytes]] = {}
        self.returns: Callable[[], bool] = lambda: True
        self.opened: Counter[str] = Counter()
        self.cuts: Counter[str] = Counter()
        self._to_port = to_port
        self._begins = begins or {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._start())
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def drop(self) -> None:
        """Close all connections."""
        self._call(self._drop())

    def _call(self, coroutine) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=2000)
        self._port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        self._server.close()
        await self._drop()

    async def _drop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except BROKEN:
            pass  # a side has gone
        except asyncio.CancelledError:
            writer.transport.abort()  # else it would wait for a client that reads nothing
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        line, _, fields = head.partition(b"\r\n")
        method, target, version = line.decode().split(" ")
        _, client, path = target.split("/", 2)
        if method == "POST" and f"/{path}" in self._begins:
            if length := _LENGTH.search(head):
                await reader.readexactly(int(length[1]))
            writer.write(_redirect(f"/{client}{self._begins[f'/{path}']}"))
            await writer.drain()
            return
        if page := self.pages.get(path.partition("?")[0]):
            writer.write(_page(*page))
            await writer.drain()
            return
        while self.cuts[client] and not self.returns():
            await asyncio.sleep(0.01)
        # The next request of the client is on another connection, whose path is looked at too.
        fields = _CONNECTION.sub(b"", b"\r\n" + fields)
        request = f"{method} /{path} {version}\r\nConnection: close".encode() + fields
        gateway_reader, gateway_writer = await connect(self._to_port)
        gateway_writer.write(request)
        ways = [
            asyncio.create_task(_pump(reader, gateway_writer)),
            asyncio.create_task(self._answer(client, gateway_reader, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            gateway_writer.transport.abort()

    async def _answer(
        self, client: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(head)
        events = None
        if head.startswith(b"HTTP/1.1 200") and b"text/event-stream" in head:
            self.opened[client] += 1
            events = self.events_of(client, self.cuts[client])
        before = b""
        while piece := await reader.read(PIECE):
            if events is not None:
                end = _end_of_event(before + piece, events)
                if end is not None:
                    writer.write(piece[: max(0, end - len(before)) + 7 * events % 50])
                    await writer.drain()
                    self._cut(client, writer)
                    return
                events -= (before + piece).count(b"\n\n")
                # An end of an event may be in two pieces, but is counted once.
                before = b"\n" if piece.endswith(b"\n") and not piece.endswith(b"\n\n") else b""
            writer.write(piece)
            await writer.drain()

    def _cut(self, client: str, writer: asyncio.StreamWriter) -> None:
        self.cuts[client] += 1
        if self.cuts.total() % 2:
            reset_when_closed(writer.get_extra_info("socket"))
        writer.transport.abort()


def _end_of_event(piece: bytes, number: int) -> int | None:
    """Return where the event of that number ends in a piece, None if it is not in it."""
    end = 0
    for _ in range(number):
        end = piece.find(b"\n\n", end) + 2
        if end == 1:
            return None
    return end


def _redirect(location: str) -> bytes:
    fields = f"Location: {location}\r\nContent-Length: 0\r\nConnection: close"
    return f"HTTP/1.1 303 See Other\r\n{fields}\r\n\r\n".encode()


def _page(content_type: str, body: bytes) -> bytes:
    fields = f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\nConnection: close"
    return f"HTTP/1.1 200 OK\r\n{fields}\r\n\r\n".encode() + body


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(PIECE):
        writer.write(piece)
        await writer.drain()
    await asyncio.Event().wait()  # a client that has sent all still reads
