"""How `follow` shows events: as lines, as JSON, or as the text that they make together."""

import sys
from typing import Any, Protocol

from ...streaming.event import LIFECYCLE, RESERVED_CATEGORY, Event
from .event_line import MissingEvents, event_line, name_of, style_of
from .terminal import (
    is_terminal,
    paint,
    printable_json,
    printable_text,
    tell,
    terminal_width,
    write,
)

# Where a text is, in data that is an object.
TEXT_MEMBERS = ("content", "text", "delta", "token")

# Whose texts are joined, and whose are lines, unless a filter says which events are meant.
TOKENS, LINES = "llm", "log"


class Printer(Protocol):
    """Shows the events of runs on the output."""

    def show(self, event: Event) -> None:
        """Show one event, or what it says of the stream."""

    def end(self) -> None:
        """Finish what was shown."""


class LinePrinter:
    """Shows each event as a line."""

    def __init__(self, missing: MissingEvents, run_width: int, is_full: bool) -> None:
        self._missing = missing
        self._run_width = run_width
        self._is_full = is_full

    def show(self, event: Event) -> None:
        """Show one event, or what it says of the stream."""
        if (mark := self._missing.before(event)) is not None:
            write(paint(mark, fg="yellow", bold=True) + "\n")
        if event.category != RESERVED_CATEGORY:
            width = None if self._is_full else terminal_width()
            write(event_line(event, self._run_width, width) + "\n")

    def end(self) -> None:
        """Do nothing."""


class JsonPrinter:
    """Shows each event as JSON, gaps and resets too."""

    def show(self, event: Event) -> None:
        """Show one event."""
        if event.category != RESERVED_CATEGORY or event.action in ("gap", "reset"):
            write(printable_json(event.to_json()) + b"\n")

    def end(self) -> None:
        """Do nothing."""


class TextPrinter:
    """Joins the texts of events on the output. Other events are notes on a terminal."""

    def __init__(self, missing: MissingEvents, is_filtered: bool) -> None:
        self._missing = missing
        self._is_filtered = is_filtered
        self._last = "\n"  # what was written last

    def show(self, event: Event) -> None:
        """Show the text of one event, or a note."""
        if (mark := self._missing.before(event)) is not None:
            self._note(mark, {"fg": "yellow"}, always=True)
        if event.category == RESERVED_CATEGORY:
            return
        text = self._text_of(event)
        if text is None:
            self._note(name_of(event), style_of(event.category, event.action))
        elif text:
            self._write(text)

    def end(self) -> None:
        """End the last line, if a person reads it."""
        if is_terminal(sys.stdout):
            self._begin_line()

    def _text_of(self, event: Event) -> str | None:
        """Return the text of an event, None if it has none that belongs to the output."""
        if event.category == LIFECYCLE:
            return None
        if not self._is_filtered and event.category not in (TOKENS, LINES):
            return None
        text = text_of(event.data)
        if text is not None and event.category == LINES and not is_continued(event):
            return text + "\n"
        return text

    def _write(self, text: str) -> None:
        shown = printable_text(text) if is_terminal(sys.stdout) else text
        write(shown)
        self._last = shown[-1:] or self._last

    def _begin_line(self) -> None:
        if self._last != "\n":
            write("\n")
            self._last = "\n"

    def _note(self, text: str, style: dict[str, Any], *, always: bool = False) -> None:
        if not (always or is_terminal(sys.stderr)):
            return
        if is_terminal(sys.stdout):
            self._begin_line()
        tell(paint(text, sys.stderr, **style))


def text_of(data: Any) -> str | None:
    """Return the text in an event's data, None if it has none."""
    if isinstance(data, dict):
        data = next((data[name] for name in TEXT_MEMBERS if isinstance(data.get(name), str)), None)
    return data if isinstance(data, str) else None


def is_continued(event: Event) -> bool:
    """Return whether the next event has more of the same line, as `pipe` says in the source."""
    source = event.source
    return isinstance(source, dict) and source.get("continued") is True
