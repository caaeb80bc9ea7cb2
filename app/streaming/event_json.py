"""The JSON of an event's data and source: what it may hold, and how it is encoded."""

import json
from enum import Enum
from typing import Any

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


def encode_json(field: str, value: Any, max_bytes: int) -> bytes:
    """Return the JSON of the data or the source of an event.

    Any JSON value of depth up to 128 is allowed, with integers from -2^63 to 2^64-1. Raises
    InvalidEvent for other values, and EventTooLarge over `max_bytes`; both name `field`.
    """
    try:
        text = write_json(value, _OPTIONS)
    except TypeError as error:
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
