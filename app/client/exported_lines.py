"""Reads the whole history of a run as lines, over as many connections as needed."""

import time
from collections.abc import Iterator

from ..protocol.exporting import Export
from ..streaming.errors import StoreUnavailable
from .connections import is_framed
from .reading import CONNECTION_ERRORS, connection_error, pieces
from .transport import Transport


def export_lines(transport: Transport, export: Export) -> Iterator[bytes]:
    """Yield each line. Raises StoreUnavailable, and an error that no repeat can mend."""
    while True:
        try:
            yield from _read(transport, export)
            return
        except StoreUnavailable as error:
            pause = export.unavailable(error)
        time.sleep(pause)


def _read(transport: Transport, export: Export) -> Iterator[bytes]:
    """Yield the lines of one response. Raises StoreUnavailable if it was cut off."""
    response, _ = transport.open_stream(export.request())
    with response:
        export.opened(response.status_code, response.headers.get("Content-Type", ""))
        try:
            for piece in pieces(response):
                yield from export.receive(piece)
        except CONNECTION_ERRORS as error:
            raise connection_error(error) from error
        export.ended(is_framed(response))
