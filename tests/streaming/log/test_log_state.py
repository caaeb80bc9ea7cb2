"""The state of a log: its two ends as positions, its version, and the data of control events."""

import pytest

from app.streaming.event_id import ZERO, EventId
from app.streaming.log.log_state import NO_LOG, LogState
from app.streaming.log.position import START, Position

EPOCH = b"1"


def log(first: str | None, last: str, **changes: object) -> LogState:
    """A log of five entries, of which nine were ever added."""
    first_id = EventId.parse(first) if first else None
    known = {
        "length": 5 if first else 0,
        "first_id": first_id,
        "first_sequence": 5,
        "last_id": EventId.parse(last),
        "last_sequence": 9,
        "ended": False,
        "end_id": EventId.parse(last) if first else None,
        "epoch": EPOCH,
    }
    return LogState(**known | changes)


def test_the_ends_of_a_log():
    state = log("5-1", "9-0")
    assert state.beginning == Position(EPOCH, EventId(5, 0), 4)
    assert state.end == Position(EPOCH, EventId(9, 0), 9)


def test_the_beginning_is_uncounted_if_nobody_knows_the_first_sequence():
    assert log("5-1", "9-0", first_sequence=None).beginning.sequence is None


def test_a_log_that_retains_nothing_begins_at_its_end():
    state = log(None, "9-0")
    assert state.beginning == state.end == Position(EPOCH, EventId(9, 0), 9)


def test_the_end_is_the_last_entry_ever_added_though_it_was_deleted():
    state = log("5-0", "9-0", end_id=EventId(8, 0), deleted=EventId(9, 0), length=4)
    assert state.end == Position(EPOCH, EventId(9, 0), 9)


def test_no_log_begins_and_ends_at_the_start_of_every_log():
    assert NO_LOG.beginning == NO_LOG.end == START
    assert (NO_LOG.last_id, NO_LOG.last_sequence, NO_LOG.ended) == (ZERO, 0, False)
    assert not NO_LOG.exists
    assert START.is_start
    assert Position(EPOCH, ZERO, 0).is_start
    assert not log("5-0", "9-0").end.is_start


WHOLE = log("5-0", "9-0")


@pytest.mark.parametrize(
    ("state", "is_same"),
    [
        (log("5-0", "9-0", last_id=EventId(10, 0), last_sequence=10, length=6), True),
        (log("7-0", "9-0", length=3, first_sequence=7), True),
        (log("5-0", "9-0", ended=True, ttl=5, lease_seconds=3), True),
        (log("6-0", "9-0", length=4, first_sequence=6, deleted=EventId(5, 0)), True),
        (log("5-0", "9-0", length=4, deleted=EventId(7, 0)), False),
        (log("5-0", "9-0", length=4, deleted=EventId(9, 0)), False),
        (log(None, "9-0"), False),
        (log("5-0", "9-0", epoch=b"2"), False),
        (NO_LOG, False),
    ],
    ids=[
        "longer",
        "trimmed",
        "ended",
        "first entry deleted",
        "entry between deleted",
        "last entry deleted",
        "empty",
        "another log",
        "no log",
    ],
)
def test_the_version_changes_with_the_log_and_with_deletions_between_entries(state, is_same):
    assert (state.version == WHOLE.version) == is_same


def test_each_deletion_makes_another_version_whichever_entry_it_takes():
    """Deleting a lower entry than before leaves the greatest deleted id as it is."""
    one = log("5-0", "9-0", length=4, deleted=EventId(8, 0))
    two = log("5-0", "9-0", length=3, deleted=EventId(8, 0))
    assert one.version != two.version


def test_appends_after_a_deletion_make_no_other_version():
    before = log("5-0", "9-0", length=4, deleted=EventId(8, 0))
    after = log(
        "5-0", "10-0", length=5, deleted=EventId(8, 0), last_sequence=10, end_id=EventId(10, 0)
    )
    assert before.version == after.version


def test_control_data_holds_the_requested_and_the_retained_ids():
    assert log("5-0", "9-0").control_data("1-0") == {
        "requested": "1-0", "earliest": "5-0", "latest": "9-0",
    }  # fmt: skip
    assert log(None, "9-0").control_data("1-0") == {
        "requested": "1-0", "earliest": None, "latest": "9-0",
    }  # fmt: skip
    assert NO_LOG.control_data("latest") == {
        "requested": "latest",
        "earliest": None,
        "latest": None,
    }
