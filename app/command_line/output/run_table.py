"""A table of runs: the columns of each, and the lines that fit a terminal."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from .event_line import style_of
from .terminal import cells, cut, paint, printable

COLUMNS = ("RUN", "STATE", "EVENTS", "BEGAN", "LAST", "LAST EVENT")
MIN_ID_WIDTH = 12
_GAP = 2
_STATES: dict[str, dict[str, Any]] = {
    "active": {"fg": "green"},
    "lost": {"fg": "red"},
    "ended": {"dim": True},
}
_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))

Run = dict[str, Any]
Cell = tuple[str, dict[str, Any]]


def row_of(run: Run) -> list[str]:
    """Return the columns of a run: id, state, events, first and last time, last event."""
    last = run.get("last_event") or {}
    event = last.get("event")
    values = (
        run["run_id"],
        run["state"],
        run["last_sequence"],
        run.get("started_at"),
        last.get("timestamp"),
        f"{event['category'] or '-'}.{event['action'] or '-'}" if event else None,
    )
    return ["-" if value is None else printable(str(value)) for value in values]


def table(found: Iterable[Run], width: int, now: float) -> list[str]:
    """Return the lines of a table with relative times, each at most `width` columns."""
    rows: list[list[Cell]] = [[(name, {"bold": True}) for name in COLUMNS]]
    for run in found:
        run_id, state, events, began, last, name = row_of(run)
        event = (run.get("last_event") or {}).get("event") or {}
        style = style_of(event.get("category"), event.get("action"))
        rows.append(
            [
                (run_id, {}),
                (state, _STATES.get(state, {})),
                (events, {}),
                (ago(began, now), {}),
                (ago(last, now), {}),
                (name, style),
            ]
        )
    widths = [max(cells(row[at][0]) for row in rows) for at in range(len(COLUMNS))]
    # Shorten the run id first: the other columns are short.
    others = sum(widths[1:]) + _GAP * (len(COLUMNS) - 1)
    widths[0] = min(widths[0], max(MIN_ID_WIDTH, width - others))
    return [_line(row, widths, width) for row in rows]


def _line(row: Sequence[Cell], widths: Sequence[int], left: int) -> str:
    parts = []
    for at, ((text, style), size) in enumerate(zip(row, widths, strict=True)):
        text = cut(text, size)
        padding = " " * (size - cells(text))
        is_number, is_last = at == COLUMNS.index("EVENTS"), at == len(row) - 1
        padded = padding + text if is_number else text if is_last else text + padding
        shown = cut(padded if is_last else padded + " " * _GAP, left)
        left -= cells(shown)
        parts.append(paint(shown, **style))
    return "".join(parts)


def ago(timestamp: str, now: float) -> str:
    """Return how long ago a time was, in its largest unit; `-` for what is no time."""
    try:
        then = datetime.fromisoformat(timestamp)
        seconds = int(now - then.replace(tzinfo=then.tzinfo or UTC).timestamp())
    except (ValueError, OverflowError):
        return "-"
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return "now"
