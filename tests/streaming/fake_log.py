"""A log in memory for tests of the appender, and errors that it can raise."""

import itertools
import threading
from collections.abc import Callable
from typing import Any

from app.streaming.appender import Appender
from app.streaming.errors import StoreUnavailable
from app.streaming.event_id import EventId
from app.streaming.new_event import Appended, NewEvent


class Log:
    """Stores batches in memory, and records the calls.

    Each call first runs the next one of some functions, which may raise an error. Calls wait
    while `open` is cleared.
    """

    def __init__(self, *at_each: Callable[[], Any]):
        self.batches: list[list[bytes]] = []
        self.calls: list[dict] = []
        self.new_events: list[list[NewEvent]] = []
        self.open = threading.Event()
        self.open.set()
        self._at_each = iter(at_each)
        self._known: dict[str, Appended] = {}

    def __call__(self, new_events: list[NewEvent], **options: Any) -> Appended:
        self.new_events.append(new_events)
        self.calls.append(options)
        self.open.wait(20)
        next(self._at_each, lambda: None)()
        key = options["idempotency_key"]
        if key not in self._known:
            self.batches.append([new_event.data_json for new_event in new_events])
            first = sum(map(len, self.batches[:-1])) + 1
            self._known[key] = Appended(EventId(1, first), first, len(new_events), False)
        return self._known[key]

    @property
    def events(self) -> list[int]:
        return [int(data) for data in itertools.chain.from_iterable(self.batches)]


def unavailable(stored: bool | None = False) -> Callable[[], Any]:
    def fail() -> None:
        raise StoreUnavailable("away", stored)

    return fail


def emit(run: Appender, number: int) -> None:
    run.emit("llm", "stream", number)
