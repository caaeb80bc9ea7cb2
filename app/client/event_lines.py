"""The lines of a stream of events, encoded while the events come."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..protocol.request_body import encode_line


class EventLines:
    """Encodes events as lines. The first event that fails ends them, and `error` is its error."""

    def __init__(self, events: Iterable[Mapping[str, Any]], max_event_bytes: int):
        self.error: Exception | None = None
        self._max_event_bytes = max_event_bytes
        self._events = events

    def __iter__(self) -> Iterator[bytes]:
        try:
            for index, event in enumerate(self._events):
                yield encode_line(index, event, self._max_event_bytes)
        except Exception as error:  # also of the caller's iterable; raised after the response
            self.error = error
