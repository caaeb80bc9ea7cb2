"""The parsing of Redis's replies about a log, in RESP2 and in RESP3."""

import pytest
from redis.exceptions import ResponseError

from app.streaming.errors import NotALog, StoreUnavailable
from app.streaming.event_id import ZERO, EventId
from app.streaming.log.continuity import Mark
from app.streaming.log.log_state import NO_LOG, LogState
from app.streaming.log.replies import parse_events, parse_log_state, parse_mark, parse_streams


def entry(event_id: bytes, sequence: bytes, category: bytes, action: bytes) -> list:
    """An entry as append.lua writes it."""
    head = [b"timestamp", b"t", b"sequence", sequence, b"epoch", b"17"]
    return [event_id, [*head, b"event_category", category, b"event_action", action]]


FIRST = entry(b"5-0", b"3", b"llm", b"a")
LAST = entry(b"9-0", b"7", b"lifecycle", b"failed")
OF_ANOTHER_PROGRAM = [b"5-0", [b"a", b"b"]]


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
        epoch=b"17",
        end_sequence=7,
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


@pytest.mark.parametrize("first", [FIRST, OF_ANOTHER_PROGRAM], ids=["ours", "others"])
@pytest.mark.parametrize("deleted", [b"0-0", b"4-9"])
def test_the_first_sequence_is_counted_where_entries_are_missing_only_before_it(first, deleted):
    state = parse_log_state(xinfo_reply(first_entry=first, max_deleted_entry_id=deleted))
    assert state.first_sequence == 3


@pytest.mark.parametrize(
    ("first", "expected"), [(FIRST, 3), (OF_ANOTHER_PROGRAM, None)], ids=["ours", "others"]
)
def test_the_first_sequence_is_the_entrys_own_where_entries_are_missing_after_it(first, expected):
    reply = xinfo_reply(length=4, first_entry=first, max_deleted_entry_id=b"7-0")
    assert parse_log_state(reply).first_sequence == expected


def test_the_first_sequence_is_the_entrys_own_though_another_count_was_set():
    state = parse_log_state(xinfo_reply(entries_added=100))
    assert (state.first_sequence, state.last_sequence) == (3, 100)


@pytest.mark.parametrize("last", [None, OF_ANOTHER_PROGRAM], ids=["no entry", "others"])
def test_the_epoch_is_unknown_if_the_last_entry_does_not_say_it(last):
    assert parse_log_state(xinfo_reply(last_entry=last)).epoch == b""


@pytest.mark.parametrize(
    ("fields", "sequence", "epoch"),
    [
        ([b"timestamp", b"t", b"sequence", b"3", b"epoch", b"17", b"data", b"1"], 3, b"17"),
        ([b"timestamp", b"t", b"sequence", b"3", b"epoch", b"17"], 3, b"17"),
        ([], None, b""),
        ([b"data", b"1"], None, b""),
        ([b"sequence", b"3", b"epoch", b"17"], None, b""),
        ([b"timestamp", b"t", b"sequence", b"3"], None, b""),
        ([b"timestamp", b"t", b"epoch", b"17", b"sequence", b"3"], None, b""),
        ([b"timestamp", b"t", b"sequence", b"3", b"epoch", b""], None, b""),
        ([b"timestamp", b"t", b"sequence", b"3", b"epoch", b"x"], None, b""),
        ([b"timestamp", b"t", b"sequence", b"", b"epoch", b"17"], None, b""),
        ([b"timestamp", b"t", b"sequence", b"-3", b"epoch", b"17"], None, b""),
        ([b"timestamp", b"t", b"sequence", b"9" * 18, b"epoch", b"17"], 10**18 - 1, b"17"),
        ([b"timestamp", b"t", b"sequence", b"9" * 19, b"epoch", b"17"], None, b""),
    ],
)
def test_only_entries_as_tailrace_appends_them_have_a_mark(fields, sequence, epoch):
    assert parse_mark([b"5-1", fields]) == Mark(EventId(5, 1), epoch, sequence)


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
