"""The metrics as a program uses them: each has places in the row of numbers of this process.

A row is an array of doubles. A worker's row lies in memory that all workers share (`shared_rows`).
Only the worker writes there, and a count is one addition and one store. So there is no lock, and
no message to another process. Under a server with threads, two of them may lose a count.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping, MutableSequence, Sequence
from itertools import product
from typing import Literal

Labels = Mapping[str, Sequence[str]]
Aggregate = Literal["sum", "max", "min"]

# The first places of a row say whose it is; `shared_rows` has them.
HEADER = 2

_row: MutableSequence[float] = array("d")


class Metric:
    """A metric with places in each row, one for each combination of its labels' values.

    Attributes:
        name: in the format of Prometheus, with its unit; a counter's ends with `_total`.
        help: what it says, in a sentence without its full stop.
        labels: their names, each with all values that it may have.
        first: the index of its first place.
        places: how many it has.
        bounds: the upper bounds of a histogram's buckets, none for any other metric.
    """

    kind: str
    places_each = 1
    bounds: Sequence[float] = ()

    def __init__(self, name: str, help: str, **labels: Sequence[str]) -> None:
        self.name = name
        self.help = help
        self.labels: Labels = labels
        self.first = 0
        self.places = self.places_each
        for values in labels.values():
            self.places *= len(values)

    def label_values(self) -> Iterator[tuple[str, ...]]:
        """Yield all combinations of the labels' values, in the order of the places."""
        yield from product(*self.labels.values())

    def _index(self, *values: str) -> int:
        index = 0
        for known, value in zip(self.labels.values(), values, strict=True):
            index = index * len(known) + known.index(value)
        return self.first + index * self.places_each


class Counter(Metric):
    """A number that only grows, over all workers that there have been."""

    kind = "counter"

    def add(self, amount: float = 1.0) -> None:
        """Count `amount`; for a metric without labels."""
        _row[self.first] += amount

    def of(self, *values: str) -> "Place":
        """Return the place for some values of the labels. Raises ValueError for unknown ones."""
        return Place(self._index(*values))


class Gauge(Metric):
    """A number that goes up and down; over all living workers it is aggregated."""

    kind = "gauge"

    def __init__(
        self, name: str, help: str, aggregate: Aggregate = "sum", **labels: Sequence[str]
    ) -> None:
        super().__init__(name, help, **labels)
        self.aggregate = aggregate

    def set(self, value: float) -> None:
        """Note the present value; for a metric without labels."""
        _row[self.first] = value

    def of(self, *values: str) -> "Place":
        """Return the place for some values of the labels. Raises ValueError for unknown ones."""
        return Place(self._index(*values))


class Place:
    """One number of a counter or gauge with labels."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index

    def add(self, amount: float = 1.0) -> None:
        """Count `amount`."""
        _row[self.index] += amount

    def set(self, value: float) -> None:
        """Note the present value."""
        _row[self.index] = value


class Histogram(Metric):
    """How often a value lay in which bucket, and the sum of all values.

    `bounds` are the upper bounds of the buckets; the last bucket has none.
    """

    kind = "histogram"

    def __init__(self, name: str, help: str, bounds: Sequence[float]) -> None:
        self.bounds = list(bounds)
        self.places_each = len(bounds) + 2  # the last bucket, and the sum
        super().__init__(name, help)

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value, or the same value several times."""
        first = self.first
        _row[first + bisect_left(self.bounds, value)] += times
        _row[first + self.places_each - 1] += value * times


class Layout:
    """Where each metric has its places in a row."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self.metrics = tuple(metrics)
        self.size = HEADER
        for metric in metrics:
            metric.first = self.size
            self.size += metric.places

    @property
    def fingerprint(self) -> tuple[object, ...]:
        """What two versions of the program must have in common to share rows."""
        return tuple(
            (metric.name, metric.first, tuple(metric.labels.items()), tuple(metric.bounds))
            for metric in self.metrics
        )


def use(row: MutableSequence[float]) -> None:
    """Count in this row from now on."""
    global _row
    _row = row


def own_row() -> MutableSequence[float]:
    """Return the row in which this process counts."""
    return _row
