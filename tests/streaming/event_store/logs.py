"""Short forms for tests of the event store, and calls in the background."""

import threading
from collections.abc import Callable

import redis

from app.streaming.event import Event
from app.streaming.event_store import EventStore

HOUR = 3600
DAY = 24 * HOUR

# A TTL has fallen by at most this much when a test looks at it.
MAX_TEST_SECONDS = 60


def key(run_id: str) -> str:
    return f"run:{run_id}:events"


def ttl(client: redis.Redis, run_id: str) -> int:
    return client.ttl(key(run_id))


def add_many(store: EventStore, run_id: str, count: int) -> list[str]:
    return [store.add(run_id, "llm", "stream", number) for number in range(count)]


def data_of(events: list[Event]) -> list:
    return [event.data for event in events]


def actions_of(events: list[Event]) -> list[str]:
    return [event.action for event in events]


class InBackground:
    """Makes a call in another thread, and keeps its result or its error."""

    def __init__(self, call: Callable[[], object]):
        self.result: object = None
        self.error: Exception | None = None
        self._call = call
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wait(self) -> object:
        self._thread.join(20)
        assert not self._thread.is_alive(), "the call has not ended"
        if self.error:
            raise self.error
        return self.result

    def _run(self) -> None:
        try:
            self.result = self._call()
        except Exception as error:
            self.error = error
