"""Producers and viewers that use the project's client, and what they notice."""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable

import requests

from app.client import Client
from app.streaming.errors import StreamingError
from tests.gameday.stage import token

RUNS = [f"day.run-{number}" for number in range(4)]
VIEWERS_EACH = 5
PAUSE_SECONDS = 0.05
PROBE_SECONDS = 0.25
# A request that takes longer is what a person gives up on.
PROBE_PATIENCE_SECONDS = 5


class Load:
    """Appenders, which repeat what fails; viewers, which resume; and a prober, which does neither.

    Attributes:
        answers: what the prober's appends were answered with, and how often.
        seen_at: when each viewer got its last event, by a monotonic clock.
        silence: the longest time without an event of each viewer.
        gaps, resets, wrong: notices, and events that came twice or not at all, of all viewers.
    """

    def __init__(self, url: str):
        self._url = url
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self.answers: Counter[str] = Counter()
        self.slowest = 0.0
        self.stored = 0
        self.seen_at: dict[int, float] = {}
        self.silence: dict[int, float] = {}
        self.gaps = self.resets = self.wrong = 0

    def start(self) -> None:
        """Start all, and wait until every viewer has got an event."""
        for run_id in RUNS:
            self._spawn(self._produce, run_id)
        for number in range(len(RUNS) * VIEWERS_EACH):
            self._spawn(self._view, number)
        self._spawn(self._probe)

    def stop(self) -> None:
        """Let all end. Those that still wait for a server are left."""
        self._over.set()
        until = time.monotonic() + 10
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def forget(self) -> None:
        """Begin a new scene."""
        self.answers.clear()
        self.slowest = 0.0
        self.silence = dict.fromkeys(self.seen_at, 0.0)
        self.gaps = self.resets = self.wrong = 0

    def all_have_seen_since(self, moment: float) -> bool:
        """Whether each viewer has got an event since a moment of the monotonic clock."""
        wanted = len(RUNS) * VIEWERS_EACH
        return len(self.seen_at) == wanted and min(self.seen_at.values()) > moment

    def longest_silence(self) -> float:
        """Return the longest time that a viewer was without an event, or is still."""
        now = time.monotonic()
        return max(max(self.silence.values()), now - min(self.seen_at.values()))

    def _spawn(self, run: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=run, args=args, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _produce(self, run_id: str) -> None:
        client = Client(self._url, token=token(append="day.*"), retry_seconds=3600)
        with client.appender(run_id) as run:
            while not self._over.wait(PAUSE_SECONDS):
                run.emit("llm", "token", {"text": "x" * 40})
                self.stored = run.stored

    def _view(self, number: int) -> None:
        client = Client(self._url, token=token(read="day.*"))
        last = 0
        while not self._over.is_set():
            with contextlib.suppress(StreamingError):
                for event in client.follow(RUNS[number % len(RUNS)], "latest"):
                    now = time.monotonic()
                    if event.category == "gateway":
                        self.gaps += event.action == "gap"
                        self.resets += event.action == "reset"
                        last = 0 if event.action in ("gap", "reset") else last
                        continue
                    before = self.seen_at.get(number, now)
                    self.silence[number] = max(self.silence.get(number, 0.0), now - before)
                    self.seen_at[number] = now
                    self.wrong += bool(last and event.sequence and event.sequence != last + 1)
                    last = event.sequence or 0  # another program gives none
                    if self._over.is_set():
                        return

    def _probe(self) -> None:
        bearer = {"Authorization": f"Bearer {token(append='day.*')}"}
        event = {"event_category": "log", "event_action": "line", "data": "probe"}
        while not self._over.wait(PROBE_SECONDS):
            began = time.monotonic()
            try:
                answer = requests.post(
                    f"{self._url}/runs/day.probe/events",
                    json=event,
                    headers=bearer,
                    timeout=PROBE_PATIENCE_SECONDS,
                )
                found = str(answer.status_code)
            except requests.Timeout:
                found = f"nothing in {PROBE_PATIENCE_SECONDS} s"
            except requests.RequestException:
                found = "a broken connection"
            self.answers[found] += 1
            self.slowest = max(self.slowest, time.monotonic() - began)
