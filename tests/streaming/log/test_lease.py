"""When a lease has expired, as far as one process can judge it."""

import math
from types import SimpleNamespace

import pytest

from app.streaming.errors import StoreUnavailable
from app.streaming.event_id import EventId
from app.streaming.log import lease
from app.streaming.log.lease import Leases
from app.streaming.log.log_state import LogState

# The monotonic clock, and the wall clock in milliseconds.
NOW = 1000.0
NOW_MS = 1_800_000_000_000


class RecordingWriter:
    """Stands for a LogWriter, and keeps the calls of mark_lost."""

    def __init__(self) -> None:
        self.last_refusal = -math.inf
        self.marked: list[tuple[str, EventId, bool]] = []
        self.error: Exception | None = None

    def mark_lost(self, run_id: str, last_id: EventId, watched: bool) -> bool:
        if self.error is not None:
            raise self.error
        self.marked.append((run_id, last_id, watched))
        return True


@pytest.fixture(autouse=True)
def _clock(monkeypatch):
    clock = SimpleNamespace(monotonic=lambda: NOW, time=lambda: NOW_MS / 1000)
    monkeypatch.setattr(lease, "time", clock)


@pytest.fixture
def writer() -> RecordingWriter:
    return RecordingWriter()


def leases_of(writer: RecordingWriter, connected_seconds: float = math.inf) -> Leases:
    """Return the leases as of a connection that has lasted for so many seconds."""
    return Leases(SimpleNamespace(connected_since=NOW - connected_seconds), writer)


def leased_state(
    silent_seconds: int, lease_seconds: int | None = 10, ended: bool = False
) -> LogState:
    """Return the state of a log whose last event came so many seconds ago."""
    last_id = EventId(NOW_MS - silent_seconds * 1000, 0)
    return LogState(
        1, last_id, 1, last_id, 1, ended=ended, end_id=last_id, lease_seconds=lease_seconds
    )


def test_a_run_that_was_silent_for_its_lease_is_ended(writer):
    state = leased_state(silent_seconds=11)
    assert leases_of(writer).end_if_lost("r", state)
    assert writer.marked == [("r", state.end_id, False)]


@pytest.mark.parametrize(
    "state",
    [
        leased_state(silent_seconds=5),
        leased_state(silent_seconds=11, lease_seconds=None),
        leased_state(silent_seconds=11, ended=True),
        LogState(0, None, 1, EventId(1, 0), 1, ended=False, lease_seconds=10),
    ],
    ids=["not yet", "no lease", "ended", "no entry"],
)
def test_any_other_run_goes_on(writer, state):
    assert not leases_of(writer).end_if_lost("r", state)
    assert writer.marked == []


@pytest.mark.parametrize(("seconds", "lost"), [(-math.inf, False), (9, False), (10, True)])
def test_no_run_is_ended_before_redis_was_reachable_for_its_lease(writer, seconds, lost):
    leases = leases_of(writer, connected_seconds=seconds)
    assert leases.end_if_lost("r", leased_state(silent_seconds=11)) == lost


@pytest.mark.parametrize(("seconds", "lost"), [(9, False), (10, True)])
def test_no_run_is_ended_before_redis_took_writes_for_its_lease(writer, seconds, lost):
    writer.last_refusal = NOW - seconds
    assert leases_of(writer).end_if_lost("r", leased_state(silent_seconds=11)) == lost


def test_a_run_that_cannot_be_ended_now_goes_on(writer):
    writer.error = StoreUnavailable("Redis refused: OOM")
    assert not leases_of(writer).end_if_lost("r", leased_state(silent_seconds=11))


def test_a_lease_counts_from_the_latest_of_what_is_known(writer):
    leases = leases_of(writer)
    assert leases.expires_at(10, 5.0, 7.0) == 17.0
    writer.last_refusal = 8.0
    assert leases.expires_at(10, 5.0, 7.0) == 18.0
