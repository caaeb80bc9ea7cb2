"""Follows a run, or several, over as many connections as needed."""

import time
from collections.abc import Generator, Iterator

import requests
import urllib3

from ..protocol.bearer import Bearer
from ..protocol.following import Following
from ..protocol.responses import not_a_gateway
from ..streaming.errors import StoreUnavailable
from ..streaming.event import Event
from .connections import is_framed
from .reading import CONNECTION_ERRORS, pieces
from .transport import Transport


def follow(transport: Transport, following: Following) -> Iterator[Event]:
    """Yield the events until the run has ended. Raises an error that no repeat can mend."""
    while True:
        pause: float | None
        try:
            response, bearer = transport.open_stream(following.request())
        except StoreUnavailable as error:
            pause = following.unavailable(error)
        else:
            with response:
                pause = yield from _read(transport, following, response, bearer)
            if pause is None:
                return
        time.sleep(pause)


def _read(
    transport: Transport, following: Following, response: requests.Response, bearer: Bearer | None
) -> Generator[Event, None, float | None]:
    """Yield the events of one connection.

    Returns the pause before the next connection in seconds, None if the run has ended.
    """
    if not following.opened(response.status_code, response.headers.get("Content-Type", "")):
        return None
    try:
        for piece in pieces(response):
            yield from following.receive(piece)
            if following.is_expiring:
                transport.credentials.drop(bearer)
                following.is_expiring = False
    except urllib3.exceptions.DecodeError as error:
        raise not_a_gateway(response.status_code, str(error)) from None
    except CONNECTION_ERRORS as error:
        return following.broke(error)
    return following.ended(is_framed(response))
