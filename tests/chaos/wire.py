"""HTTP/1.1 as the chaos clients speak it, strict about every byte, on asyncio."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator

# What a peer that was killed, paused or overloaded does to a client.
BROKEN = (OSError, EOFError, TimeoutError)

_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)\r\n", re.IGNORECASE)


async def connect(
    port: int, narrow: bool = False
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection; a narrow one lets the server soon feel that nobody reads."""
    client = socket.socket()
    if narrow:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
        return await asyncio.open_connection(sock=client, limit=4096 if narrow else 65536)
    except BaseException:
        client.close()
        raise


async def read_head(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The status and the head of a response."""
    head = await reader.readuntil(b"\r\n\r\n")
    return int(head[9:12]), head


async def read_body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    length = _LENGTH.search(head)
    return await reader.readexactly(int(length[1]) if length else 0)


async def read_chunks(reader: asyncio.StreamReader, silence: float) -> AsyncIterator[bytes]:
    """The chunks of a body; ValueError for what is no chunk, TimeoutError for a silence."""
    while True:
        async with asyncio.timeout(silence):
            size = int(await reader.readuntil(b"\r\n"), 16)
            chunk = await reader.readexactly(size + 2)
        if not chunk.endswith(b"\r\n"):
            raise ValueError(f"a chunk of {size} bytes is longer than that")
        if size == 0:
            return
        yield chunk[:-2]
