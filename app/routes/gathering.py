"""Gathers what comes over a connection, waiting only while there is nothing to go on with.

gunicorn's readers of a body wait inside, wherever they need the next byte: after the first of
several chunks that came together, they may wait for the fourth before they give the second. So
they run in a greenlet of their own, which is no other's than a coroutine's: in the place of the
wait it switches back, and what they have given so far is gone on with.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

from gevent.socket import socket as GeventSocket
from gevent.socket import wait
from greenlet import getcurrent, greenlet

# So much is gone on with at once, though more may be there.
GATHERED_BYTES = 64 * 1024

# A body of tiny chunks must not hold up everybody else.
PIECES_AT_ONCE = 64


def gather(
    pieces: Iterator[bytes],
    unreader: Any,
    connection: GeventSocket,
    patience: Callable[[], float | None],
) -> Iterator[bytes]:
    """`pieces` of what `unreader` reads from the connection, those together that are there.

    It waits for more as long as `patience` says (None: without end), then raises TimeoutError.
    An error of theirs is raised after what came before it. `cancel_wait` on the connection's
    reading ends the waiting with an error of one's own.
    """
    reader = greenlet(_give_to(getcurrent(), pieces))
    unreader.sock = _Impatient(connection)
    gathered, broken, taken = bytearray(), None, 0
    try:
        while not reader.dead and broken is None:
            taken += 1
            if taken % PIECES_AT_ONCE == 0:
                time.sleep(0)
            try:
                piece = reader.switch()
            except Exception as error:
                piece, broken = None, error
            if piece:
                gathered += piece
            if gathered and (not piece or len(gathered) >= GATHERED_BYTES):
                yield bytes(gathered)
                gathered.clear()
            elif not piece and not reader.dead:
                wait(connection._read_event, patience())
    finally:
        unreader.sock = connection
        reader.throw()
    if broken is not None:
        raise broken


def _give_to(consumer: greenlet, pieces: Iterator[bytes]) -> Any:
    def give() -> None:
        for piece in pieces:
            consumer.switch(piece)

    return give


class _Impatient:
    """The connection's socket, as the reader sees it."""

    def __init__(self, connection: GeventSocket):
        self._recv = connection._sock.recv
        self._consumer = getcurrent()

    def recv(self, size: int) -> bytes:
        while True:
            try:
                return self._recv(size)
            except BlockingIOError:
                self._consumer.switch(None)
