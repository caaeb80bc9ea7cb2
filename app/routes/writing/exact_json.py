"""Exact JSON: how the documents of producers are parsed, without holding up other requests.

Parsing takes time for each value, not for each byte: four megabytes of `[]` take a quarter of a
second. A large document with many values is dense. An array is then parsed item by item, and
the other requests get their turn in between. Anything else is one event, and too large.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from ...streaming.backoff import give_turn
from ...streaming.errors import EventTooLarge, InvalidEvent
from ...streaming.event_json import MAX_DEPTH, check_depth, read_json
from ...streaming.new_event import MAX_EVENTS
from ..problems import FieldError

# A document with fewer bytes, or with fewer names and values, is parsed at once.
MAX_BYTES_AT_ONCE = 64 * 1024
MAX_VALUES_AT_ONCE = 100_000

# After this much of a document the other requests get their turn.
TURN_BYTES = 64 * 1024

# The end of an item is first looked for in a text that is smaller than the largest event by this
# many powers of two.
SMALLEST_WINDOW = 7

# Numbers may be written longer than they are stored, and names may be dropped.
MAX_EXPANSION = 2
NAMES_BYTES = 4096

# Finds out whether a body has 19 digits in a row, 15 times as fast as a regular expression.
_DIGITS_AS_ZEROS = bytes.maketrans(b"123456789", b"0" * 9)
_LONG_NUMBER = b"0" * 19

# With the sign. Parsing digits takes time that grows with the square of their number.
MAX_INTEGER_DIGITS = 20

_LENIENT = json.JSONDecoder()
_WHITESPACE = re.compile(r"[ \t\r\n]*")
_ARRAY = re.compile(rb"[ \t\r\n]*\[")


class NotJson(FieldError):
    """A body, or an item of one, that is not JSON: 400."""

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(400, field, detail)


def parse_document(body: bytes | bytearray, max_event_bytes: int) -> Any:
    """Parse a body as exact JSON; a dense array becomes an iterator over its items.

    `max_event_bytes` is the largest size of an event's JSON. Raises what `parse_json` does; the
    error of an array names the first bad item by its index. So does the iterator.
    """
    is_dense = _is_dense(body)
    if is_dense and _ARRAY.match(body):
        return _items(body, max_event_bytes)
    try:
        return parse_json(body, max_event_bytes) if is_dense else _parse(body)
    except (NotJson, InvalidEvent):
        if _ARRAY.match(body):
            for _ in _items(body, max_event_bytes):
                pass
        raise


def parse_json(text: bytes | bytearray, max_event_bytes: int) -> Any:
    """Parse an event as exact JSON: a body, or a line of one.

    Raises NotJson, InvalidEvent (422), or EventTooLarge (413) if it is dense.
    """
    if _is_dense(text):
        _check_size(text, max_event_bytes)
    return _parse(text)


def _parse(text: bytes | bytearray) -> Any:
    try:
        document, text = read_json(text)
        # orjson turns an integer that does not fit 64 bits into a float.
        if _LONG_NUMBER in text.translate(_DIGITS_AS_ZEROS):
            document = json.loads(text, parse_int=_parse_integer)
    except ValueError as error:
        raise NotJson("body", f"is not JSON: {error}") from None
    except RecursionError:  # from the standard library, which allows less depth than orjson
        for name, value in document.items() if isinstance(document, dict) else ():
            check_depth(name, value)
        raise InvalidEvent("body", f"must not be nested deeper than {MAX_DEPTH}") from None
    return document


def _parse_integer(text: str) -> int:
    """Return an integer; one that no 64 bits can hold stands for any that is longer."""
    return int(text) if len(text) <= MAX_INTEGER_DIGITS else 10**MAX_INTEGER_DIGITS


def _is_dense(text: bytes | bytearray) -> bool:
    """Whether JSON may have too many values to be parsed at once. Text may look so too."""
    if len(text) <= MAX_BYTES_AT_ONCE:
        return False
    return sum(map(text.count, (b",", b":", b"[", b"{"))) > MAX_VALUES_AT_ONCE


def _max_text(max_event_bytes: int) -> int:
    """Return how long the text of an event may be without its whitespace and escapes."""
    return MAX_EXPANSION * max_event_bytes + NAMES_BYTES


def _check_size(text: bytes | bytearray, max_event_bytes: int) -> None:
    """Raise EventTooLarge for an event that is too long even without whitespace and escapes."""
    give_turn()
    largest = _max_text(max_event_bytes)
    plain = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    size = quotes = plain.count(b'"')
    if quotes <= largest:  # else the pieces would be too many
        outside = b"".join(plain.split(b'"')[::2])
        inside = len(plain) - quotes - len(outside)
        shortened = 5 * plain.count(b"\\u")
        size += inside - shortened + len(outside.translate(None, b" \t\r\n"))
    if size > largest:
        raise EventTooLarge("data", f"an event is at most {max_event_bytes} bytes")


def _items(body: bytes | bytearray, max_event_bytes: int) -> Iterator[Any]:
    """Yield the items of an array, and give the other requests turns; raises as `parse_json` does.

    The standard library finds where an item ends, since it is lenient. Items after the first
    MAX_EVENTS + 1 are not looked at.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise NotJson("body", f"is not JSON: {error}") from None
    at, turn = _skip_whitespace(text, 0), 0
    if text[_skip_whitespace(text, at + 1) :][:1] == "]":
        return
    for index in range(MAX_EVENTS + 1):
        at = _skip_whitespace(text, at + 1)
        try:
            end = _end_of_item(text, at, max_event_bytes)
            if end >= turn + TURN_BYTES:
                turn = end
                give_turn()
            yield _parse(text[at:end].encode())
        except (InvalidEvent, EventTooLarge) as error:
            raise error.of_item(index) from None
        except NotJson as error:
            raise NotJson(str(index), error.detail) from None
        except (ValueError, RecursionError) as error:
            raise NotJson(str(index), f"is not JSON: {error}") from None
        at = _skip_whitespace(text, end)
        if text[at : at + 1] != ",":
            break
    else:
        return
    if text[at : at + 1] != "]" or _skip_whitespace(text, at + 1) < len(text):
        raise NotJson("body", f"is not JSON: unexpected character (char {at})")


def _end_of_item(text: str, at: int, max_event_bytes: int) -> int:
    """Return where an item ends; raises ValueError if it does not, and EventTooLarge."""
    largest = _max_text(max_event_bytes)
    size = (largest >> SMALLEST_WINDOW) + 1
    while True:
        window = text[at : at + size]
        is_whole = at + size >= len(text)
        try:
            _, end = _LENIENT.raw_decode(window)
            if end < len(window) or is_whole:
                return at + end
        except ValueError:
            if is_whole:
                raise
        if size > largest:
            _check_size(window.encode(), max_event_bytes)
        if size > MAX_BYTES_AT_ONCE:
            give_turn()
        size *= 2


def _skip_whitespace(text: str, at: int) -> int:
    found = _WHITESPACE.match(text, at)
    return found.end() if found else at
