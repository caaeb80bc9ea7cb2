"""Redis's replies about a log, in either protocol, and the continuity on a cursor."""

import pytest
from redis.exceptions import ResponseError

from app.streaming.errors import NotALog, StoreUnavailable
from app.streaming.event_id import ZERO, EventId
from app.streaming.log.log_state import NO_LOG, LogState
from app.streaming.log.replies import events, log_state, streams

FIRST = [b"5-0", [b"sequence", b"3", b"event_category", b"llm", b"event_action", b"a"]]
LAST = [b"9-0", [b"sequence", b"7", b"event_category", b"lifecycle", b"event_action", b"failed"]]


def stream(**changed: object) -> list:
    """A reply to XINFO STREAM, in RESP2."""
    fields = {
        "length": 5,
        "last-generated-id": b"9-0",
        "entries-added": 7,
        "first-entry": FIRST,
        "last-entry": LAST,
    }
    fields |= {name.replace("_", "-"): value for name, value in changed.items()}
    return [part for name, value in fields.items() for part in (name.encode(), value)]


def log(first: str | None, last: str, first_sequence: int = 1) -> LogState:
    first_id = EventId.parse(first) if first else None
    return LogState(1, first_id, first_sequence, EventId.parse(last), 9, ended=False)


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_log_is_told_by_its_fields(protocol):
    reply = stream()
    if protocol == 3:
        reply = dict(zip(reply[::2], reply[1::2], strict=True))
    assert log_state(reply, 60) == LogState(
        length=5,
        first_id=EventId(5, 0),
        first_sequence=3,
        last_id=EventId(9, 0),
        last_sequence=7,
        ended=True,
        end_id=EventId(9, 0),
        ttl=60,
    )


def test_the_greatest_id_that_was_deleted_is_told():
    assert log_state(stream(max_deleted_entry_id=b"6-1")).deleted == EventId(6, 1)
    assert log_state(stream()).deleted == ZERO


@pytest.mark.parametrize(("ttl", "told"), [(-1, None), (-2, None), (0, 0), (5, 5)])
def test_a_log_without_a_ttl_has_none(ttl, told):
    assert log_state(stream(), ttl).ttl == told


def test_a_log_whose_entries_are_all_gone_still_has_its_position():
    state = log_state(stream(length=0, first_entry=None, last_entry=None))
    assert (state.first_id, state.last_id, state.last_sequence) == (None, EventId(9, 0), 7)
    assert state.exists
    assert not state.ended


def test_the_sequence_of_a_first_entry_of_others_is_counted():
    assert log_state(stream(first_entry=[b"5-0", [b"a", b"b"]])).first_sequence == 3


def test_a_missing_key_is_no_log():
    state = log_state(ResponseError("no such key"), -2)
    assert state == NO_LOG
    assert not state.exists


@pytest.mark.parametrize(
    ("message", "error"),
    [("WRONGTYPE Operation against a key", NotALog), ("LOADING the dataset", StoreUnavailable)],
)
def test_an_error_reply_is_an_error_of_this_package(message, error):
    with pytest.raises(error):
        log_state(ResponseError(message))


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (None, []),
        ([], []),
        ({}, []),
        ([[b"k", [FIRST]]], [(b"k", [FIRST])]),
        ({b"k": [FIRST]}, [(b"k", [FIRST])]),
    ],
)
def test_a_reply_to_xread_reads_alike_in_both_protocols(reply, expected):
    assert [(key, entries) for key, entries in streams(reply)] == expected


def test_entries_become_the_events_of_their_run():
    assert [(event.run_id, event.id, event.sequence) for event in events("r", [FIRST, LAST])] == [
        ("r", "5-0", 3),
        ("r", "9-0", 7),
    ]


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


def test_a_follower_is_told_what_it_asked_for_and_what_there_is():
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
