"""Reads the events that a gateway sends: from the pages of a history, and from streams."""

from sys import intern  # most events share their texts
from typing import Any

import orjson

from ..streaming.event import Event
from ..streaming.event_json import write_json
from .responses import not_a_gateway

_NULL = b"null"


def parse_event(status: int, document: Any) -> Event:
    """Return the event of a JSON document. The id and sequence of a control event are None.

    Raises Refused, with the `status` of the response, for another document.
    """
    try:
        event = Event(
            id=document["id"],
            run_id=intern(document["run_id"] or ""),  # null if it is about several runs
            sequence=document["sequence"],
            timestamp=document["timestamp"],
            category=intern(document["event"]["category"]),
            action=intern(document["event"]["action"]),
            data_json=_encode_json(document["data"]),
            source_json=_encode_json(document["source"]),
            traceparent=document.get("traceparent"),
        )
    except (LookupError, TypeError, AttributeError) as error:
        raise not_a_gateway(status, f"an event lacks {error}") from None
    if not (
        (type(event.id) is str or event.id is None)
        and (type(event.sequence) is int or event.sequence is None)
        and (type(event.timestamp) is str or event.timestamp is None)
        and (type(event.traceparent) is str or event.traceparent is None)
    ):
        raise not_a_gateway(status, "a part of an event has another type")
    return event


def parse_message(status: int, data: str | bytes) -> Event:
    """Return the event of a message of a stream. Raises Refused for other data."""
    return parse_event(status, _parse(status, data))


def parse_batch(status: int, data: str) -> list[Event]:
    """Return the event of a message of a stream of several runs, or its events if it is a batch.

    Raises Refused for other data.
    """
    document = _parse(status, data)
    if document == []:
        raise not_a_gateway(status, "a batch is empty")
    documents = document if isinstance(document, list) else [document]
    return [parse_event(status, each) for each in documents]


def _parse(status: int, data: str | bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise not_a_gateway(status, str(error)) from None


def _encode_json(value: Any) -> bytes:
    if value is None:
        return _NULL
    try:
        return write_json(value)
    except TypeError:  # deeper than orjson writes: another program can XADD such data
        return _encode_deep_json(value)


def _encode_deep_json(value: Any) -> bytes:
    """Encode without recursion, which ends at a depth that depends on the caller."""
    parts: list[bytes] = []
    left: list[Any] = [value]  # in reverse; bytes are already encoded
    while left:
        item = left.pop()
        if isinstance(item, bytes):
            parts.append(item)
        elif isinstance(item, dict):
            left.append(b"}")
            for name, inner in reversed(item.items()):
                left += (inner, orjson.dumps(name) + b":", b",")
            left[-1:] = [b"{"] if item else [b"}", b"{"]
        elif isinstance(item, list):
            left.append(b"]")
            for inner in reversed(item):
                left += (inner, b",")
            left[-1:] = [b"["] if item else [b"]", b"["]
        else:
            parts.append(orjson.dumps(item))
    return b"".join(parts)
