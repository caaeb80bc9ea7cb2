"""Reads lines from standard input as they come, until a signal asks to stop."""

import codecs
import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NamedTuple

from .given_json import standard_input

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
READ_BYTES = 65536

# A longer line is read in parts, so that memory is bounded. Each part fits into an event, also
# if every character of it is escaped in JSON (six bytes).
MAX_PART_CHARACTERS = 40_000

# After a stop signal: how long the input may be silent, and how long it is read at most. Somebody
# may write for ever.
DRAIN_SECONDS = 0.3
MAX_DRAIN_SECONDS = 2.0

# Some programs send a signal twice, to the process and to its group.
SAME_SIGNAL_SECONDS = 1.0


class Part(NamedTuple):
    """A line without its end, or a part of it; then `is_continued` says that more follows."""

    text: str
    is_continued: bool


class StopSignals:
    """Notes a stop signal and wakes the reader. A later one ends the process at once."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._time = 0.0
        self._awake, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        for number in STOP_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup asks
                signal.signal(number, self._stop)

    def fileno(self) -> int:
        """Return the descriptor that is readable once a signal has come."""
        return self._awake

    def is_over(self) -> bool:
        """Return whether the input has been read for long enough after a signal."""
        return self.received is not None and time.monotonic() > self._time + MAX_DRAIN_SECONDS

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            if time.monotonic() > self._time + SAME_SIGNAL_SECONDS:
                os._exit(128 + number)
            return
        self._time = time.monotonic()
        self.received = signal.Signals(number)
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake, b".")


def read_input(signals: StopSignals, tee: Callable[[bytes], None] | None) -> Iterator[bytes]:
    """Yield what standard input has, as soon as it is there, until its end or a stop signal.

    Each piece goes to `tee` first.
    """
    descriptor = standard_input().fileno()
    while not signals.is_over():
        waits_for: list[int | StopSignals] = [descriptor]
        if not signals.received:
            waits_for.append(signals)
        timeout = DRAIN_SECONDS if signals.received else None
        ready, _, _ = select.select(waits_for, [], [], timeout)
        if descriptor in ready:
            piece = os.read(descriptor, READ_BYTES)
            if not piece:
                return
            if tee is not None:
                tee(piece)
            yield piece
        elif signals.received and not ready:
            return


def split_lines(pieces: Iterator[bytes]) -> Iterator[Part]:
    """Yield the lines of the pieces, each as soon as it is complete.

    Bytes that are not UTF-8 become U+FFFD. A line ends with LF or CR LF; the last one may have
    no end. The pieces are read again only after all lines so far are taken.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    unfinished = ""
    for piece in pieces:
        first, *others = decoder.decode(piece).split("\n")
        unfinished += first
        for following in others:
            yield from _parts(unfinished.removesuffix("\r"), False)
            unfinished = following
        while len(unfinished) > MAX_PART_CHARACTERS:
            yield Part(unfinished[:MAX_PART_CHARACTERS], True)
            unfinished = unfinished[MAX_PART_CHARACTERS:]
    unfinished += decoder.decode(b"", final=True)
    if unfinished:
        yield from _parts(unfinished.removesuffix("\r"), False)


def _parts(line: str, is_continued: bool) -> Iterator[Part]:
    while len(line) > MAX_PART_CHARACTERS:
        yield Part(line[:MAX_PART_CHARACTERS], True)
        line = line[MAX_PART_CHARACTERS:]
    yield Part(line, is_continued)


def split_whole_lines(pieces: Iterator[bytes], max_bytes: int) -> Iterator[bytes | None]:
    """Yield the lines of the pieces as bytes; None for one that is longer than `max_bytes`."""
    unfinished = bytearray()
    is_too_long = False
    for piece in pieces:
        first, *others = piece.split(b"\n")
        unfinished += first
        for following in others:
            yield None if is_too_long or len(unfinished) > max_bytes else bytes(unfinished)
            unfinished, is_too_long = bytearray(following), False
        if len(unfinished) > max_bytes:
            unfinished, is_too_long = bytearray(), True
    if is_too_long or unfinished:
        yield None if is_too_long else bytes(unfinished)
