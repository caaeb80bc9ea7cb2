"""Values of programs as JSON that an event can hold."""

import math
from collections.abc import Mapping
from itertools import islice
from typing import Any

MAX_DEPTH = 8
MAX_ITEMS = 1000


def plain(value: Any, depth: int = MAX_DEPTH) -> Any:
    """Return a value with what JSON cannot hold as text, and models of pydantic as objects."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**64 else str(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else repr(value)
    if isinstance(value, str):
        return str(value)
    if depth and isinstance(value, Mapping):
        pairs = islice(value.items(), MAX_ITEMS)
        return {text_of(name): plain(inner, depth - 1) for name, inner in pairs}
    if depth and isinstance(value, list | tuple):
        return [plain(inner, depth - 1) for inner in value[:MAX_ITEMS]]
    if depth and callable(dump := getattr(value, "model_dump", None)):
        try:
            return plain(dump(mode="json"), depth - 1)
        except Exception:  # of the program's own model
            return text_of(value)
    return text_of(value)


def text_of(value: Any) -> str:
    """Return a string as it is, and the `repr` of another value."""
    try:
        return value if isinstance(value, str) else repr(value)
    except Exception:
        return f"<unprintable {type(value).__name__}>"


def text_of_error(error: BaseException) -> str:
    """Return the type and the message of an error, as in `ValueError: too large`."""
    try:
        message = str(error)
    except Exception:
        message = "<unprintable>"
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def cut(value: Any, length: int) -> Any:
    """Return a plain value with texts, arrays and objects of at most about `length`."""
    if isinstance(value, str):
        left_out = len(value) - length
        return value if left_out <= 0 else f"{value[:length]} … {left_out} characters cut"
    if isinstance(value, dict):
        pairs = islice(value.items(), length)
        return {name[:length]: cut(inner, length) for name, inner in pairs}
    if isinstance(value, list):
        return [cut(inner, length) for inner in value[:length]]
    return value
