"""The command `import`: appends the events of an export to runs, and compares them afterwards.

The n-th event of a run in the file becomes the event of sequence n. So a run says by its last
sequence how far an import has come, and one that was interrupted goes on there.
"""

import codecs
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import click

from ..client import Client
from ..streaming.errors import InvalidInput
from ..streaming.event import LIFECYCLE, RESERVED_CATEGORY, check_run_id
from .connection import LONG_RETRY_SECONDS, Connection, connects
from .exporting import progress
from .given_json import MAX_LINE_BYTES, STDIN, event_of_line, standard_input
from .lines import READ_BYTES, split_whole_lines
from .output.exit_status import REFUSED
from .output.failures import complain, describe
from .run_import import ImportFailed, Numbered, RunImport

# What the batches of all runs may hold, before they are sent.
MAX_PENDING_BYTES = 16 * 1024 * 1024

# Nobody may append this event, so it becomes `lifecycle.failed` with this source.
LOST = (LIFECYCLE, "lost")
LOST_SOURCE = b'{"imported":"lifecycle.lost"}'


@click.command("import")
@click.argument("files", nargs=-1, metavar="[FILE]...", type=click.Path(allow_dash=True))
@click.option("--run", "run_id", metavar="RUN", help="Import into this run.")
@click.option("--map", "maps", multiple=True, metavar="OLD=NEW", help="Import OLD into NEW.")
@click.option("-q", "--quiet", is_flag=True, help="Say only what is wrong.")
@connects
def import_events(
    connection: Connection,
    files: tuple[str, ...],
    run_id: str | None,
    maps: tuple[str, ...],
    quiet: bool,
) -> int:
    """Append the events of an export to their runs. Without FILE they come from standard input.

    The events get new ids and times, and sequences from 1 on. A run must have no log, or the
    first of these events: then the import goes on behind them. At the end the events in the log
    are compared with those in the file.
    """
    if run_id is not None and maps:
        raise click.UsageError("--run cannot stand beside --map")
    targets = Targets(connection.client(LONG_RETRY_SECONDS), run_id, _mapping(maps))
    paths = files or (STDIN,)
    status = 0
    said: list[str] = []
    try:
        sizes = [os.path.getsize(path) for path in paths if path != STDIN]
        total = sum(sizes) if len(sizes) == len(paths) else 0
        with progress(total, "import") as advance:
            for number, line in enumerate(_lines(paths, advance), 1):
                if line is None or line.strip():
                    targets.take(number, line)
            results = [each.finish() for each in targets.all()]
            said += [] if quiet else results or ["no events"]
            if missing := targets.not_in_input():
                said += missing
                status = REFUSED
    except ImportFailed as failure:
        said.append(str(failure))
        status = failure.status
    except OSError as error:
        if error.filename is None:
            raise
        raise click.UsageError(f"{error.filename}: {error.strerror}") from None
    for text in [*said, *targets.notes()]:
        complain(text)
    return status


def _mapping(maps: tuple[str, ...]) -> dict[str, str]:
    mapping = {}
    for each in maps:
        old, equals, new = each.partition("=")
        if not (old and equals and new):
            raise click.UsageError(f"--map: {each!r} must be OLD=NEW")
        mapping[old] = check_run_id(new)
    return mapping


def _lines(paths: tuple[str, ...], advance: Callable[[int], None]) -> Iterator[bytes | None]:
    """Yield the lines of all files, without byte order marks; None for one that is too long."""
    for path in paths:
        with standard_input() if path == STDIN else Path(path).open("rb") as file:
            lines = split_whole_lines(_pieces(file, advance), MAX_LINE_BYTES)
            for number, line in enumerate(lines):
                yield line if line is None or number else line.removeprefix(codecs.BOM_UTF8)


def _pieces(file: BinaryIO, advance: Callable[[int], None]) -> Iterator[bytes]:
    while piece := os.read(file.fileno(), READ_BYTES):
        advance(len(piece))
        yield piece


class Targets:
    """The runs that events are imported into."""

    def __init__(self, client: Client, run_id: str | None, mapping: dict[str, str]) -> None:
        self._client = client
        self._run_id = None if run_id is None else check_run_id(run_id)
        self._mapping = mapping
        self._imports: dict[str, RunImport] = {}
        self._sources: dict[str, str] = {}  # by target
        self._pending_bytes = 0
        self._lost = self._controls = 0

    def all(self) -> list[RunImport]:
        """Return the imports of all runs."""
        return list(self._imports.values())

    def notes(self) -> list[str]:
        """Return what to say of events that are not imported as they are."""
        notes = []
        if self._lost:
            notes.append(f"{self._lost} lifecycle.lost became lifecycle.failed")
        if self._controls:
            notes.append(f"{self._controls} events of the category gateway were left out")
        return notes

    def not_in_input(self) -> list[str]:
        """Return what to say of each run to map of which there was no event."""
        return [
            f"--map {old}={new}: the input has no events of the run {old}"
            for old, new in self._mapping.items()
            if self._sources.get(new) != old
        ]

    def take(self, number: int, line: bytes | None) -> None:
        """Import the event of a line. Raises ImportFailed."""
        try:
            event = event_of_line(line)
            if event.category == RESERVED_CATEGORY and event.id is None:
                self._controls += 1
                return
            if (event.category, event.action) == LOST:
                self._lost += 1
                source = LOST_SOURCE if event.source == b"null" else event.source
                event = event._replace(action="failed", source=source)
            new_event = event.new_event()
            found = self._import_of(event.run_id)
        except InvalidInput as error:
            raise ImportFailed(f"line {number}: {describe(error)}") from None
        found.take(Numbered(number, event.id or str(number), new_event))
        self._pending_bytes += new_event.size
        if self._pending_bytes > MAX_PENDING_BYTES:  # at most: some are sent already
            self._pending_bytes = 0
            for each in self._imports.values():
                each.send()

    def _import_of(self, source: str | None) -> RunImport:
        """Return the import of a run of the file. Raises InvalidInput and ImportFailed."""
        name = source or ""
        target = self._run_id or self._mapping.get(name) or name
        if not target:
            raise InvalidInput("run_id", "is missing; name the run with --run")
        if self._sources.setdefault(target, name) != name:
            raise InvalidInput(
                "run_id", f"{name} and {self._sources[target]} cannot both become {target}"
            )
        if target not in self._imports:
            self._imports[target] = RunImport(self._client, name, check_run_id(target))
        return self._imports[target]
