"""The check of an export: order, number, and what was trimmed meanwhile."""

import pytest

from app.command_line.exporting import Check, CheckFailed, mark_of
from app.streaming.errors import Refused

ORDERED_OTHERWISE = (
    b'{"sequence": 4, "id": "10-2", "run_id": "a", "timestamp": null, '
    b'"event": {"category": "a", "action": "b"}, "data": 0, "source": null}'
)


def line(number: int, sequence: int | None = None) -> bytes:
    sequence_json = number if sequence is None else sequence
    return b'{"id":"%d-0","run_id":"a","sequence":%d,"data":null}' % (number, sequence_json)


def state(length: int, first: int | None, last: int) -> dict:
    first_id = None if first is None else f"{first}-0"
    return {"length": length, "first_id": first_id, "last_id": f"{last}-0"}


def checked(before: dict, after: dict | None, *lines: bytes) -> str:
    check = Check("a", before)
    for each in lines:
        check.take(each)
    return check.finish(after)


def test_the_mark_of_a_line_needs_no_parsing_of_its_data_nor_an_order_of_its_members():
    assert mark_of(line(3)) == ((3, 0), 3)
    assert mark_of(ORDERED_OTHERWISE) == ((10, 2), 4)
    assert mark_of(b'{"id":"10-2","run_id":"a","sequence":null,"data":0}') == ((10, 2), None)


@pytest.mark.parametrize(
    "line",
    [
        b'{"id":"1-1" garbage',
        b'{"id":"1-1"}',
        b'{"id":5,"sequence":1}',
        ORDERED_OTHERWISE.replace(b"10-2", b"99999999999999999999-1"),
        ORDERED_OTHERWISE.replace(b'"10-2"', b"null"),
    ],
)
def test_a_line_that_no_gateway_sends_is_refused(line):
    with pytest.raises(Refused, match="not from a Tailrace gateway"):
        mark_of(line)


def test_all_events_are_counted():
    said = checked(state(2, 1, 2), state(2, 1, 2), line(1), line(2))
    assert said == "run a: 2 events, up to 2-0"
    # What was appended between the look at the state and the request is there too.
    assert checked(state(1, 1, 1), state(2, 1, 2), line(1), line(2)) == said
    assert checked(state(0, None, 5), state(0, None, 5)) == "run a: 0 events"


def test_what_was_trimmed_meanwhile_is_told():
    said = checked(state(3, 1, 3), state(3, 3, 5), line(3))
    assert said == "run a: 1 events, up to 3-0; 2 were trimmed meanwhile"
    said = checked(state(4, 1, 4), state(2, 4, 5), line(1), line(4))
    assert said == "run a: 2 events, up to 4-0; 2 were trimmed meanwhile"
    said = checked(state(3, 1, 4), state(2, 3, 4), line(1), line(4))
    assert said == (
        "run a: 2 events, up to 4-0; 1 more had been deleted or trimmed between them; "
        "1 were trimmed meanwhile"
    )


@pytest.mark.parametrize(
    ("after", "lines", "why"),
    [
        (state(3, 1, 3), [line(1), line(3, 2)], "2 events were read of 3"),
        (None, [line(1)], "deleted meanwhile"),
        (state(3, 1, 3), [line(2), line(1)], "event 1-0 came after event 2-0"),
        (state(3, 1, 3), [line(2), line(2)], "came after"),
        (state(3, 1, 3), [line(2), line(5, 1)], "another one began"),
    ],
)
def test_an_export_that_is_not_the_whole_run_fails(after, lines, why):
    with pytest.raises(CheckFailed, match=why):
        checked(state(3, 1, 3), after, *lines)
