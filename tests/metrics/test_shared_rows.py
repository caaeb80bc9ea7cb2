"""Rows that processes share: claimed, counted in, left, and claimed again."""

import os
import time

import pytest

from app.metrics import shared_rows
from app.metrics.catalog import APPENDED_EVENTS, LAYOUT, STREAMS_OPEN, WORKERS
from app.metrics.shared_rows import SharedRows, all_rows, is_living, silence_seconds
from app.metrics.values import own_row, use

EVENTS = APPENDED_EVENTS.of("plain")
OPEN = STREAMS_OPEN.of("stream")


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    before = own_row()
    monkeypatch.setattr(shared_rows, "_rows", None)
    yield
    use(before)


def in_child(do) -> None:
    """Run something in a forked process, as a worker does."""
    pid = os.fork()
    if not pid:
        try:
            do()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def total(place) -> float:
    return sum(row[place.index] for row in all_rows())


def test_what_a_forked_worker_counts_is_seen_by_all():
    rows = SharedRows()
    mine, other = rows.claim(), rows.claim()

    def work() -> None:
        other.join()
        for _ in range(1000):
            EVENTS.add()

    in_child(work)
    mine.join()
    EVENTS.add(5)
    assert total(EVENTS) == 1005


def test_a_dead_workers_counts_stay_and_its_gauges_go():
    rows = SharedRows()
    mine, other = rows.claim(), rows.claim()
    mine.join()
    assert [is_living(row) for row in all_rows()] == [False, False]  # they have noted nothing yet
    shared_rows.beat()

    def work() -> None:
        other.join()
        shared_rows.beat()
        EVENTS.add(3)
        OPEN.add(2)
        WORKERS.set(1)

    in_child(work)
    assert (total(EVENTS), total(OPEN)) == (3, 2)
    other.release()
    assert (total(EVENTS), total(OPEN)) == (3, 0)
    assert [is_living(row) for row in all_rows()] == [True, False]
    again = rows.claim()
    assert again.number == other.number
    in_child(lambda: (again.join(), EVENTS.add(4)))
    assert total(EVENTS) == 7


def test_memory_goes_on_after_a_reload_with_the_same_metrics():
    rows = SharedRows()
    first = rows.claim()
    first.join()
    EVENTS.add(2)
    after = SharedRows(rows)
    assert after.memory is rows.memory
    second = after.claim()
    assert second.number == 1
    second.join()
    EVENTS.add()
    first.release()  # by the code of before
    assert total(EVENTS) == 3
    assert after.claim().number == 0


def test_other_metrics_after_a_reload_get_memory_of_their_own():
    rows = SharedRows()
    rows.fingerprint = (("another", 1),)
    assert SharedRows(rows).memory is not rows.memory


def test_more_workers_than_rows_count_for_themselves(monkeypatch):
    monkeypatch.setattr(shared_rows, "MAX_ROWS", 2)
    rows = SharedRows()
    assert [rows.claim().number, rows.claim().number] == [0, 1]
    assert rows.claim() is None


def test_outside_a_worker_there_is_one_row():
    assert all_rows() == [own_row()]
    assert is_living(own_row())


def test_the_silence_is_that_of_the_worker_that_is_silent_for_longest(monkeypatch):
    rows = SharedRows()
    mine, other, booting = rows.claim(), rows.claim(), rows.claim()
    now = time.monotonic()
    monkeypatch.setattr(shared_rows.time, "monotonic", lambda: now)
    other.join()
    shared_rows.beat()
    now += 40
    mine.join()
    shared_rows.beat()
    assert silence_seconds() == pytest.approx(40)
    other.release()
    assert silence_seconds() == 0
    assert booting.number == 2  # it has not begun, and does not count


def test_a_row_takes_memory_only_when_it_is_used():
    rows = SharedRows()
    assert len(rows.memory) == shared_rows.MAX_ROWS * LAYOUT.size * 8
    assert rows.all() == []
