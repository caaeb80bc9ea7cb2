"""What is sent: events as the JSON of a request's body, or as its lines."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import orjson

from ..streaming.new_event import NewEvent, new_event_from


class Lines:
    """Events as lines, which end before the first that fails; its `error` is kept."""

    def __init__(self, events: Iterable[Mapping[str, Any]], max_event_bytes: int):
        self.error: Exception | None = None
        self._max_event_bytes = max_event_bytes
        self._events = events

    def __iter__(self) -> Iterator[bytes]:
        try:
            for index, event in enumerate(self._events):
                new_event, lease_seconds = new_event_from(index, event, self._max_event_bytes)
                yield orjson.dumps(encode_event(new_event, lease_seconds)) + b"\n"
        except Exception as error:  # the caller's too, to be raised once there is the answer
            self.error = error


def encode_event(new_event: NewEvent, lease_seconds: int | None = None) -> dict[str, Any]:
    """An event as it is appended."""
    body = {
        "event_category": new_event.category,
        "event_action": new_event.action,
        "data": orjson.Fragment(new_event.data_json),
        "source": orjson.Fragment(new_event.source_json or b"null"),
    }
    return body if lease_seconds is None else body | {"lease_seconds": lease_seconds}
