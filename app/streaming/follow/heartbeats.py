"""Heartbeats of parked subscribers: one loop serves all, each at its own time."""

import logging
import threading
import time
from collections import defaultdict
from typing import Protocol

# After this many sends the loop gives way to other greenlets.
MAX_SENDS_IN_A_ROW = 256

# A timer may fire a little early.
MIN_SLEEP_SECONDS = 0.01

log = logging.getLogger("tailrace.stream")


class HeartbeatSubscriber(Protocol):
    """What the heartbeats need of a subscriber."""

    def beat(self, now: float) -> float:
        """Send a heartbeat if one is due.

        Returns the monotonic time at which to call again, or 0 for never.
        """


class Heartbeats:
    """Calls each subscriber when its heartbeat may be due.

    Subscribers are grouped by the time slot in which they are due. A tick costs only those of
    its slots, and no subscriber needs a timer.
    """

    def __init__(self, heartbeat_seconds: float):
        self._tick = min(0.25, heartbeat_seconds / 8)
        self._heartbeat_seconds = heartbeat_seconds
        self._slots: defaultdict[int, list[HeartbeatSubscriber]] = defaultdict(list)
        self._next_slot = 0
        self._started = False

    def add(self, subscriber: HeartbeatSubscriber) -> None:
        """Call a subscriber from now on, first after one heartbeat interval."""
        if not self._started:
            self._started = True
            self._next_slot = self._slot(time.monotonic())
            threading.Thread(target=self._run, name="tailrace-heartbeats", daemon=True).start()
        self._put(subscriber, time.monotonic() + self._heartbeat_seconds)

    def _run(self) -> None:
        while True:
            time.sleep(self._seconds_to_next(time.monotonic()))
            self.tick(time.monotonic())

    def _seconds_to_next(self, now: float) -> float:
        """Return how long to sleep until a subscriber is due.

        A subscriber that is added during the sleep is due later.
        """
        if not self._slots:
            return self._heartbeat_seconds
        return max(MIN_SLEEP_SECONDS, min(self._slots) * self._tick - now)

    def tick(self, now: float) -> None:
        """Call every subscriber that is due by `now`."""
        while self._next_slot <= self._slot(now):
            due = self._slots.pop(self._next_slot, ())
            self._next_slot += 1
            for number, subscriber in enumerate(due, 1):
                try:
                    next_call = subscriber.beat(now)
                except Exception:
                    log.exception("a heartbeat failed")
                    continue
                if next_call:
                    self._put(subscriber, next_call)
                if number % MAX_SENDS_IN_A_ROW == 0:
                    time.sleep(0)

    def _put(self, subscriber: HeartbeatSubscriber, due: float) -> None:
        # Rounded up, and never into a slot that is over.
        self._slots[max(self._slot(due) + 1, self._next_slot)].append(subscriber)

    def _slot(self, moment: float) -> int:
        return int(moment / self._tick)
