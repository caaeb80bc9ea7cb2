"""The command `follow`: shows the events of runs as they come, and exits as the runs end."""

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import click

from ..client import Client
from ..protocol.run_state import RunState
from ..streaming.errors import InvalidInput
from ..streaming.event import RESERVED_CATEGORY, Event
from ..streaming.event_id import EventId
from .completion import RunParameter
from .connection import Connection, connects
from .output.event_line import MissingEvents
from .output.exit_status import LOST, status_of_end
from .output.failures import complain
from .output.printers import JsonPrinter, LinePrinter, Printer, TextPrinter
from .output.terminal import exit_when_nobody_reads


class Start(NamedTuple):
    """Where to start: at a cursor, so many events before the end, or at a sequence."""

    cursor: str
    tail: int | None = None
    from_sequence: int | None = None


_STARTS = "earliest, latest, an event ID, a sequence N, or -N for the last N events"


class StartParameter(click.ParamType):  # type: ignore[type-arg]
    """`earliest`, `latest`, an event id, a sequence N, or -N for the last N events."""

    name = "start"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Start:
        """Return where to start. Fails for anything else."""
        if isinstance(value, Start):
            return value
        if re.fullmatch(r"-[0-9]{1,10}", value):
            return Start("earliest", tail=int(value[1:]))
        if re.fullmatch(r"[0-9]{1,16}", value):
            return Start("earliest", from_sequence=int(value))
        try:
            return Start(cursor_of(value))
        except InvalidInput:
            self.fail(f"{value!r} is not {_STARTS}", param, ctx)


def cursor_of(text: str) -> str:
    """Return a cursor. Raises InvalidInput."""
    return text if text in ("earliest", "latest") else str(EventId.parse(text))


class Outcomes:
    """How the followed runs have ended."""

    def __init__(self, run_ids: Sequence[str]) -> None:
        self._ends: dict[str, str | None] = dict.fromkeys(run_ids)

    def take(self, event: Event) -> None:
        """Note whether a run ends with an event."""
        if event.category != RESERVED_CATEGORY:
            self._ends[event.run_id] = event.action if event.terminal else None

    def status(self, client: Client) -> int:
        """Return the exit status: the worst of all runs. Ask for the end of one not seen."""
        for run_id, action in self._ends.items():
            if action is None:
                self._ends[run_id] = _end_of(client.state(run_id))
                if self._ends[run_id] is None:
                    complain(f"the gateway does not say how the run {run_id} has ended")
        statuses = [status_of_end(action) for action in self._ends.values()]
        return LOST if LOST in statuses else max(statuses)


def _end_of(state: RunState | None) -> str | None:
    """Return the action of the event that ended a run, None if the state does not say that."""
    if state is None or not state["ended"] or state["last_event"] is None:
        return None
    action: str | None = state["last_event"]["event"]["action"]
    return action


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=RunParameter())
@click.option(
    "--from",
    "start",
    type=StartParameter(),
    default="earliest",
    show_default=True,
    metavar="START",
    help=f"{_STARTS}.",
)
@click.option("--category", "categories", multiple=True, help="Only these; may be repeated.")
@click.option("--action", "actions", multiple=True, help="Only these; may be repeated.")
@click.option("--text", "shape", flag_value="text", help="Join the texts of llm events.")
@click.option("--json", "shape", flag_value="json", help="One event as JSON on each line.")
@click.option("--full", is_flag=True, help="Do not cut lines to the width of the terminal.")
@connects
def follow(
    connection: Connection,
    runs: tuple[str, ...],
    start: Start,
    categories: tuple[str, ...],
    actions: tuple[str, ...],
    shape: str | None,
    full: bool,
) -> int:
    """Show the events of each RUN, and go on live until all have ended.

    RUN may be RUN@ID, RUN@earliest or RUN@latest, to start there. The exit status is 0 if the
    run completes, 1 if it fails or is cancelled, and 2 if it is lost; of several runs, the worst.
    """
    cursors = _cursors(runs, start)
    is_filtered = bool(categories or actions)
    missing = MissingEvents(_first_sequence(cursors, start), is_filtered)
    printer: Printer
    if shape == "json":
        printer = JsonPrinter()
    elif shape == "text":
        if len(cursors) > 1:
            raise click.UsageError("--text joins the texts of one run")
        printer = TextPrinter(missing, is_filtered)
    else:
        run_width = max(map(len, cursors)) if len(cursors) > 1 else 0
        printer = LinePrinter(missing, run_width, full)
    client = connection.client()
    exit_when_nobody_reads()
    outcomes = Outcomes(list(cursors))
    for event in _events(client, cursors, start, categories, actions):
        outcomes.take(event)
        printer.show(event)
    printer.end()
    return outcomes.status(client)


def _cursors(runs: Sequence[str], start: Start) -> dict[str, str]:
    """Return where each run starts. Raises UsageError."""
    cursors: dict[str, str] = {}
    for each in runs:
        run_id, at, cursor = each.partition("@")
        if run_id in cursors:
            raise click.UsageError(f"the run {run_id} is named twice")
        try:
            cursors[run_id] = cursor_of(cursor) if at else start.cursor
        except InvalidInput:
            raise click.UsageError(
                f"{each}: after @ there must be an event ID, earliest or latest"
            ) from None
    if len(cursors) > 1 and start[1:] != (None, None):
        raise click.UsageError("--from with a number is for one run")
    return cursors


def _first_sequence(cursors: dict[str, str], start: Start) -> int | None:
    """Return the sequence that the first event of every run should have, None if unknown."""
    if start.from_sequence is not None:
        return start.from_sequence
    is_all = start.tail is None and set(cursors.values()) == {"earliest"}
    return 1 if is_all else None


def _events(
    client: Client,
    cursors: dict[str, str],
    start: Start,
    categories: Sequence[str],
    actions: Sequence[str],
) -> Iterator[Event]:
    if len(cursors) > 1:
        many: dict[int | str, str] = {each: cursor for each, cursor in cursors.items()}  # noqa: C416
        return client.follow_many(many, categories=categories, actions=actions)
    [(run_id, cursor)] = cursors.items()
    return client.follow(
        run_id,
        cursor,
        tail=start.tail,
        from_sequence=start.from_sequence,
        categories=categories,
        actions=actions,
    )
