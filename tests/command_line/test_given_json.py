"""Events in lines of JSON: their bytes do not change, even those of odd numbers."""

import pytest

from app.command_line.given_json import event_of_line
from app.streaming.errors import InvalidEvent

DATA = [b"1.0", b"1e5", b'{"b":1,"a":2}', b"123456789012345678901234567890", b'"\\u0041"', b"[ 1 ]"]


@pytest.mark.parametrize("data", DATA)
def test_the_bytes_of_data_and_source_stay(data):
    line = b'{"id":"1-0","event":{"category":"a","action":"b"},"data":%b,"source":%b}'
    new_event = event_of_line(line % (data, data)).new_event()
    assert new_event == ("a", "b", data, data, b"")


def test_both_shapes_of_an_event_are_read():
    read = event_of_line(b'{"event":{"category":"a","action":"b"},"sequence":7,"run_id":"r"}')
    assert (read.run_id, read.sequence) == ("r", 7)
    assert read.new_event() == ("a", "b", b"null", b"", b"")
    written = event_of_line(b'{"event_category":"a","event_action":"b","data":1,"lease_seconds":5}')
    assert written.new_event() == ("a", "b", b"1", b"", b"")


@pytest.mark.parametrize(
    "line", [b"", b"{", b"[]", b"1", b'{"event":1}', b'{"data":NaN}', b"\xff", b'{"data":1e400}']
)
def test_what_is_no_event_is_refused(line):
    with pytest.raises(InvalidEvent):
        event_of_line(line).new_event()


def test_a_line_that_is_nested_too_deep_is_refused():
    with pytest.raises(InvalidEvent):
        event_of_line(b'{"data":%b%b}' % (b"[" * 1020, b"]" * 1020))


@pytest.mark.parametrize("name", [b'"lifecycle","event_action":"lost"', b'"gateway"', b"5"])
def test_a_name_that_nobody_may_append_is_refused(name):
    with pytest.raises(InvalidEvent):
        event_of_line(b'{"event_category":%b}' % name).new_event()
