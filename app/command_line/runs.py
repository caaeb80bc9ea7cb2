"""The command `runs`: lists the runs, or watches how they begin and end."""

import contextlib
import shutil
import threading
import time
from collections.abc import Iterable, Iterator

import click
import orjson

from ..client import Client
from ..streaming.errors import StoreUnavailable
from ..streaming.event import RESERVED_CATEGORY
from .connection import Connection, connects
from .output.event_line import event_line
from .output.run_table import Run, row_of, table
from .output.terminal import exit_when_nobody_reads, printable_json, terminal_width, write

# How often a table is drawn again: at most after changes, and without any.
MIN_REDRAW_SECONDS = 0.25
MAX_REDRAW_SECONDS = 2.0

# Without clearing the whole screen, which flickers. A line is cleared before it is written: behind
# its end the cursor may stand on its last character.
_TO_TOP, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"


@click.command()
@click.option("--state", type=click.Choice(["active", "ended"]), help="Only these.")
@click.option("--prefix", help="Only runs whose ids begin so.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many; 50 by default.")
@click.option("--json", "as_json", is_flag=True, help="Print each run as JSON on a line.")
@click.option("--watch", is_flag=True, help="Go on live.")
@connects
def runs(
    connection: Connection,
    state: str | None,
    prefix: str | None,
    limit: int | None,
    as_json: bool,
    watch: bool,
) -> int:
    """List the runs, the latest activity first.

    In a pipe the columns are separated by tabs: the id, the state, the number of events, when the
    first and the last one came, and the name of the last one.

    With --watch a terminal shows the table live. In a pipe, each line is an event with which a
    run begins or ends, from now on.
    """
    client = connection.client()
    if watch and (as_json or terminal_width() is None):
        for option, given in (("--state", state), ("--limit", limit)):
            if given is not None:
                raise click.UsageError(f"{option} cannot stand beside --watch in a pipe")
        return _print_changes(client, prefix, as_json)
    if watch:
        return _draw_live(client, state, prefix, limit)
    for line in _lines(client.runs(state, prefix, limit or 50), as_json):
        write(line)
    return 0


def _lines(found: Iterable[Run], as_json: bool) -> Iterator[str | bytes]:
    """Yield what to write of the runs."""
    width = terminal_width()
    if as_json:
        yield from (printable_json(orjson.dumps(run)) + b"\n" for run in found)
    elif width is None:
        yield from ("\t".join(row_of(run)) + "\n" for run in found)
    else:
        yield from (f"{line}\n" for line in table(list(found), width, time.time()))


def _print_changes(client: Client, prefix: str | None, as_json: bool) -> int:
    """Print each change of a run as a line, for ever."""
    exit_when_nobody_reads()
    for event in client.follow_runs("latest", prefix):
        if event.category == RESERVED_CATEGORY and event.action != "deleted":
            continue
        if as_json:
            write(printable_json(event.to_json()) + b"\n")
        else:
            write(event_line(event, max(len(event.run_id), 12), None) + "\n")
    return 0


class _Changes(threading.Thread):
    """Follows the changes of runs, and notes that there were some, or why it has ended."""

    def __init__(self, client: Client, prefix: str | None) -> None:
        super().__init__(daemon=True)
        self.came = threading.Event()
        self.error: Exception | None = None
        self._client, self._prefix = client, prefix

    def run(self) -> None:
        """Follow, until an error that no repeat can mend."""
        try:
            for _ in self._client.follow_runs("latest", self._prefix):
                self.came.set()
        except Exception as error:  # the main thread raises it
            self.error = error
        self.came.set()


def _draw_live(
    client: Client,
    state: str | None,
    prefix: str | None,
    limit: int | None,
) -> int:
    """Draw the table again after each change, for ever. Raises what ends the changes."""
    changes = _Changes(client, prefix)
    changes.start()
    while changes.error is None:
        changes.came.clear()
        size = shutil.get_terminal_size()
        shown = max(1, min(limit or size.lines, size.lines - 2))
        with contextlib.suppress(StoreUnavailable):  # the table stays, and the other thread tells
            lines = table(list(client.runs(state, prefix, shown)), size.columns, time.time())
            write(_TO_TOP + "".join(f"{_CLEAR_LINE}{line}\n" for line in lines) + _CLEAR_BELOW)
        changes.came.wait(MAX_REDRAW_SECONDS)
        time.sleep(MIN_REDRAW_SECONDS)
    raise changes.error
