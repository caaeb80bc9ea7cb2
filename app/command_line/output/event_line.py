"""An event as a line for people, and what is said of events that are missing."""

import re
from datetime import datetime
from typing import Any

from ...streaming.event import LIFECYCLE, RESERVED_CATEGORY, Event
from .terminal import cells, cut, paint, printable

_RED, _GREEN, _YELLOW = {"fg": "red"}, {"fg": "green"}, {"fg": "yellow"}
_OUTCOMES = {"completed": _GREEN, "failed": _RED, "cancelled": _YELLOW, "lost": _RED}
_CATEGORIES = {LIFECYCLE: {"fg": "cyan"}, "llm": {"fg": "blue"}, "request": {"fg": "magenta"}}
_OTHER = ("cyan", "blue", "magenta", "yellow")

NAME_WIDTH = 20
SEQUENCE_WIDTH = 5
UNKNOWN_TIME = "--:--:--.---"

_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def time_of(timestamp: str | None) -> str:
    """Return the local time of a timestamp. Other programs may have written anything."""
    if timestamp is None or not _TIMESTAMP.fullmatch(timestamp):
        return UNKNOWN_TIME
    try:
        return datetime.fromisoformat(timestamp).astimezone().strftime("%H:%M:%S.%f")[:-3]
    except (ValueError, OverflowError, OSError):
        return UNKNOWN_TIME


def name_of(event: Event) -> str:
    """Return the names of an event, `-` for one that is missing."""
    return printable(f"{event.category or '-'}.{event.action or '-'}")


def style_of(category: str | None, action: str | None) -> dict[str, Any]:
    """Return the style of an event's name: that of its outcome, or of its category."""
    if category == LIFECYCLE and action in _OUTCOMES:
        return {**_OUTCOMES[action], "bold": True}
    if action in ("failed", "error"):
        return _RED
    if not category:
        return {}
    return _CATEGORIES.get(category) or {"fg": _OTHER[sum(category.encode()) % len(_OTHER)]}


def data_of(event: Event) -> str:
    """Return the data on one line: a text as it is, nothing for null, else compact JSON."""
    if event.data_json == b"null":
        return ""
    data = event.data if event.data_json[:1] == b'"' else None
    return printable(data if isinstance(data, str) else event.data_json.decode("utf-8", "replace"))


def event_line(event: Event, run_width: int, width: int | None) -> str:
    """Return the line of an event, cut to `width` columns if that is given.

    `run_width` is the width of the column of run ids, 0 for none.
    """
    run = f"{printable(event.run_id):<{run_width}} " if run_width else ""
    sequence = "-" if event.sequence is None else str(event.sequence)
    head = f"{time_of(event.timestamp)} {run}{sequence:>{SEQUENCE_WIDTH}} "
    name, data = name_of(event), data_of(event)
    padded = f"{name:<{NAME_WIDTH}}" if data else name
    if width is not None:
        padded = cut(padded, width - len(head))
        data = cut(data, width - len(head) - cells(padded) - 1)
    shown = paint(head, dim=True) + paint(padded, **style_of(event.category, event.action))
    return f"{shown} {data}" if data else shown


class MissingEvents:
    """Finds out how many events are missing where the stream says that some are.

    With a filter nobody knows. `first` is the sequence that the first event should have, if that
    is known.
    """

    def __init__(self, first: int | None, is_filtered: bool) -> None:
        self._first = first
        self._is_filtered = is_filtered
        self._last: dict[str, int] = {}
        self._has_gap: set[str] = set()

    def before(self, event: Event) -> str | None:
        """Return what to say before an event, or in place of a notice; None for nothing."""
        run_id = event.run_id
        if event.category == RESERVED_CATEGORY:
            return self._notice(run_id, event.action)
        if event.sequence is None:
            return None
        last = self._last.get(run_id)
        if last is None and self._first is not None and not self._is_filtered:
            last = self._first - 1
            self._has_gap.add(run_id)
        self._last[run_id] = event.sequence
        if run_id not in self._has_gap or last is None:
            return None
        self._has_gap.discard(run_id)
        return _gone(event.sequence - last - 1)

    def _notice(self, run_id: str, action: str | None) -> str | None:
        if action == "reset":
            self._last[run_id] = 0
            self._has_gap.discard(run_id)
            return "… the log was deleted, or it is another one: it begins again here"
        if action == "gap":
            if run_id in self._last and not self._is_filtered:
                self._has_gap.add(run_id)
                return None
            if self._first is not None and not self._is_filtered:
                return None  # the next event tells
            return "… events are gone"
        if action == "caught_up" and run_id in self._has_gap:
            self._has_gap.discard(run_id)
            return "… events are gone"
        return None


def _gone(count: int) -> str | None:
    if count <= 0:
        return None
    return f"… {count:,} event{'s are' if count > 1 else ' is'} gone"
