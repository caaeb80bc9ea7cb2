"""Follows a run in the background, and waits for its events."""

import threading
from collections.abc import Callable

from app.client import Client
from app.streaming.event import Event
from tests.servers import wait_until


class Following:
    """Follows a run in the background."""

    def __init__(self, client: Client, run_id: str, *arguments: object, **options: object):
        self.events: list[Event] = []
        self.ended = False
        self._stream = client.follow(run_id, *arguments, **options)
        threading.Thread(target=self._run, daemon=True).start()

    @property
    def data(self) -> list:
        return [event.data for event in list(self.events) if event.category == "llm"]

    def wait_for(self, predicate: Callable[[], object]) -> None:
        wait_until(predicate, f"the expected events among {self.events}")

    def wait_for_data(self, *data: object) -> None:
        self.wait_for(lambda: self.data == list(data))

    def wait_for_control(self, action: str) -> None:
        self.wait_for(lambda: any(event.action == action for event in list(self.events)))

    def _run(self) -> None:
        for event in self._stream:
            self.events.append(event)
        self.ended = True
