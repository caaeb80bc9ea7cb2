"""Follows a run, or several, over as many connections as needed."""

import asyncio
from collections.abc import AsyncGenerator

import httpx

from ..protocol.following import Following
from ..protocol.responses import not_a_gateway
from ..streaming.errors import StoreUnavailable
from ..streaming.event import Event
from .reading import CONNECTION_ERRORS, is_framed
from .transport import AsyncTransport


async def follow(transport: AsyncTransport, following: Following) -> AsyncGenerator[Event, None]:
    """Yield the events until the run has ended. Raises an error that no repeat can mend."""
    while True:
        pause: float | None
        try:
            response, bearer, lease = await transport.open_stream(following.request())
        except StoreUnavailable as error:
            pause = following.unavailable(error)
        else:
            try:
                content_type = response.headers.get("Content-Type", "")
                if not following.opened(response.status_code, content_type):
                    return
                async for piece in response.aiter_bytes():
                    for event in following.receive(piece):
                        yield event
                    if following.is_expiring:
                        transport.credentials.drop(bearer)
                        following.is_expiring = False
            except httpx.DecodingError as error:
                raise not_a_gateway(response.status_code, str(error)) from None
            except CONNECTION_ERRORS as error:
                pause = following.broke(error)
            else:
                pause = following.ended(is_framed(response))
            finally:
                await lease.close(interrupted=True)
            if pause is None:
                return
        await asyncio.sleep(pause)
