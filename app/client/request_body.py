"""The body of an append request: events as JSON, or as lines of JSON while they come."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import orjson

from ..streaming.new_event import NewEvent, new_event_from


class EventLines:
    """Encodes events as lines. The first event that fails ends them, and `error` is its error."""

    def __init__(self, events: Iterable[Mapping[str, Any]], max_event_bytes: int):
        self.error: Exception | None = None
        self._max_event_bytes = max_event_bytes
        self._events = events

    def __iter__(self) -> Iterator[bytes]:
        try:
            for index, event in enumerate(self._events):
                new_event, lease_seconds = new_event_from(index, event, self._max_event_bytes)
                yield orjson.dumps(encode_event(new_event, lease_seconds)) + b"\n"
        except Exception as error:  # also of the caller's iterable; raised after the response
            self.error = error


def encode_event(new_event: NewEvent, lease_seconds: int | None = None) -> dict[str, Any]:
    """Return an event as the document that the gateway expects."""
    document = {
        "event_category": new_event.category,
        "event_action": new_event.action,
        "data": orjson.Fragment(new_event.data_json),
        "source": orjson.Fragment(new_event.source_json or b"null"),
    }
    return document if lease_seconds is None else document | {"lease_seconds": lease_seconds}


def encode_request(new_event: NewEvent) -> dict[str, Any]:
    """Return a request to a producer as the document that the gateway expects."""
    return {
        "action": new_event.action,
        "data": orjson.Fragment(new_event.data_json),
        "source": orjson.Fragment(new_event.source_json or b"null"),
    }
