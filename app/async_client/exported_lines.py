"""Reads the whole history of a run as lines, over as many connections as needed."""

import asyncio
from collections.abc import AsyncGenerator

from ..protocol.exporting import Export
from ..streaming.errors import StoreUnavailable
from .reading import CONNECTION_ERRORS, connection_error, is_framed
from .transport import AsyncTransport


async def export_lines(transport: AsyncTransport, export: Export) -> AsyncGenerator[bytes, None]:
    """Yield each line. Raises StoreUnavailable, and an error that no repeat can mend."""
    while True:
        try:
            response, _, lease = await transport.open_stream(export.request())
            try:
                export.opened(response.status_code, response.headers.get("Content-Type", ""))
                async for piece in response.aiter_bytes():
                    for line in export.receive(piece):
                        yield line
            except CONNECTION_ERRORS as error:
                raise connection_error(error) from error
            finally:
                await lease.close(interrupted=True)
            export.ended(is_framed(response))
            return
        except StoreUnavailable as error:
            pause = export.unavailable(error)
        await asyncio.sleep(pause)
