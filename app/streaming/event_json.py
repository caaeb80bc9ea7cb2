"""The JSON of an event's data and source: what it may hold, and how it is encoded."""

import math
from collections.abc import Mapping
from enum import Enum
from typing import Any

import orjson

from .errors import EventTooLarge, InvalidEvent

MAX_DEPTH = 128


def encode_json(field: str, value: Any, max_bytes: int) -> bytes:
    """Return the JSON of the data or the source of an event.

    Any JSON value of depth up to 128 is allowed, with integers from -2^63 to 2^64-1. Raises
    InvalidEvent for other values, and EventTooLarge over `max_bytes`; both name `field`.
    """
    try:
        text = write_json(value, orjson.OPT_PASSTHROUGH_DATACLASS)
    except TypeError as error:
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
