"""The JSON of an event's data and source: what it may hold, and how it is read and encoded."""

import json
import re
from enum import Enum
from typing import Any

import msgspec
import orjson

from .errors import EventTooLarge, InvalidEvent

MAX_DEPTH = 128

_OPTIONS = orjson.OPT_PASSTHROUGH_DATACLASS

# Of another encoder, which refuses NaN and Infinity. It writes what it does not know as null.
_STRICT = json.JSONEncoder(
    allow_nan=False,
    check_circular=False,
    default=lambda value: value.value if isinstance(value, Enum) else None,
)

# Tokens of a language model may end within a surrogate pair. UTF-8 cannot hold half of one.
_ESCAPED_BACKSLASH, _STAND_IN = rb"\\", b"\0\0"  # which JSON does not hold
_HALF_OF_A_PAIR = re.compile(  # it begins with plain bytes, which are found fast
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD])[c-fC-F][0-9a-fA-F]{2})"
)
# Looking at so many takes 20 ms. A text with more is not mended.
MAX_SURROGATES = 20_000


def read_json(text: bytes | bytearray) -> tuple[Any, bytes | bytearray]:
    """Parse JSON, and return the value and the text without halves of surrogate pairs.

    Each becomes U+FFFD. Raises orjson.JSONDecodeError.
    """
    try:
        return orjson.loads(text), text
    except orjson.JSONDecodeError as error:
        surrogates = text.count(b"\\ud") + text.count(b"\\uD")
        if "surrogate in string" not in error.msg or surrogates > MAX_SURROGATES or b"\0" in text:
            raise
    text = text.replace(_ESCAPED_BACKSLASH, _STAND_IN)
    text = _HALF_OF_A_PAIR.sub(rb"\\ufffd", text)
    text = text.replace(_STAND_IN, _ESCAPED_BACKSLASH)
    return orjson.loads(text), text


# A long text with a value for every so many bytes is checked by a parser that makes no values of
# it, in a tenth of the time. For others orjson is faster.
MIN_SKIMMED_BYTES = 16 * 1024
MAX_BYTES_A_VALUE = 100

_skim = msgspec.json.Decoder(msgspec.Raw).decode
# It takes numbers of any size, where orjson takes those of a double.
_DIGITS_AS_ZEROS = bytes.maketrans(b"123456789E", b"0" * 9 + b"e")
_LARGE_NUMBERS = (b"e000", b"e+000", b"0" * 300)


def is_json(text: bytes) -> bool:
    """Return whether orjson can parse a text."""
    is_dense = len(text) > MIN_SKIMMED_BYTES and text.count(b",") * MAX_BYTES_A_VALUE > len(text)
    if is_dense and _is_plainly_json(text):
        return True
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def _is_plainly_json(text: bytes) -> bool:
    try:
        _skim(text)
        text.isascii() or text.decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    zeros = text.translate(_DIGITS_AS_ZEROS)
    return not any(number in zeros for number in _LARGE_NUMBERS)


def encode_json(field: str, value: Any, max_bytes: int) -> bytes:
    """Return the JSON of the data or the source of an event.

    Any JSON value of depth up to 128 is allowed, with integers from -2^63 to 2^64-1. Half of a
    surrogate pair becomes U+FFFD. Raises InvalidEvent for other values, and EventTooLarge over
    `max_bytes`; both name `field`.
    """
    try:
        value, text = _write_event_json(value)
    except (TypeError, RecursionError) as error:
        raise InvalidEvent(field, f"cannot be stored as JSON: {error}") from None
    if len(text) > max_bytes:
        raise EventTooLarge(field, f"an event is at most {max_bytes} bytes")
    # Both checks are rare: orjson writes NaN and Infinity as null, and a value is not deeper
    # than the number of its brackets. They walk in C, since a client decides how far.
    if b"null" in text and _has_non_finite(value):
        raise InvalidEvent(field, "must not hold NaN or Infinity")
    if text.count(b"[") + text.count(b"{") > MAX_DEPTH:
        check_depth(field, value)
    return text


def write_json(value: Any, options: int | None = None) -> bytes:
    """Return JSON that is to be kept: what orjson returns holds 4 KB more than its length."""
    return b"%b" % orjson.dumps(value, option=options)


def _write_event_json(value: Any) -> tuple[Any, bytes]:
    """Return a value, mended where that is needed, and its JSON."""
    try:
        return value, write_json(value, _OPTIONS)
    except TypeError as error:
        if "surrogates" not in str(error):
            raise
    value = _without_halves_of_pairs(value)
    return value, write_json(value, _OPTIONS)


def _without_halves_of_pairs(value: Any) -> Any:
    if isinstance(value, str):
        # UTF-16 joins two halves that follow one another.
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, dict):
        return {
            _without_halves_of_pairs(name): _without_halves_of_pairs(inner)
            for name, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_without_halves_of_pairs(inner) for inner in value]
    return value


def check_depth(field: str, value: Any) -> None:
    """Raise InvalidEvent, naming `field`, if a JSON value is nested deeper than MAX_DEPTH."""
    try:
        orjson.dumps(_nested(value, _MAX_DUMPED_DEPTH - MAX_DEPTH), option=_OPTIONS)
    except TypeError:
        raise InvalidEvent(field, f"must not be nested deeper than {MAX_DEPTH}") from None


def _nested(value: Any, levels: int) -> Any:
    for _ in range(levels):
        value = [value]
    return value


def _max_dumped_depth() -> int:
    """Return how many levels orjson encodes: 254 in version 3."""
    depth = MAX_DEPTH
    try:
        while True:
            orjson.dumps(_nested(None, depth + 1))
            depth += 1
    except TypeError:
        return depth


_MAX_DUMPED_DEPTH = _max_dumped_depth()


def _has_non_finite(value: Any) -> bool:
    try:
        _STRICT.encode(value)
    except ValueError:
        return True
    return False
