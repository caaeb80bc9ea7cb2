"""The lines of a request's body, as they arrive."""

import time
from collections.abc import Iterator
from typing import BinaryIO

from gevent.socket import cancel_wait
from gevent.socket import socket as GeventSocket
from werkzeug.exceptions import RequestEntityTooLarge

from app.routes.body import patience_since, pieces, refused, too_slow
from app.routes.intake import Held


class Lines:
    """The lines of a body, those together that have come while earlier ones were stored.

    Nothing is read ahead: what Redis is slow to take waits in the sockets, so that the producer
    feels its pace. `complete` is whether the body came to its end; its last line needs no line
    break then, and of a body that was broken off only what had arrived whole is given.
    """

    def __init__(self, body: BinaryIO, connection: object, held: Held, longest: int):
        self.complete = False
        self._body = body
        self._connection = connection
        self._held = held
        self._longest = longest
        self._stopped = False
        self._begun: float | None = None  # when the line began that is still to come

    def __iter__(self) -> Iterator[list[bytearray]]:
        """Raises what broke the body off, and 413 for a line that is too long."""
        unfinished = bytearray()
        try:
            for piece in pieces(self._body, self._patience):
                unfinished += piece
                self._held.now(len(unfinished))
                if b"\n" in piece:  # what came before was looked through already
                    *lines, unfinished = unfinished.split(b"\n")
                    yield lines
                    self._begun = None
                if self._stopped:
                    return
                self.check_length(unfinished)
                self._check_pace(unfinished)
        except _Stopped:
            return
        except TimeoutError:
            raise too_slow() from None
        self.complete = True
        yield [unfinished]

    def check_length(self, line: bytearray) -> None:
        """Raises 413 for a line that is too long."""
        if len(line) > self._longest:
            detail = f"a line must be at most {self._longest} bytes"
            raise refused(RequestEntityTooLarge, "body", detail)

    def _check_pace(self, unfinished: bytearray) -> None:
        """A line that has begun must come within some time, however it trickles in."""
        if not unfinished:
            self._begun = None
        elif self._begun is None:
            self._begun = time.monotonic()
        elif not patience_since(self._begun):
            raise too_slow()

    def _patience(self) -> float | None:
        return None if self._begun is None else patience_since(self._begun)

    def stop(self) -> None:
        """Wait for no more of them."""
        self._stopped = True
        if type(self._connection) is GeventSocket:
            cancel_wait(self._connection._read_event, _Stopped)


class _Stopped(Exception):
    """Nobody waits any longer for what the connection may bring."""
