"""Heartbeats of parked subscribers: one loop for all, each in its own moment of the interval."""

import logging
import threading
import time
from collections import defaultdict
from typing import Protocol

SENDS_IN_A_ROW = 256

# A timer may be a little early.
MIN_SLEEP_SECONDS = 0.01

log = logging.getLogger("tailrace.stream")


class Beats(Protocol):
    """What the heartbeats needs of a subscriber."""

    def beat(self, now: float) -> float:
        """Do what is due; when to come back (a monotonic time), or 0 for never."""


class Heartbeats:
    """Calls each subscriber when its heartbeat may be due.

    They are kept by slots of time, so that a tick costs those who are due in it, and no
    timer is needed for each.
    """

    def __init__(self, heartbeat_seconds: float):
        self._tick = min(0.25, heartbeat_seconds / 8)
        self._heartbeat_seconds = heartbeat_seconds
        self._slots: defaultdict[int, list[Beats]] = defaultdict(list)
        self._next_slot = 0
        self._started = False

    def add(self, subscriber: Beats) -> None:
        """See to the heartbeats of a subscriber from now on."""
        if not self._started:
            self._started = True
            self._next_slot = self._slot(time.monotonic())
            threading.Thread(target=self._run, name="tailrace-pulse", daemon=True).start()
        self._put(subscriber, time.monotonic() + self._heartbeat_seconds)

    def _run(self) -> None:
        while True:
            time.sleep(self._until_next(time.monotonic()))
            self.tick(time.monotonic())

    def _until_next(self, now: float) -> float:
        """How long to sleep until somebody is due: whoever is added meanwhile is due later."""
        if not self._slots:
            return self._heartbeat_seconds
        return max(MIN_SLEEP_SECONDS, min(self._slots) * self._tick - now)

    def tick(self, now: float) -> None:
        """See to all who are due by `now`."""
        while self._next_slot <= self._slot(now):
            due = self._slots.pop(self._next_slot, ())
            self._next_slot += 1
            for number, subscriber in enumerate(due, 1):
                try:
                    again = subscriber.beat(now)
                except Exception:
                    log.exception("a heartbeat failed")
                    continue
                if again:
                    self._put(subscriber, again)
                if number % SENDS_IN_A_ROW == 0:
                    time.sleep(0)

    def _put(self, subscriber: Beats, due: float) -> None:
        # Rounded up, and never into a slot that is over.
        self._slots[max(self._slot(due) + 1, self._next_slot)].append(subscriber)

    def _slot(self, moment: float) -> int:
        return int(moment / self._tick)
