"""Limits by name in one worker: a bucket of tokens for each subject or address."""

import time
from collections import OrderedDict

# So many names are remembered, those used last. A forgotten one begins with a full bucket.
MAX_NAMES = 10_000


class Rate:
    """So many a second for each name, and as many at once (a token bucket)."""

    def __init__(self, per_second: float, burst: float) -> None:
        self._per_second = per_second
        self._burst = burst
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def seconds_until(self, name: str, cost: float) -> float:
        """Return after how many seconds `cost` may be taken: 0 for now. More than the burst may.

        It may be taken when the bucket is full.
        """
        level = self._level(name, time.monotonic())
        return max(0.0, (min(cost, self._burst) - level) / self._per_second)

    def take(self, name: str, cost: float) -> None:
        """Take from the bucket of a name, below zero too."""
        now = time.monotonic()
        self._buckets[name] = self._level(name, now) - cost, now
        self._buckets.move_to_end(name)
        if len(self._buckets) > MAX_NAMES:
            self._buckets.popitem(last=False)

    def _level(self, name: str, now: float) -> float:
        level, at = self._buckets.get(name, (self._burst, now))
        return min(self._burst, level + (now - at) * self._per_second)
