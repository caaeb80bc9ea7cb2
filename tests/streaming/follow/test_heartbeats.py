"""Heartbeats: each comes in its interval, none is lost or doubled, and they are spread."""

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace

import pytest

from app.streaming.follow import heartbeats as heartbeats_module
from app.streaming.follow.heartbeats import Heartbeats
from tests.clocks import replace_time

INTERVAL = 15.0
TICK = 0.25
# A heartbeat is sent at the tick after it is due.
MAX_DELAY = 2 * TICK


class ThreadThatWaits:
    """A thread that is started and does nothing."""

    def __init__(self, **arguments: object):
        self.start = lambda: None


class Clock:
    """A clock that the test moves; the loop of the heartbeats does not run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.now = 1000.0
        self.pauses = 0
        replace_time(monkeypatch, heartbeats_module, monotonic=lambda: self.now, sleep=self._pause)
        monkeypatch.setattr(heartbeats_module, "threading", SimpleNamespace(Thread=ThreadThatWaits))

    def run(self, heartbeats: Heartbeats, seconds: float, step: float = TICK) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now += step
            heartbeats.tick(self.now)

    def _pause(self, seconds: float) -> None:
        self.pauses += 1


class SilentSubscriber:
    """A subscriber that gets only heartbeats, one interval after the other."""

    def __init__(self, clock: Clock):
        self.beats: list[float] = []
        self.closed = False
        self._opened = clock.now

    def beat(self, now: float) -> float:
        if self.closed:
            self.beats.append(now)
            return 0.0
        due = (self.beats[-1] if self.beats else self._opened) + INTERVAL
        if now < due:
            return due
        self.beats.append(now)
        return now + INTERVAL

    def silences(self) -> list[float]:
        moments = [self._opened, *self.beats]
        return [after - before for before, after in pairwise(moments)]


@pytest.fixture
def clock(monkeypatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def heartbeats() -> Heartbeats:
    return Heartbeats(INTERVAL)


@pytest.fixture
def add(clock, heartbeats) -> Callable[[], SilentSubscriber]:
    def add() -> SilentSubscriber:
        subscriber = SilentSubscriber(clock)
        heartbeats.add(subscriber)
        return subscriber

    return add


@pytest.mark.parametrize("step", [TICK, 0.1, 0.26, 1.0])
@pytest.mark.parametrize("opened", [0.0, 0.01, 0.24, 0.25, 7.3])
def test_a_heartbeat_is_sent_once_an_interval(clock, heartbeats, add, opened, step):
    clock.run(heartbeats, 1.0)
    clock.now += opened
    subscriber = add()
    clock.run(heartbeats, 10 * INTERVAL, step)
    max_delay = MAX_DELAY + step
    assert all(INTERVAL <= silence <= INTERVAL + max_delay for silence in subscriber.silences())
    assert 9 <= len(subscriber.beats) <= 10


class _EndOfTest(Exception):
    """The loop has slept for long enough."""


def test_the_loop_sleeps_until_a_subscriber_is_due(clock, heartbeats, add, monkeypatch):
    slept: list[float] = []
    first = add()
    second: list[SilentSubscriber] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock.now += seconds
        if len(slept) == 2:
            second.append(add())
        if sum(slept) > 10 * INTERVAL:
            raise _EndOfTest

    replace_time(monkeypatch, heartbeats_module, monotonic=lambda: clock.now, sleep=sleep)
    with pytest.raises(_EndOfTest):
        heartbeats._run()
    assert len(slept) < 25
    for subscriber in (first, *second):
        assert len(subscriber.beats) >= 7
        assert all(INTERVAL <= silence <= INTERVAL + MAX_DELAY for silence in subscriber.silences())


def test_a_subscriber_that_was_sent_events_meanwhile_is_called_when_it_asked_to_be(
    clock, heartbeats
):
    """Its `beat` returns the time of the next call."""
    calls: list[float] = []

    class BusySubscriber:
        def beat(self, now: float) -> float:
            calls.append(now)
            return 1000.0 + INTERVAL + 5.0 if len(calls) == 1 else 0.0

    heartbeats.add(BusySubscriber())
    clock.run(heartbeats, 3 * INTERVAL)
    first, second = calls
    assert 1000 + INTERVAL <= first <= 1000 + INTERVAL + MAX_DELAY
    assert 1000 + INTERVAL + 5 <= second <= 1000 + INTERVAL + 5 + MAX_DELAY


def test_a_closed_subscriber_is_called_once_more_and_then_released(clock, heartbeats, add):
    subscriber = add()
    clock.run(heartbeats, 2 * INTERVAL)
    subscriber.closed = True
    clock.run(heartbeats, 4 * INTERVAL)
    assert len(subscriber.beats) == 2
    clock.run(heartbeats, 4 * INTERVAL)
    assert len(subscriber.beats) == 2


def test_subscribers_that_came_in_turn_get_heartbeats_in_turn(clock, heartbeats, add):
    subscribers = []
    for _ in range(60):
        subscribers.append(add())
        clock.run(heartbeats, TICK)
    clock.run(heartbeats, 10 * INTERVAL)
    at_once = Counter(beat for each in subscribers for beat in each.beats)
    assert max(at_once.values()) <= 2
    for subscriber in subscribers:
        assert max(subscriber.silences()) <= INTERVAL + MAX_DELAY


def test_after_a_standstill_every_subscriber_gets_one_heartbeat(clock, heartbeats, add):
    subscribers = []
    for _ in range(30):
        subscribers.append(add())
        clock.run(heartbeats, 2 * TICK)
    clock.now += 3.5 * INTERVAL
    heartbeats.tick(clock.now)
    assert [len(each.beats) for each in subscribers] == [1] * 30
    clock.run(heartbeats, 2 * INTERVAL)
    for subscriber in subscribers:
        first, *others = subscriber.beats
        assert others
        assert others[0] - first <= INTERVAL + MAX_DELAY


def test_two_ticks_at_one_moment_send_one_heartbeat(clock, heartbeats, add):
    subscriber = add()
    clock.now += INTERVAL + MAX_DELAY
    heartbeats.tick(clock.now)
    heartbeats.tick(clock.now)
    assert len(subscriber.beats) == 1


def test_a_subscriber_that_returns_a_past_time_is_called_once_a_tick(clock, heartbeats):
    calls: list[float] = []

    class HastySubscriber:
        def beat(self, now: float) -> float:
            calls.append(now)
            return now - 100.0

    heartbeats.add(HastySubscriber())
    clock.run(heartbeats, INTERVAL + MAX_DELAY)
    before = len(calls)
    clock.run(heartbeats, 10 * TICK)
    assert 1 <= before <= 3
    assert len(calls) == before + 10


def test_a_subscriber_that_is_added_during_a_tick_is_not_lost(clock, heartbeats, add):
    added: list[SilentSubscriber] = []

    class AddingSubscriber:
        def beat(self, now: float) -> float:
            added.append(add())
            return 0.0

    heartbeats.add(AddingSubscriber())
    clock.run(heartbeats, 3 * INTERVAL)
    assert len(added[0].beats) == 1


def test_the_loop_gives_way_while_it_calls_many_subscribers(clock, heartbeats, add, monkeypatch):
    monkeypatch.setattr(heartbeats_module, "MAX_SENDS_IN_A_ROW", 10)
    subscribers = [add() for _ in range(45)]
    for _ in range(5):
        clock.run(heartbeats, INTERVAL)
    sent = sum(len(each.beats) for each in subscribers)
    assert sent >= 45
    assert clock.pauses > 0


@pytest.mark.parametrize(("interval", "max_delay"), [(15.0, 0.5), (1.0, 0.25), (0.08, 0.02)])
def test_the_delay_of_a_heartbeat_is_bounded_for_every_interval(clock, interval, max_delay):
    heartbeats = Heartbeats(interval)
    calls: list[float] = []

    class OneHeartbeatSubscriber:
        def beat(self, now: float) -> float:
            calls.append(now)
            return 0.0

    heartbeats.add(OneHeartbeatSubscriber())
    clock.run(heartbeats, 2 * interval, step=max_delay / 2)
    assert interval <= calls[0] - 1000 <= interval + max_delay + 1e-6
