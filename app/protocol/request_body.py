"""The body of an append request: events as JSON, or as lines of JSON while they come."""

from collections.abc import Mapping
from typing import Any

import orjson

from ..streaming.new_event import NewEvent, new_event_from


def encode_line(index: int, event: Mapping[str, Any], max_event_bytes: int) -> bytes:
    """Return one event of a stream as a line. Raises as `new_event_from` does."""
    new_event, lease_seconds = new_event_from(index, event, max_event_bytes)
    return orjson.dumps(encode_event(new_event, lease_seconds)) + b"\n"


def encode_event(new_event: NewEvent, lease_seconds: int | None = None) -> dict[str, Any]:
    """Return an event as the document that the gateway expects."""
    document = {
        "event_category": new_event.category,
        "event_action": new_event.action,
        "data": orjson.Fragment(new_event.data_json),
        "source": orjson.Fragment(new_event.source_json or b"null"),
    }
    if new_event.traceparent:
        document["traceparent"] = new_event.traceparent.decode()
    return document if lease_seconds is None else document | {"lease_seconds": lease_seconds}


def encode_request(new_event: NewEvent) -> dict[str, Any]:
    """Return a request to a producer as the document that the gateway expects.

    Its traceparent is a header.
    """
    return {
        "action": new_event.action,
        "data": orjson.Fragment(new_event.data_json),
        "source": orjson.Fragment(new_event.source_json or b"null"),
    }
