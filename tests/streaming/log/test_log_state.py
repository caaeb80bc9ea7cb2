"""What the state of a log means for a follower's cursor: no gap, a gap, or a reset."""

import pytest

from app.streaming.event_id import ZERO, EventId
from app.streaming.log.log_state import NO_LOG, LogState


def log(first: str | None, last: str, first_sequence: int = 1) -> LogState:
    first_id = EventId.parse(first) if first else None
    return LogState(1, first_id, first_sequence, EventId.parse(last), 9, ended=False)


@pytest.mark.parametrize(
    ("cursor", "state", "continuity"),
    [
        # Within the log, at its ends, and just before its first entry: nothing is missed.
        ("7-0", log("5-0", "9-0", 3), None),
        ("9-0", log("5-0", "9-0", 3), None),
        ("5-0", log("5-0", "9-0", 3), None),
        (f"4-{2**64 - 1}", log("5-0", "9-0", 3), None),
        # Below the first retained entry.
        ("4-0", log("5-0", "9-0", 3), "gap"),
        ("0-0", log("5-0", "9-0", 3), "gap"),
        ("4-0", log("5-0", "9-0", 1), "reset"),
        ("0-0", log("5-0", "9-0", 1), None),
        ("5-9", log("5-10", "9-0", 3), None),
        # Above the last id.
        ("9-1", log("5-0", "9-0", 3), "reset"),
        ("1-0", NO_LOG, "reset"),
        ("0-0", NO_LOG, None),
        # Nothing is retained any more.
        ("4-0", log(None, "9-0"), "gap"),
        ("9-0", log(None, "9-0"), None),
        ("9-1", log(None, "9-0"), "reset"),
    ],
)
def test_the_continuity_of_a_cursor(cursor, state, continuity):
    assert state.continuity(EventId.parse(cursor)) == continuity


def test_control_data_holds_the_requested_and_the_retained_ids():
    assert log("5-0", "9-0").control_data("1-0") == {
        "requested": "1-0", "earliest": "5-0", "latest": "9-0",
    }  # fmt: skip
    assert NO_LOG.control_data("latest") == {
        "requested": "latest",
        "earliest": None,
        "latest": None,
    }


def test_no_log_stands_at_zero():
    assert (NO_LOG.last_id, NO_LOG.last_sequence, NO_LOG.ended) == (ZERO, 0, False)
