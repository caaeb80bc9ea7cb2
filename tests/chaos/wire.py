"""HTTP/1.1 for the chaos clients, on asyncio, strict about every byte."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator

# What a client gets from a server that was killed, paused or is overloaded.
BROKEN = (OSError, EOFError, TimeoutError)

_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)\r\n", re.IGNORECASE)


async def connect(
    port: int, narrow: bool = False
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a connection. A narrow one has small buffers, so the server soon notices slow reads."""
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
    """Read the head of a response. Returns the status and the head."""
    head = await reader.readuntil(b"\r\n\r\n")
    return int(head[9:12]), head


async def read_body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    length = _LENGTH.search(head)
    return await reader.readexactly(int(length[1]) if length else 0)


async def read_pieces(
    reader: asyncio.StreamReader, head: bytes, silence: float
) -> AsyncIterator[bytes]:
    """Yield the chunks of a body, or the whole of a body that has a length."""
    if _LENGTH.search(head):
        yield await read_body(reader, head)
        return
    async for chunk in read_chunks(reader, silence):
        yield chunk


async def read_chunks(reader: asyncio.StreamReader, silence: float) -> AsyncIterator[bytes]:
    """Yield the chunks of a body.

    Raises ValueError for a malformed chunk, and TimeoutError after `silence` seconds without one.
    """
    while True:
        async with asyncio.timeout(silence):
            size = int(await reader.readuntil(b"\r\n"), 16)
            chunk = await reader.readexactly(size + 2)
        if not chunk.endswith(b"\r\n"):
            raise ValueError(f"a chunk of {size} bytes does not end after them")
        if size == 0:
            return
        yield chunk[:-2]
