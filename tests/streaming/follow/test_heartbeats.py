"""The heartbeats: every heartbeat in its interval, none lost or doubled, spread over time."""

from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import pytest

from app.streaming.follow import heartbeats as heartbeats_module
from app.streaming.follow.heartbeats import Heartbeats

INTERVAL = 15.0
TICK = 0.25
# A beat comes with the tick after it is due.
LATE = 2 * TICK


class Clock:
    """A time that passes by ticks; nobody else ticks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.now = 1000.0
        self.pauses = 0
        monkeypatch.setattr(heartbeats_module.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(heartbeats_module.time, "sleep", self._pause)
        monkeypatch.setattr(heartbeats_module.threading.Thread, "start", lambda thread: None)

    def run(self, heartbeats: Heartbeats, seconds: float, step: float = TICK) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now += step
            heartbeats.tick(self.now)

    def _pause(self, seconds: float) -> None:
        self.pauses += 1


class Silent:
    """A subscriber to whom nothing else is sent: it is due an interval after its last beat."""

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
def add(clock, heartbeats) -> Callable[[], Silent]:
    def add() -> Silent:
        subscriber = Silent(clock)
        heartbeats.add(subscriber)
        return subscriber

    return add


@pytest.mark.parametrize("step", [TICK, 0.1, 0.26, 1.0])
@pytest.mark.parametrize("opened", [0.0, 0.01, 0.24, 0.25, 7.3])
def test_a_beat_comes_once_an_interval(clock, heartbeats, add, opened, step):
    clock.run(heartbeats, 1.0)
    clock.now += opened
    subscriber = add()
    clock.run(heartbeats, 10 * INTERVAL, step)
    late = LATE + step
    assert all(INTERVAL <= silence <= INTERVAL + late for silence in subscriber.silences())
    assert 9 <= len(subscriber.beats) <= 10


class _Enough(Exception):
    """The test has slept as long as it wants to."""


def test_the_pulse_sleeps_until_somebody_is_due(clock, heartbeats, add, monkeypatch):
    slept: list[float] = []
    first = add()
    second: list[Silent] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock.now += seconds
        if len(slept) == 2:
            second.append(add())
        if sum(slept) > 10 * INTERVAL:
            raise _Enough

    monkeypatch.setattr(heartbeats_module.time, "sleep", sleep)
    with pytest.raises(_Enough):
        heartbeats._run()
    assert len(slept) < 25
    for subscriber in (first, *second):
        assert len(subscriber.beats) >= 7
        assert all(INTERVAL <= silence <= INTERVAL + LATE for silence in subscriber.silences())


def test_one_who_was_sent_something_meanwhile_is_seen_to_when_the_silence_is_long_enough(
    clock, heartbeats
):
    """It says itself when to come back."""
    asked: list[float] = []

    class Spoken:
        def beat(self, now: float) -> float:
            asked.append(now)
            return 1000.0 + INTERVAL + 5.0 if len(asked) == 1 else 0.0

    heartbeats.add(Spoken())
    clock.run(heartbeats, 3 * INTERVAL)
    first, second = asked
    assert 1000 + INTERVAL <= first <= 1000 + INTERVAL + LATE
    assert 1000 + INTERVAL + 5 <= second <= 1000 + INTERVAL + 5 + LATE


def test_one_who_is_closed_is_let_go(clock, heartbeats, add):
    subscriber = add()
    clock.run(heartbeats, 2 * INTERVAL)
    subscriber.closed = True
    clock.run(heartbeats, 4 * INTERVAL)
    assert len(subscriber.beats) == 2
    clock.run(heartbeats, 4 * INTERVAL)
    assert len(subscriber.beats) == 2


def test_those_who_opened_one_after_another_beat_one_after_another(clock, heartbeats, add):
    subscribers = []
    for _ in range(60):
        subscribers.append(add())
        clock.run(heartbeats, TICK)
    clock.run(heartbeats, 10 * INTERVAL)
    at_once = Counter(beat for each in subscribers for beat in each.beats)
    assert max(at_once.values()) <= 2
    for subscriber in subscribers:
        assert max(subscriber.silences()) <= INTERVAL + LATE


def test_after_a_standstill_everybody_beats_once_and_nobody_is_lost(clock, heartbeats, add):
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
        assert others[0] - first <= INTERVAL + LATE


def test_ticking_twice_in_one_moment_beats_once(clock, heartbeats, add):
    subscriber = add()
    clock.now += INTERVAL + LATE
    heartbeats.tick(clock.now)
    heartbeats.tick(clock.now)
    assert len(subscriber.beats) == 1


def test_one_who_says_a_time_that_is_over_is_seen_to_again_and_not_for_ever(clock, heartbeats):
    asked: list[float] = []

    class Hasty:
        def beat(self, now: float) -> float:
            asked.append(now)
            return now - 100.0

    heartbeats.add(Hasty())
    clock.run(heartbeats, INTERVAL + LATE)
    before = len(asked)
    clock.run(heartbeats, 10 * TICK)
    assert 1 <= before <= 3
    assert len(asked) == before + 10


def test_one_who_is_added_while_others_beat_is_not_lost(clock, heartbeats, add):
    added: list[Silent] = []

    class Adding:
        def beat(self, now: float) -> float:
            added.append(add())
            return 0.0

    heartbeats.add(Adding())
    clock.run(heartbeats, 3 * INTERVAL)
    assert len(added[0].beats) == 1


def test_many_who_are_due_together_let_the_others_have_their_turn(
    clock, heartbeats, add, monkeypatch
):
    monkeypatch.setattr(heartbeats_module, "SENDS_IN_A_ROW", 10)
    subscribers = [add() for _ in range(45)]
    for _ in range(5):
        clock.run(heartbeats, INTERVAL)
    sent = sum(len(each.beats) for each in subscribers)
    assert sent >= 45
    assert clock.pauses > 0


@pytest.mark.parametrize(("interval", "most"), [(15.0, 0.5), (1.0, 0.25), (0.08, 0.02)])
def test_a_beat_is_late_by_little_whatever_the_interval(clock, interval, most):
    heartbeats = Heartbeats(interval)
    asked: list[float] = []

    class Once:
        def beat(self, now: float) -> float:
            asked.append(now)
            return 0.0

    heartbeats.add(Once())
    clock.run(heartbeats, 2 * interval, step=most / 2)
    assert interval <= asked[0] - 1000 <= interval + most + 1e-6
