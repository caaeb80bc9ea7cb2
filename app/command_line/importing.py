"""The command `import`: appends the events of an export to runs, and compares them afterwards.

The n-th event of a run in the file becomes the event of sequence n. So a run says by its last
sequence how far an import has come, and one that was interrupted goes on there.
"""

import hashlib
import os
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import click
import orjson

from ..client import Client
from ..streaming.errors import (
    EventTooLarge,
    InvalidEvent,
    InvalidInput,
    RunEnded,
    StreamingError,
    UnexpectedSequence,
)
from ..streaming.event import LIFECYCLE, RESERVED_CATEGORY, check_run_id
from ..streaming.new_event import NewEvent
from .connection import LONG_RETRY_SECONDS, Connection, connects
from .exporting import progress
from .given_json import STDIN, GivenEvent, event_of_line, standard_input
from .output.exit_status import REFUSED, status_of
from .output.failures import complain, describe

MAX_BATCH_EVENTS = 500
MAX_BATCH_BYTES = 1024 * 1024

# What the batches of all runs may hold, before they are sent.
MAX_PENDING_BYTES = 16 * 1024 * 1024

# Nobody may append this event, so it becomes `lifecycle.failed` with this source.
LOST = (LIFECYCLE, "lost")
LOST_SOURCE = b'{"imported":"lifecycle.lost"}'

# Beside its data, an event of a batch takes about so much.
_EVENT_BYTES = 200


class ImportFailed(Exception):
    """The import cannot go on; the message says why, and `status` is the exit status."""

    def __init__(self, message: str, status: int = REFUSED) -> None:
        super().__init__(message)
        self.status = status


class Numbered(NamedTuple):
    """A new event, the line that it is from, and a text that no other event of its run has."""

    line: int
    name: str
    new_event: NewEvent


class RunImport:
    """The import of one run: appends what is not there yet, in batches."""

    def __init__(self, client: Client, source: str, run_id: str) -> None:
        state = client.state(run_id)
        self.run_id = run_id
        self.pending_bytes = 0
        self._client = client
        self._source = source
        self._present: int = 0 if state is None else state["last_sequence"]
        self._digests = array("Q")  # of all events so far
        self._batch: list[Numbered] = []

    def take(self, event: Numbered) -> None:
        """Append an event soon, unless it is there already. Raises ImportFailed."""
        self._digests.append(_digest_of(event.new_event))
        if len(self._digests) <= self._present:
            if len(self._digests) == self._present:
                self._compare()
            return
        self._batch.append(event)
        self.pending_bytes += event.new_event.size + _EVENT_BYTES
        is_full = len(self._batch) == MAX_BATCH_EVENTS or self.pending_bytes >= MAX_BATCH_BYTES
        if is_full or event.new_event.terminal:  # nothing may stand behind a terminal event
            self.send()

    def send(self) -> None:
        """Append the events that wait. Raises ImportFailed."""
        batch, self._batch, self.pending_bytes = self._batch, [], 0
        if batch:
            self._append(batch, len(self._digests) - len(batch) + 1)

    def finish(self) -> str:
        """Append the rest, compare all events with those in the file, and return what to say.

        Raises ImportFailed.
        """
        self.send()
        total = len(self._digests)
        compared = self._compare()
        there = min(self._present, total)
        said = f"run {self.run_id}: {total - there} events appended"
        if there:
            said += f", {there} were there already"
        said += f"; {compared} compared"
        if compared < total:
            said += f"; {total - compared} are trimmed already, see STREAM_MAXLEN"
        return said

    def _append(self, batch: list[Numbered], sequence: int) -> None:
        key = f"{self._source}\n{batch[0].name}".encode()
        try:
            self._client.append_new(
                self.run_id,
                [event.new_event for event in batch],
                idempotency_key=f"import-{hashlib.sha256(key).hexdigest()[:40]}",
                expected_sequence=sequence,
            )
        except EventTooLarge as error:
            if error.field != "body" or len(batch) == 1:
                raise self._refused(batch, error) from None
            half = len(batch) // 2
            self._append(batch[:half], sequence)
            self._append(batch[half:], sequence + half)
        except (InvalidEvent, RunEnded) as error:
            raise self._refused(batch, error) from None
        except UnexpectedSequence as error:
            raise ImportFailed(
                f"run {self.run_id}: another program appends to it (its last sequence is "
                f"{error.last_sequence}, and not {sequence - 1})"
            ) from None

    def _refused(self, batch: list[Numbered], error: StreamingError) -> ImportFailed:
        """Return the failure of the event that an error is about, with its line."""
        field = error.field if isinstance(error, InvalidInput) else ""
        index, dot, _ = field.partition(".")
        at = int(index) if dot and index.isdigit() and int(index) < len(batch) else 0
        return ImportFailed(f"line {batch[at].line}: {describe(error)}", status_of(error))

    def _compare(self) -> int:
        """Compare the events in the log with those of the file, and return how many.

        Raises ImportFailed if they differ.
        """
        compared = 0
        for line in self._client.export_events(self.run_id):
            event = event_of_line(line)
            if event.sequence is None:
                raise ImportFailed(f"run {self.run_id}: another program has written to it")
            if event.sequence > len(self._digests):
                break
            if self._digests[event.sequence - 1] != _digest(event):
                raise ImportFailed(
                    f"run {self.run_id}: event {event.sequence} is another one than in the file; "
                    "import into a new run with --run or --map"
                )
            compared += 1
        return compared


def _digest_of(new_event: NewEvent) -> int:
    return _hash(
        new_event.category, new_event.action, new_event.data_json, new_event.source_json or b"null"
    )


def _digest(event: GivenEvent) -> int:
    return _hash(event.category, event.action, event.data, event.source)


def _hash(category: str, action: str, data: bytes, source: bytes) -> int:
    """Return a number for an event. Spaces in its JSON do not count, nor do escapes."""
    parts = (category.encode(), action.encode(), _plain(data), _plain(source))
    return int.from_bytes(hashlib.blake2b(b"\0".join(parts), digest_size=8).digest(), "big")


def _plain(text: bytes) -> bytes:
    try:
        return orjson.dumps(orjson.loads(text))
    except (orjson.JSONDecodeError, TypeError):  # too deep
        return text


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
    targets = Targets(connection.client(LONG_RETRY_SECONDS), run_id, _mapping(maps))
    paths = files or (STDIN,)
    status = 0
    said: list[str] = []
    try:
        sizes = [os.path.getsize(path) for path in paths if path != STDIN]
        total = sum(sizes) if len(sizes) == len(paths) else 0
        with progress(total, "import") as advance:
            for number, line in enumerate(_lines(paths, advance), 1):
                if line.strip():
                    targets.take(number, line)
            results = [each.finish() for each in targets.all()]
            said += [] if quiet else results
    except ImportFailed as failure:
        said.append(str(failure))
        status = failure.status
    except OSError as error:
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


def _lines(paths: tuple[str, ...], advance: Callable[[int], None]) -> Iterator[bytes]:
    for path in paths:
        with standard_input() if path == STDIN else Path(path).open("rb") as file:
            for line in file:
                advance(len(line))
                yield line


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

    def take(self, number: int, line: bytes) -> None:
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
