"""When a lease has expired, as far as one process can judge it, and the clock of all leases."""

import os
import threading
import time
from collections.abc import Callable

import pytest

from app.streaming.errors import LogFull, NotALog, StoreUnavailable
from app.streaming.event_id import EventId
from app.streaming.log import lease
from app.streaming.log.lease import Leases
from app.streaming.log.log_state import LogState
from app.streaming.redis import availability as availability_module
from app.streaming.redis.availability import MAX_DELAY_SECONDS, TICK_SECONDS, Availability
from tests.servers import wait_until

LEASE_SECONDS = 10


class Clocks:
    """Stands for the module `time`: clocks that the test moves."""

    sleep = staticmethod(time.sleep)  # for the threads of other tests

    def __init__(self) -> None:
        self.now, self.wall = 1000.0, 1_800_000_000.0
        self.at_next: Callable[[], None] | None = None

    def monotonic(self) -> float:
        self._happen()
        return self.now

    def time(self) -> float:
        self._happen()
        return self.wall

    def pass_by(self, seconds: float) -> None:
        self.now += seconds
        self.wall += seconds

    def _happen(self) -> None:
        happen, self.at_next = self.at_next, None
        if happen is not None:
            happen()


@pytest.fixture
def clocks(monkeypatch) -> Clocks:
    clocks = Clocks()
    for module in (lease, availability_module):
        monkeypatch.setattr(module, "time", clocks)
    return clocks


@pytest.fixture
def availability(clocks, monkeypatch) -> Availability:
    """Return a clock whose ticks are those of `live`, not those of a thread."""
    monkeypatch.setattr(Availability, "watch", lambda self: None)
    return Availability(lambda: None)


def live(clocks: Clocks, availability: Availability, seconds: float) -> None:
    """Let time pass while the process is awake."""
    for _ in range(round(seconds / TICK_SECONDS)):
        clocks.pass_by(TICK_SECONDS)
        availability.tick()


