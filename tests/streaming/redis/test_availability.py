"""The clock of all leases, with the time replaced."""

import pytest

from app.streaming.redis import availability
from app.streaming.redis.availability import MAX_DELAY_SECONDS, Availability
from tests.clocks import replace_time


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.now = 1000.0
        monotonic, wall = lambda: self.now, lambda: 1e9 + self.now
        replace_time(monkeypatch, availability, monotonic=monotonic, time=wall)
        monkeypatch.setattr(availability, "_tick", lambda reference: None)  # only the test ticks


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_a_tick_that_comes_late_counts_every_lease_anew(clock):
    available = Availability(lambda: None)
    before = available.since()
    clock.now += MAX_DELAY_SECONDS
    assert available.since() == before
    clock.now += MAX_DELAY_SECONDS + 0.1
    assert available.since() == clock.now


def test_the_time_before_the_first_lease_is_no_pause(clock):
    """The thread's first tick may come after that of the thread that has begun to watch."""
    available = Availability(lambda: None)
    clock.now += 10
    available.watch()
    begun = clock.now
    clock.now += 0.1
    available.tick()
    assert available.since() == begun


def test_a_thread_that_read_the_time_long_ago_does_not_set_the_clock_back(clock):
    available = Availability(lambda: None)
    available.watch()
    late, clock.now = clock.now + 5, clock.now + 60
    available.interrupted()
    now, clock.now = clock.now, late  # it read the time here, and only now goes on
    available.tick()
    clock.now = now
    assert available._since == now


def test_a_closed_clock_counts_every_lease_anew(clock):
    available = Availability(lambda: None)
    available.close()
    for _ in range(2):
        clock.now += 0.1
        assert available.since() == clock.now
