"""The command `export`: writes the events of runs as lines, and checks that they are all there."""

import contextlib
import re
import sys
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any, NamedTuple

import click

from ..client import Client
from ..protocol.received_event import parse_message
from ..protocol.responses import not_a_gateway
from ..streaming.errors import InvalidInput
from ..streaming.event_id import ZERO, EventId
from .completion import RunParameter
from .connection import LONG_RETRY_SECONDS, Connection, connects
from .output.exit_status import REFUSED
from .output.failures import complain
from .output.terminal import flush, is_terminal, printable_json, write

# As gateways begin a line.
_HEAD = re.compile(
    rb'\{"id":"([0-9]{1,20})-([0-9]{1,20})","run_id":"[^"]*","sequence":([0-9]{1,20}|null),'
)


class CheckFailed(Exception):
    """The lines are not those of the run; the message says why."""


class Mark(NamedTuple):
    """The id and the sequence of an event; others than Tailrace write no sequence."""

    id: EventId
    sequence: int | None


def mark_of(line: bytes) -> Mark:
    """Return the mark of the event of a line, without reading its data if it has the usual form.

    Raises Refused for a line that no gateway sends.
    """
    if match := _HEAD.match(line):
        number = None if match[3] == b"null" else int(match[3])
        return Mark(EventId(int(match[1]), int(match[2])), number)
    event = parse_message(HTTPStatus.OK, line)
    try:
        return Mark(EventId.parse(event.id or ""), event.sequence)
    except InvalidInput as error:
        raise not_a_gateway(HTTPStatus.OK, str(error)) from None


class Check:
    """Counts the events of a run as they are written, and compares them with its state."""

    def __init__(self, run_id: str, before: dict[str, Any]) -> None:
        self.count = 0
        self._run_id = run_id
        self._length = before["length"]
        self._first_id = before["first_id"]
        self._until = EventId.parse(before["last_id"])
        self._known = 0  # events that were there before
        self._missing = 0
        self._last = Mark(ZERO, None)

    def take(self, line: bytes) -> None:
        """Count the event of a line. Raises CheckFailed if it does not follow the last one."""
        mark, last = mark_of(line), self._last
        if mark.id <= last.id:
            raise CheckFailed(f"event {mark.id} came after event {last.id}")
        if mark.sequence is not None and last.sequence is not None:
            if mark.sequence <= last.sequence:
                raise CheckFailed("the log was deleted, and another one began")
            self._missing += mark.sequence - last.sequence - 1
        self.count += 1
        self._known += mark.id <= self._until
        self._last = mark

    def finish(self, after: dict[str, Any] | None) -> str:
        """Return what to say of the export. Raises CheckFailed if events are missing."""
        missing = self._length - self._known
        said = f"run {self._run_id}: {self.count} events"
        if self.count:
            said += f", up to {self._last.id}"
        # `_missing` includes the events that were trimmed meanwhile. The code below prints them.
        if (before := self._missing - max(missing, 0)) > 0:
            said += f"; {before} more had been deleted or trimmed between them"
        if missing == 0:
            return said
        if after is None or after["last_id"] is None:
            raise CheckFailed("the log was deleted meanwhile")
        was_trimmed = self._first_id is not None and (
            after["first_id"] is None
            or EventId.parse(after["first_id"]) > EventId.parse(self._first_id)
        )
        if missing < 0 or not was_trimmed:
            raise CheckFailed(
                f"{self._known} events were read of {self._length}: read the run again"
            )
        return f"{said}; {missing} were trimmed meanwhile"


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=RunParameter())
@click.option("-q", "--quiet", is_flag=True, help="Say only what is wrong.")
@connects
def export(connection: Connection, runs: tuple[str, ...], quiet: bool) -> int:
    """Write every event of each RUN as a line of JSON, exactly as the gateway sends it.

    What is appended meanwhile is left out. At the end the events are compared with the state of
    the run: their number, and their ids, which must ascend.
    """
    client = connection.client(LONG_RETRY_SECONDS)
    states = {run_id: client.state(run_id) for run_id in runs}
    total = sum(state["length"] for state in states.values() if state is not None)
    status = 0
    said: list[str] = []
    with progress(total, "export", is_shown=not is_terminal(sys.stdout)) as advance:
        for run_id, state in states.items():
            if state is None:
                said.append(f"run {run_id} has no log")
                status = REFUSED
                continue
            check = Check(run_id, state)
            try:
                _write(client, run_id, check, advance)
                text = check.finish(client.state(run_id))
                said += [] if quiet else [text]
            except CheckFailed as failure:
                said.append(f"run {run_id}: {failure}")
                status = REFUSED
    for text in said:
        complain(text)
    return status


def _write(
    client: Client,
    run_id: str,
    check: Check,
    advance: Callable[[int], None],
) -> None:
    escape = is_terminal(sys.stdout)
    for line in client.export_events(run_id):
        check.take(line)
        write((printable_json(line) if escape else line) + b"\n", flush=False)
        advance(1)
    flush()


@contextlib.contextmanager
def progress(length: int, label: str, *, is_shown: bool = True) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on standard error, if that is a terminal, and give its `advance`."""
    if not (is_shown and length and is_terminal(sys.stderr)):
        yield lambda steps: None
        return
    every = max(1, length // 1000)
    bar = click.progressbar(length=length, label=label, file=sys.stderr, update_min_steps=every)
    with bar:
        yield bar.update
