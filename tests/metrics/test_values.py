"""Counters, gauges and histograms, and where their numbers lie."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.metrics.catalog import LAYOUT
from app.metrics.values import Counter, Gauge, Histogram, Layout, own_row, use


@pytest.fixture(autouse=True)
def _own_row():
    before = own_row()
    yield
    use(before)


def test_each_combination_of_labels_has_a_place_of_its_own():
    counter = Counter("a_total", "A", way=("x", "y"), outcome=("1", "2", "3"))
    other = Gauge("b", "B")
    layout = Layout([counter, other])
    row = [0.0] * layout.size
    use(row)
    for number, labels in enumerate(counter.label_values(), 1):
        counter.of(*labels).add(number)
    other.set(7)
    assert row[counter.first : counter.first + counter.places] == [1, 2, 3, 4, 5, 6]
    assert row[other.first] == 7


@pytest.mark.parametrize("labels", [("x",), ("z", "1"), ("1", "x"), ()])
def test_a_value_that_no_label_has_is_refused(labels):
    counter = Counter("a_total", "A", way=("x", "y"), outcome=("1", "2"))
    with pytest.raises(ValueError, match=r"not in tuple|zip\(\)"):
        counter.of(*labels)


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(1, 5)), max_size=30))
def test_a_histogram_counts_each_value_in_the_first_bucket_that_holds_it(observed):
    histogram = Histogram("h", "H", (0.1, 1.0, 10.0))
    layout = Layout([histogram])
    use([0.0] * layout.size)
    for value, times in observed:
        histogram.observe(value, times)
    *counts, total = own_row()[histogram.first : histogram.first + histogram.places]
    for number, bound in enumerate([*histogram.bounds, math.inf]):
        expected = sum(times for value, times in observed if value <= bound)
        assert sum(counts[: number + 1]) == expected
    assert total == pytest.approx(sum(value * times for value, times in observed))


def test_no_two_metrics_share_a_place_or_a_name():
    places = [
        place
        for metric in LAYOUT.metrics
        for place in range(metric.first, metric.first + metric.places)
    ]
    assert len(places) == len(set(places)) == LAYOUT.size - min(places)
    names = [metric.name for metric in LAYOUT.metrics]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "others",
    [
        [Counter("a_total", "A", kind=("x", "z")), Histogram("b", "B", (1, 2))],
        [Counter("a_total", "A", kind=("y", "x")), Histogram("b", "B", (1, 2))],
        [Counter("a_total", "A", sort=("x", "y")), Histogram("b", "B", (1, 2))],
        [Counter("a_total", "A", kind=("x", "y")), Histogram("b", "B", (1, 3))],
        [Histogram("b", "B", (1, 2)), Counter("a_total", "A", kind=("x", "y"))],
    ],
)
def test_other_values_of_a_label_and_other_bounds_are_another_layout(others):
    mine = Counter("a_total", "A", kind=("x", "y")), Histogram("b", "B", (1, 2))
    same = Counter("a_total", "Help", kind=("x", "y")), Histogram("b", "B", (1, 2))
    assert Layout(mine).fingerprint == Layout(same).fingerprint
    assert Layout(mine).fingerprint != Layout(others).fingerprint
