"""What reaches the terminal: text without control characters, colours, widths, and output."""

import errno
import os
import re
import select
import shutil
import stat
import sys
import threading
import unicodedata
from functools import lru_cache
from typing import Any, TextIO

import click

from .exit_status import NOT_WRITTEN, OUTPUT_CLOSED

# Control characters, halves of pairs, line and paragraph separators, and what reorders or hides
# text: a terminal would obey them, and a reader would be deceived.
_UNSAFE = (
    r"\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    r"\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f"
)
_unsafe = re.compile(f"[{_UNSAFE}]")
_unsafe_but_layout = re.compile(f"(?![\n\t])[{_UNSAFE}]")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}

DEFAULT_WIDTH = 80

# How many combining marks a character may carry: any number would reach over the lines above.
MAX_MARKS = 8


class OutputError(Exception):
    """The output cannot be written. Without a message its reader has gone, as `head` does."""

    def __init__(self, status: int, message: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def printable(text: str) -> str:
    """Return a text on one line, with every character escaped that a terminal would obey."""
    return text if text.isascii() and text.isprintable() else _unsafe.sub(_escape, text)


def printable_text(text: str) -> str:
    """Return a text of several lines, with all but line breaks and tabs escaped so."""
    return _unsafe_but_layout.sub(_escape, text.replace("\r\n", "\n"))


def printable_json(line: bytes) -> bytes:
    """Return the same JSON, on one line, with such characters as the escapes of JSON."""
    text = line.decode("utf-8", "replace")
    if text.isascii() and text.isprintable():
        return line
    return _unsafe_but_layout.sub(_escape_in_json, text).encode("utf-8", "replace")


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    return _SHORT.get(character) or (f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")


def _escape_in_json(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


# Output


def write(data: str | bytes, *, flush: bool = True) -> None:
    """Write to standard output. Raises OutputError."""
    out = _stdout()
    if isinstance(data, str):
        data = data.encode(out.encoding or "utf-8", "backslashreplace")
    try:
        out.buffer.write(data)
        if flush:
            out.buffer.flush()
    except OSError as error:
        raise _output_error(error) from None


def flush() -> None:
    """Write what waits. Raises OutputError."""
    write(b"")


def exit_when_nobody_reads() -> None:
    """End the process when the reader of the output goes, even while nothing is written."""
    if sys.stdout is None or not _is_pipe(sys.stdout.fileno()):
        return
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)  # an error is always reported

    def wait() -> None:
        poll.poll()
        os._exit(OUTPUT_CLOSED)

    threading.Thread(target=wait, daemon=True).start()


def _is_pipe(descriptor: int) -> bool:
    return stat.S_ISFIFO(os.fstat(descriptor).st_mode)


def give_up(stream: TextIO | None) -> None:
    """Have the interpreter's exit flush a stream into nothing: its error was dealt with."""
    if stream is not None:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)


def tell(line: str) -> None:
    """Print a line to standard error, if that is open and can be written."""
    if sys.stderr is None:  # `print` would take standard output
        return
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:  # nobody can be told
        give_up(sys.stderr)


def _stdout() -> Any:
    if sys.stdout is None or sys.stdout.closed:
        raise OutputError(NOT_WRITTEN, "standard output is closed")
    return sys.stdout


def _output_error(error: OSError) -> OutputError:
    if error.errno == errno.EPIPE:
        return OutputError(OUTPUT_CLOSED)
    return OutputError(NOT_WRITTEN, f"cannot write to standard output: {error.strerror}")


# Terminals


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether a stream is open and a terminal."""
    return stream is not None and not stream.closed and stream.isatty()


def paint(text: str, stream: TextIO | None = None, **style: Any) -> str:
    """Return a text in a style of click if a stream, by default the output, shows colours."""
    return click.style(text, **style) if _has_colours(stream or sys.stdout) else text


def _has_colours(stream: TextIO | None) -> bool:
    dull = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return not dull and is_terminal(stream)


def terminal_width() -> int | None:
    """Return how many columns the output has, None if it is no terminal."""
    if not is_terminal(sys.stdout):
        return None
    return shutil.get_terminal_size((DEFAULT_WIDTH, 24)).columns


def cells(text: str) -> int:
    """Return how many columns a text takes."""
    return len(text) if text.isascii() else sum(map(_cells_of, text))


def cut(text: str, width: int) -> str:
    """Return a text that takes at most `width` columns; `…` stands for what was cut off.

    A character keeps MAX_MARKS of its combining marks.
    """
    if text.isascii() and len(text) <= width:
        return text
    taken: list[str] = []
    used = marks = before_end = 0
    for character in text:
        size = _cells_of(character)
        marks = 0 if size else marks + 1
        if marks > MAX_MARKS:
            continue
        used += size
        if used > width:
            return "".join(taken[:before_end]) + "…" if width > 0 else ""
        taken.append(character)
        if used < width:
            before_end = len(taken)
    return "".join(taken)


@lru_cache(maxsize=4096)
def _cells_of(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
