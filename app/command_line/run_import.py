"""The import of one run: appends the events that are not there yet, and compares all of them."""

import hashlib
from array import array
from typing import NamedTuple

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
from ..streaming.new_event import NewEvent
from .given_json import GivenEvent, event_of_line
from .output.exit_status import REFUSED, status_of
from .output.failures import describe

MAX_BATCH_EVENTS = 500
MAX_BATCH_BYTES = 1024 * 1024

# Beside its data, an event of a batch takes about so much.
_EVENT_BYTES = 200


class ImportFailed(Exception):
    """The import cannot go on; the message says why, and `status` is the exit status."""

    def __init__(self, message: str, status: int = REFUSED) -> None:
        super().__init__(message)
        self.status = status


class Numbered(NamedTuple):
    """A new event, the line that it is from, and its id in the file or else its line."""

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
        # The sequence, too: a file may have an id twice, and a repeated key would store nothing.
        key = f"{self._source}\n{sequence}\n{batch[0].name}".encode()
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
        compared = last = 0
        for line in self._client.export_events(self.run_id):
            event = event_of_line(line)
            if event.sequence is None:
                raise ImportFailed(f"run {self.run_id}: another program has written to it")
            last = event.sequence
            if last > len(self._digests):
                break
            if self._digests[event.sequence - 1] != _digest(event):
                raise ImportFailed(
                    f"run {self.run_id}: event {event.sequence} is another one than in the file; "
                    "import into a new run with --run or --map"
                )
            compared += 1
        if last < len(self._digests):  # a log is trimmed from its start
            raise ImportFailed(
                f"run {self.run_id}: event {len(self._digests)} is not in the log any more"
            )
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
