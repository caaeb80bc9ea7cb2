"""The command `pipe`: appends each line of standard input as an event, as soon as it comes."""

import math
import sys
import threading
from collections.abc import Iterator
from typing import Any

import click
import orjson

from ..protocol.options import shown_url
from ..streaming.appender import Appender
from ..streaming.errors import InvalidInput, StreamingError
from ..streaming.new_event import check_names
from .completion import RunParameter
from .connection import LONG_RETRY_SECONDS, Connection, connects
from .given_json import MAX_LINE_BYTES, event_of_line, standard_input
from .lines import StopSignals, read_input, split_lines, split_whole_lines
from .output.exit_status import REFUSED, status_of
from .output.failures import complain, describe
from .output.terminal import OutputError, give_up, write

# If nothing was stored for so long, though something waits, that is said.
STALL_SECONDS = 3.0

_CONTINUED = {"continued": True}


class Seconds(click.FloatRange):
    """A time that ends."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the seconds. Fails for anything else."""
        seconds: float = super().convert(value, param, ctx)
        if not math.isfinite(seconds):
            self.fail(f"{value!r} is not a number of seconds", param, ctx)
        return seconds


class StallNotice(threading.Thread):
    """Says once that events wait for a gateway that is away, and that it is back.

    After a signal it says once how many the pipe still waits for.
    """

    def __init__(self, appender: Appender, signals: StopSignals, url: str) -> None:
        super().__init__(daemon=True)
        self._appender = appender
        self._signals = signals
        self._stored = -1
        self._has_stalled = self._is_stopping = self._told_stopping = False
        self._url = shown_url(url)
        self._ended = threading.Event()

    def run(self) -> None:
        """Watch how many events are stored, until `end`."""
        while not self._ended.wait(STALL_SECONDS):
            waiting = self._appender.not_stored - self._appender.refused
            self._tell_stall(waiting)
            self._tell_stopping(waiting)

    def end(self) -> None:
        """Stop watching."""
        self._ended.set()

    def _tell_stall(self, waiting: int) -> None:
        stored, stalled_before = self._appender.stored, self._has_stalled
        self._has_stalled = stored == self._stored and waiting > 0
        self._stored = stored
        if self._has_stalled and not stalled_before and not self._appender.has_final_error:
            complain(f"waiting for {self._url}: {waiting} events are not stored yet")
        elif stalled_before and not self._has_stalled:
            complain(f"{self._url} is back")

    def _tell_stopping(self, waiting: int) -> None:
        if self._is_stopping and not self._told_stopping and waiting > 0:
            self._told_stopping = True
            complain(f"{waiting} events are not stored yet; a second signal ends this at once")
        self._is_stopping = self._signals.received is not None


class Pipe:
    """Puts events into an appender, and reads on after a final error.

    If `pipe` stopped reading, SIGPIPE would kill the program that writes the input.
    """

    def __init__(self, appender: Appender) -> None:
        self.status = 0
        self._appender = appender
        self._is_broken = False

    def emit(
        self,
        category: str,
        action: str,
        data: object = None,
        source: object = None,
        traceparent: str | None = None,
    ) -> None:
        """Have an event appended, unless there was a final error."""
        if self._is_broken:
            return
        try:
            self._appender.emit(category, action, data, source, traceparent=traceparent)
        except InvalidInput as error:
            self.refuse(error)
        except StreamingError as error:
            self._break(error)

    def refuse(self, error: StreamingError, line: int | None = None) -> None:
        """Say why an event is left out."""
        where = "" if line is None else f"line {line}: "
        complain(f"{where}{describe(error)}")
        self.status = self.status or REFUSED

    def close(self) -> None:
        """Wait until all events are stored."""
        try:
            self._appender.close()
        except InvalidInput as error:
            self.refuse(error)
        except StreamingError as error:
            if not self._is_broken:
                self._break(error)
        if left_out := self._appender.refused:
            complain(f"{left_out} events were refused, and are left out")
        if missing := self._appender.not_stored - self._appender.refused:
            complain(f"{missing} events are not stored")

    def _break(self, error: StreamingError) -> None:
        complain(f"nothing more is stored: {describe(error)}")
        self.status = status_of(error)
        self._is_broken = True


@click.command()
@click.argument("run", type=RunParameter())
@click.option("--category", default="log", show_default=True, help="The category of the events.")
@click.option("--action", default="line", show_default=True, help="Their action.")
@click.option("--ndjson", is_flag=True, help="Each line is an event as JSON.")
@click.option("--lifecycle", is_flag=True, help="Begin and end the run too.")
@click.option("--tee", is_flag=True, help="Pass the input on to the output.")
@click.option(
    "--retry",
    type=Seconds(min=0),
    default=LONG_RETRY_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for a gateway that is away.",
)
@connects
def pipe(
    connection: Connection,
    run: str,
    category: str,
    action: str,
    ndjson: bool,
    lifecycle: bool,
    tee: bool,
    retry: float,
) -> int:
    """Append each line of standard input to RUN, as soon as it comes.

    The text of the line is the data of the event. With --lifecycle the run begins with
    lifecycle.started. It ends with lifecycle.completed at the end of the input, and with
    lifecycle.cancelled after SIGINT, SIGTERM or SIGHUP. It cannot know whether the program
    before it failed.
    """
    check_names(category, action)
    standard_input()  # before anything is appended
    signals = StopSignals()
    appender = connection.client(retry).appender(run)
    piping = Pipe(appender)
    notice = StallNotice(appender, signals, connection.url)
    notice.start()
    passed_on = Tee()
    pieces = read_input(signals, passed_on.write if tee else None)
    if lifecycle:
        piping.emit("lifecycle", "started")
    if ndjson:
        _emit_events(piping, split_whole_lines(pieces, MAX_LINE_BYTES))
    else:
        for part in split_lines(pieces):
            piping.emit(category, action, part.text, _CONTINUED if part.is_continued else None)
    if lifecycle:
        piping.emit("lifecycle", "cancelled" if signals.received else "completed")
    piping.close()
    notice.end()
    if signals.received:
        return 128 + signals.received
    return piping.status or passed_on.status


def _emit_events(piping: Pipe, lines: Iterator[bytes | None]) -> None:
    for number, line in enumerate(lines, 1):
        try:
            if line is not None and not line.strip():
                continue
            new_event = event_of_line(line).new_event()
        except InvalidInput as error:
            piping.refuse(error, number)
            continue
        source = orjson.Fragment(new_event.source_json) if new_event.source_json else None
        data = orjson.Fragment(new_event.data_json)
        traceparent = new_event.traceparent.decode()
        piping.emit(new_event.category, new_event.action, data, source, traceparent)


class Tee:
    """Writes pieces to standard output until that fails. Then it says why, unless nobody reads."""

    def __init__(self) -> None:
        self.status = 0
        self._is_open = True

    def write(self, piece: bytes) -> None:
        """Write a piece, if nothing has failed yet."""
        if not self._is_open:
            return
        try:
            write(piece)
        except OutputError as error:
            self._is_open = False
            give_up(sys.stdout)
            if error.message:
                complain(error.message)
                self.status = error.status
