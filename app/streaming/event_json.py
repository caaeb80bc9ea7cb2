"""The JSON of an event's data and source: what it may hold, and how it is read and encoded."""

import math
import re
from collections.abc import Mapping
from enum import Enum
from typing import Any

import orjson

from .errors import EventTooLarge, InvalidEvent

MAX_DEPTH = 128

# Tokens of a language model may end within a surrogate pair. UTF-8 cannot hold half of one.
_ESCAPED_BACKSLASH, _STAND_IN = rb"\\", b"\0\0"  # which JSON does not hold unescaped
_HALF_OF_A_PAIR = re.compile(  # it begins with plain bytes, which are found fast
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD])[c-fC-F][0-9a-fA-F]{2})"
)
# Looking at so many takes 20 ms. A text with more is not mended.
MAX_SURROGATES = 20_000


def read_json(text: bytes | bytearray) -> Any:
    """Parse JSON; half of a surrogate pair becomes U+FFFD. Raises orjson.JSONDecodeError."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        surrogates = text.count(b"\\ud") + text.count(b"\\uD")
        if "surrogate in string" not in error.msg or surrogates > MAX_SURROGATES:
            raise
    text = text.replace(_ESCAPED_BACKSLASH, _STAND_IN)
    text = _HALF_OF_A_PAIR.sub(rb"\\ufffd", text)
    return orjson.loads(text.replace(_STAND_IN, _ESCAPED_BACKSLASH))


def encode_json(field: str, value: Any, max_bytes: int) -> bytes:
    """Return the JSON of the data or the source of an event.

    Any JSON value of depth up to 128 is allowed, with integers from -2^63 to 2^64-1. Half of a
    surrogate pair becomes U+FFFD. Raises InvalidEvent for other values, and EventTooLarge over
    `max_bytes`; both name `field`.
    """
    try:
        text = _write_event_json(value)
    except (TypeError, RecursionError) as error:
        raise InvalidEvent(field, f"cannot be stored as JSON: {error}") from None
    if len(text) > max_bytes:
        raise EventTooLarge(field, f"an event is at most {max_bytes} bytes")
    # Both walks are rare: orjson writes NaN and Infinity as null, and a value is not deeper
    # than the number of its brackets.
    if b"null" in text and _has_non_finite(value):
        raise InvalidEvent(field, "must not hold NaN or Infinity")
    if text.count(b"[") + text.count(b"{") > MAX_DEPTH:
        check_depth(field, orjson.loads(text))
    return text


def write_json(value: Any, options: int | None = None) -> bytes:
    """Return JSON that is to be kept: what orjson returns holds 4 KB more than its length."""
    return b"%b" % orjson.dumps(value, option=options)


def _write_event_json(value: Any) -> bytes:
    try:
        return write_json(value, orjson.OPT_PASSTHROUGH_DATACLASS)
    except TypeError as error:
        if "surrogates" not in str(error):
            raise
    return write_json(_without_halves_of_pairs(value), orjson.OPT_PASSTHROUGH_DATACLASS)


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
    level, depth = [value], 0
    while level:
        containers = [item for item in level if isinstance(item, dict | list)]
        depth += bool(containers)
        if depth > MAX_DEPTH:
            raise InvalidEvent(field, f"must not be nested deeper than {MAX_DEPTH}")
        level = [
            inner
            for item in containers
            for inner in (item.values() if isinstance(item, dict) else item)
        ]


def _has_non_finite(value: Any) -> bool:
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, Mapping):
        return any(map(_has_non_finite, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_has_non_finite, value))
    return False