class MarkLost:
    """Stands for `LogWriter.mark_lost`, and keeps the calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, EventId, bool]] = []
        self.error: Exception | None = None

    def __call__(self, run_id: str, last_id: EventId, watched: bool) -> bool:
        if self.error is not None:
            raise self.error
        self.calls.append((run_id, last_id, watched))
        return True


@pytest.fixture
def mark_lost() -> MarkLost:
    return MarkLost()


@pytest.fixture
def leases(availability, mark_lost) -> Leases:
    return Leases(lambda run_id: availability, mark_lost)


def leased_state(
    clocks: Clocks,
    silent_seconds: int = LEASE_SECONDS + 1,
    lease_seconds: int | None = LEASE_SECONDS,
    ended: bool = False,
) -> LogState:
    """Return the state of a log whose last event came so many seconds ago."""
    last_id = EventId(int(clocks.wall - silent_seconds) * 1000, 0)
    return LogState(
        1, last_id, 1, last_id, 1, ended=ended, end_id=last_id, lease_seconds=lease_seconds
    )


# Which runs are ended


def test_a_run_that_was_silent_for_its_lease_is_ended(leases, mark_lost, availability, clocks):
    live(clocks, availability, LEASE_SECONDS)
    state = leased_state(clocks)
    assert leases.end_if_lost("r", state)
    assert mark_lost.calls == [("r", state.end_id, False)]


@pytest.mark.parametrize(
    "changes",
    [{"silent_seconds": 5}, {"lease_seconds": None}, {"ended": True}],
    ids=["not yet", "no lease", "ended"],
)
def test_any_other_run_goes_on(leases, mark_lost, availability, clocks, changes):
    live(clocks, availability, LEASE_SECONDS)
    assert not leases.end_if_lost("r", leased_state(clocks, **changes))
    empty = LogState(0, None, 1, EventId(1, 0), 1, ended=False, lease_seconds=LEASE_SECONDS)
    assert not leases.end_if_lost("r", empty)
    assert mark_lost.calls == []


@pytest.mark.parametrize(
    "error", [StoreUnavailable("Redis refused: OOM"), NotALog("text"), LogFull("full")]
)
def test_a_run_that_cannot_be_ended_goes_on_and_can_be_read(
    leases, mark_lost, availability, clocks, error
):
    live(clocks, availability, LEASE_SECONDS)
    mark_lost.error = error
    assert not leases.end_if_lost("r", leased_state(clocks))


# What begins every lease anew


def failure(clocks: Clocks, availability: Availability) -> None:
    availability.interrupted()


def late_reply(clocks: Clocks, availability: Availability) -> None:
    availability.replied(MAX_DELAY_SECONDS + 0.01)


def pause(clocks: Clocks, availability: Availability) -> None:
    clocks.pass_by(8)


def suspended_machine(clocks: Clocks, availability: Availability) -> None:
    clocks.wall += 3600


HINDRANCES = [failure, late_reply, pause, suspended_machine]


@pytest.mark.parametrize("hindrance", HINDRANCES)
@pytest.mark.parametrize("noticed_by", ["the check", "a tick"])
def test_after_a_hindrance_every_lease_begins_anew(
    leases, availability, clocks, hindrance, noticed_by
):
    live(clocks, availability, LEASE_SECONDS)
    assert leases.remaining("r", LEASE_SECONDS) <= 0
    for _ in range(3):
        hindrance(clocks, availability)
        if noticed_by == "a tick":
            availability.tick()
        assert not leases.end_if_lost("r", leased_state(clocks))
        assert leases.remaining("r", LEASE_SECONDS) == LEASE_SECONDS
        live(clocks, availability, LEASE_SECONDS - 1)
        assert not leases.end_if_lost("r", leased_state(clocks))
        live(clocks, availability, 1)
        assert leases.end_if_lost("r", leased_state(clocks))


def test_a_pause_anywhere_inside_a_check_ends_no_run(leases, mark_lost, availability, clocks):
    """At any look at a clock, the process may have been stopped just before."""
    for look in range(6):
        live(clocks, availability, 2 * LEASE_SECONDS)
        state = leased_state(clocks, silent_seconds=5)
        looks = iter(range(10))

        def stop(look: int = look, looks: object = looks) -> None:
            if next(looks) == look:
                clocks.pass_by(8)
            else:
                clocks.at_next = stop

        clocks.at_next = stop
        assert not leases.end_if_lost("r", state), look
        clocks.at_next = None
    assert mark_lost.calls == []


def test_small_delays_begin_nothing_anew(leases, availability, clocks):
    for _ in range(LEASE_SECONDS):
        clocks.pass_by(MAX_DELAY_SECONDS)
        availability.replied(MAX_DELAY_SECONDS)
        availability.tick()
    assert leases.remaining("r", LEASE_SECONDS) == 0


def test_a_lease_counts_from_the_latest_of_what_is_known(leases, availability, clocks):
    assert leases.remaining("r", LEASE_SECONDS, clocks.now - 5) == LEASE_SECONDS
    live(clocks, availability, 8)
    assert leases.remaining("r", LEASE_SECONDS, clocks.now - 5) == LEASE_SECONDS - 5


# The probe


def test_an_outage_that_only_the_probe_meets_begins_every_lease_anew(clocks):
    outage: list[Exception] = []

    def probe() -> None:
        if outage:
            raise outage[0]

    availability = Availability(probe)
    for each in (StoreUnavailable("full"), RuntimeError("unexpected")):
        outage[:] = []
        before = availability._since
        clocks.pass_by(5)
        availability.probe()
        assert availability._since == before
        outage[:] = [each]
        availability.probe()
        assert availability._since == clocks.now


def test_what_was_before_the_clock_began_to_watch_counts_for_nothing():
    availability = Availability(lambda: None)
    began = availability._since
    assert availability.since() > began


# The thread that ticks


def clock_threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "tailrace-clock"]


def test_the_clock_ticks_from_the_first_lease_on_and_as_long_as_it_is_used():
    earlier = clock_threads()
    availability = Availability(lambda: None)
    assert clock_threads() == earlier
    for _ in range(3):
        availability.watch()
    [thread] = {*clock_threads()} - {*earlier}
    clocks, before = [availability], availability._ticked
    del availability
    wait_until(lambda: clocks[0]._ticked > before, "it ticks")
    clocks.clear()
    wait_until(lambda: not thread.is_alive(), "nothing ticks any more")


def test_a_forked_child_has_a_clock_that_ticks():
    availability = Availability(lambda: None)
    availability.watch()
    child = os.fork()
    if child == 0:
        availability.since()
        os._exit(len(clock_threads()))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
