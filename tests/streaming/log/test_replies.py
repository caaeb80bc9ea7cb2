"""The parsing of Redis's replies about a log, in RESP2 and in RESP3."""

import pytest
from redis.exceptions import ResponseError

from app.streaming.errors import NotALog, StoreUnavailable
from app.streaming.event_id import ZERO, EventId
from app.streaming.log.log_state import NO_LOG, LogState
from app.streaming.log.replies import parse_events, parse_log_state, parse_streams

FIRST = [b"5-0", [b"sequence", b"3", b"event_category", b"llm", b"event_action", b"a"]]
LAST = [b"9-0", [b"sequence", b"7", b"event_category", b"lifecycle", b"event_action", b"failed"]]


def xinfo_reply(**changed: object) -> list:
    """Return a reply to XINFO STREAM in RESP2, with some fields changed."""
    fields = {
        "length": 5,
        "last-generated-id": b"9-0",
        "entries-added": 7,
        "first-entry": FIRST,
        "last-entry": LAST,
    }
    fields |= {name.replace("_", "-"): value for name, value in changed.items()}
    return [part for name, value in fields.items() for part in (name.encode(), value)]


@pytest.mark.parametrize("protocol", [2, 3])
def test_the_state_of_a_log_is_parsed(protocol):
    reply = xinfo_reply()
    if protocol == 3:
        reply = dict(zip(reply[::2], reply[1::2], strict=True))
    assert parse_log_state(reply, 60) == LogState(
        length=5,
        first_id=EventId(5, 0),
        first_sequence=3,
        last_id=EventId(9, 0),
        last_sequence=7,
        ended=True,
        end_id=EventId(9, 0),
        ttl=60,
    )


def test_the_greatest_deleted_id_is_parsed():
    assert parse_log_state(xinfo_reply(max_deleted_entry_id=b"6-1")).deleted == EventId(6, 1)
    assert parse_log_state(xinfo_reply()).deleted == ZERO


@pytest.mark.parametrize(("ttl", "expected"), [(-1, None), (-2, None), (0, 0), (5, 5)])
def test_a_negative_ttl_means_none(ttl, expected):
    assert parse_log_state(xinfo_reply(), ttl).ttl == expected


def test_a_log_without_entries_keeps_its_last_id_and_sequence():
    state = parse_log_state(xinfo_reply(length=0, first_entry=None, last_entry=None))
    assert (state.first_id, state.last_id, state.last_sequence) == (None, EventId(9, 0), 7)
    assert state.exists
    assert not state.ended


def test_the_sequence_of_a_first_entry_without_one_is_counted():
    assert parse_log_state(xinfo_reply(first_entry=[b"5-0", [b"a", b"b"]])).first_sequence == 3


def test_a_missing_key_is_no_log():
    state = parse_log_state(ResponseError("no such key"), -2)
    assert state == NO_LOG
    assert not state.exists


@pytest.mark.parametrize(
    ("message", "error"),
    [("WRONGTYPE Operation against a key", NotALog), ("LOADING the dataset", StoreUnavailable)],
)
def test_an_error_reply_raises_an_error_of_this_package(message, error):
    with pytest.raises(error):
        parse_log_state(ResponseError(message))


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
def test_a_reply_to_xread_is_parsed_in_both_protocols(reply, expected):
    assert [(key, entries) for key, entries in parse_streams(reply)] == expected


def test_entries_become_the_events_of_their_run():
    assert [
        (event.run_id, event.id, event.sequence) for event in parse_events("r", [FIRST, LAST])
    ] == [
        ("r", "5-0", 3),
        ("r", "9-0", 7),
    ]
