"""A TCP relay in front of the gateway, which cuts answers at random bytes."""

import asyncio
import math
import random

from tests.chaos.wire import BROKEN, connect

PIECE = 65536

# Where an answer is cut, in bytes: inside its head, inside its body, or far into a stream.
MAX_HEAD = 300
BODY = 3_000
STREAM = 50_000


class Relay:
    """Passes on connections to a port. `quiet` ends the cuts."""

    def __init__(self, to_port: int, seed: int):
        self.port = 0
        self.cuts = 0
        self.quiet = False
        self._to_port = to_port
        self._dice = random.Random(f"{seed} relay")
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def __aenter__(self) -> "Relay":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        for writer in self._connections.values():
            writer.transport.abort()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._connections[task] = writer
        try:
            await self._pass_on(reader, writer)
        except BROKEN:
            pass  # either side has gone
        finally:
            writer.transport.abort()
            del self._connections[task]

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on bytes both ways until one side ends, or the answer is cut."""
        gateway_reader, gateway_writer = await connect(self._to_port)
        ways = [
            asyncio.create_task(_pump(reader, gateway_writer)),
            asyncio.create_task(self._answer(gateway_reader, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            gateway_writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = self._choose_length()
        while piece := await reader.read(PIECE):
            if len(piece) > left and not self.quiet:
                writer.write(piece[: int(left)])
                self.cuts += 1
                break
            writer.write(piece)
            await writer.drain()
            left -= len(piece)
        if self._dice.random() < 0.5:
            await _end(writer)  # an orderly end after these bytes, and else a reset

    def _choose_length(self) -> float:
        """Return after how many bytes an answer is cut."""
        match self._dice.randrange(8):
            case 0:
                return self._dice.randrange(MAX_HEAD)
            case 1 | 2 | 3:
                return self._dice.expovariate(1 / BODY)
            case 4 | 5 | 6:
                return self._dice.expovariate(1 / STREAM)
        return math.inf


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(PIECE):
        writer.write(piece)
        await writer.drain()


async def _end(writer: asyncio.StreamWriter) -> None:
    """Close a connection once all bytes are sent."""
    writer.close()
    await writer.wait_closed()
