"""The rows of all workers, in one piece of memory that gunicorn's master maps before it forks.

Any worker reads all rows, so any of them answers for all. A worker that has died leaves its counts
in its row, and the next one counts on there. So there are no more rows than workers at a time.

gunicorn loads this module in its master process, so it imports nothing but the standard library.
"""

import mmap
import time
from collections.abc import MutableSequence
from typing import NamedTuple

from .catalog import DRAINING, LAYOUT, WORKERS_DIED, WORKERS_STARTED
from .values import Gauge, own_row, use

Numbers = MutableSequence[float]

# Workers at a time, those of earlier reloads that still drain among them. The system takes memory
# only for rows that are used.
MAX_ROWS = 1024

_DOUBLE_BYTES = 8
_IS_LIVING, _BEAT = 0, 1  # the places of a row's header


class WorkerRow(NamedTuple):
    """The row that a worker has claimed."""

    rows: "SharedRows"
    number: int

    def join(self) -> None:
        """Count in this row from now on; for a worker, after the fork."""
        self.rows.join(self.number)

    def release(self) -> None:
        """Leave the row to the next worker: this one has ended."""
        self.rows.release(self.number)


class SharedRows:
    """The rows of the workers of one master, which alone claims and releases them.

    `earlier` are those from before a reload. Their memory is used again if it has the same layout.
    """

    def __init__(self, earlier: "SharedRows | None" = None) -> None:
        self.fingerprint = LAYOUT.fingerprint
        self.memory: mmap.mmap
        if earlier is not None and earlier.fingerprint == self.fingerprint:
            self.memory = earlier.memory
        else:
            self.memory = mmap.mmap(-1, MAX_ROWS * LAYOUT.size * _DOUBLE_BYTES)
        self._numbers = memoryview(self.memory).cast("d")

    def claim(self) -> WorkerRow | None:
        """Return a row for a worker that starts, None if all are taken."""
        for number in range(MAX_ROWS):
            row = self._row(number)
            if not row[_IS_LIVING]:
                _forget_gauges(row)
                row[_IS_LIVING] = 1.0
                row[WORKERS_STARTED.first] += 1
                return WorkerRow(self, number)
        return None

    def release(self, number: int) -> None:
        """Leave a row to the next worker that starts; what was counted stays."""
        row = self._row(number)
        if not row[DRAINING.first]:  # one that was stopped has drained
            row[WORKERS_DIED.first] += 1
        row[_IS_LIVING] = 0.0
        _forget_gauges(row)

    def join(self, number: int) -> None:
        """Count in this row from now on; for a worker, after the fork."""
        global _rows
        _rows = self
        use(self._row(number))

    def all(self) -> list[Numbers]:
        """Return the rows that are used, or have been."""
        found: list[Numbers] = []
        for number in range(MAX_ROWS):
            row = self._row(number)
            if not row[WORKERS_STARTED.first]:
                break
            found.append(row)
        return found

    def _row(self, number: int) -> Numbers:
        first = number * LAYOUT.size
        row: Numbers = self._numbers[first : first + LAYOUT.size]  # type: ignore[assignment]
        return row


def _forget_gauges(row: Numbers) -> None:
    row[_BEAT] = 0.0
    for metric in LAYOUT.metrics:
        if isinstance(metric, Gauge):
            for place in range(metric.first, metric.first + metric.places):
                row[place] = 0.0


_rows: SharedRows | None = None  # those of the worker that this process is


def all_rows() -> list[Numbers]:
    """Return the rows of all workers that there have been; outside a worker, the own row."""
    return [own_row()] if _rows is None else _rows.all()


def is_living(row: Numbers) -> bool:
    """Return whether the worker of a row runs."""
    return _rows is None or bool(row[_IS_LIVING])


def beat() -> None:
    """Give a sign of life of this worker's loop."""
    own_row()[_BEAT] = time.monotonic()


def silence_seconds() -> float:
    """Return for how long the loop of some worker has stood still: the longest of all."""
    beats = [row[_BEAT] for row in all_rows() if is_living(row) and row[_BEAT]]
    return max(0.0, time.monotonic() - min(beats)) if beats else 0.0
