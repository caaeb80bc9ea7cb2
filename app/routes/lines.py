"""The lines of a request's body: read ahead within bounds, while earlier ones are stored."""

from itertools import chain
from typing import BinaryIO

import gevent
from gevent.event import Event as Signal
from werkzeug.exceptions import RequestEntityTooLarge

from app.routes.body import pieces, refused
from app.routes.intake import Held

# What of one request waits for Redis before no more of it is read. The producer then feels
# Redis's pace, since TCP hands it on.
WAITING_BYTES = 64 * 1024


class Lines:
    """The lines of a body, which a greenlet of its own reads.

    `complete` is whether the body came to its end. Its last line needs no line break then; of
    a body that was broken off, only what had arrived whole is given.
    """

    def __init__(self, held: Held, longest: int):
        self.complete = False
        self._held = held
        self._longest = longest
        self._whole = bytearray()  # lines that wait, each with its line break
        self._taken = 0  # bytes of those that were given last
        self._over = False
        self._error: Exception | None = None
        self._arrived = Signal()
        self._room = Signal()
        self._reader: gevent.Greenlet | None = None

    def read(self, body: BinaryIO) -> None:
        """Begin to read."""
        self._reader = gevent.spawn(self._read, body)

    def take(self, most: int) -> list[bytearray]:
        """The lines that wait, or that come next; [] at the end. Raises what broke them off.

        They are held until the next ones are taken.
        """
        self._held.let_go(self._taken)
        self._taken = 0
        gevent.sleep(0)  # blank lines, which nobody waits for, must not hold up everybody else
        while not self._whole and not self._over:
            self._arrived.clear()
            self._arrived.wait()
        if not self._whole and self._error is not None:
            raise self._error
        *lines, rest = self._whole.split(b"\n", most)
        self._taken = len(self._whole) - len(rest)
        self._whole = rest
        self._room.set()
        return lines

    def check_length(self, line: bytearray) -> None:
        """Raises 413 for a line that is too long."""
        if len(line) > self._longest:
            detail = f"a line must be at most {self._longest} bytes"
            raise refused(RequestEntityTooLarge, "body", detail)

    def close(self) -> None:
        """Read no more; what has arrived may still be taken."""
        if self._reader is not None:
            self._reader.kill()
        self._over = True
        self._arrived.set()

    def _read(self, body: BinaryIO) -> None:
        try:
            self._read_lines(body)
            self.complete = True
        except Exception as error:
            self._error = error
        self._over = True
        self._arrived.set()

    def _read_lines(self, body: BinaryIO) -> None:
        unfinished = bytearray()
        last_break = (b"\n",)  # for a last line without one
        for piece in chain(pieces(body), last_break):
            self._held.hold(len(piece))
            unfinished += piece
            if b"\n" in piece:
                end = unfinished.rindex(b"\n") + 1
                self._whole += unfinished[:end]
                del unfinished[:end]
                self._arrived.set()
            self.check_length(unfinished)
            self._wait_for_room()

    def _wait_for_room(self) -> None:
        while len(self._whole) > WAITING_BYTES:
            self._room.clear()
            self._room.wait()
