"""The event: entries of any program can be read, and which events can be stored."""

import json
import re
from dataclasses import FrozenInstanceError, dataclass

import orjson
import pytest

from app.streaming.errors import InvalidEvent, InvalidInput
from app.streaming.event import Event, check_run_id, one_line, timestamp_now
from app.streaming.event_json import check_depth, encode_json
from app.streaming.new_event import MAX_EVENT_BYTES, check_name, check_names

ENTRY = {
    b"timestamp": b"2025-01-01T12:00:00.000Z",
    b"sequence": b"7",
    b"event_category": b"llm",
    b"event_action": b"stream",
    b"data": b'{"text":"a"}',
    b"source": b'["me"]',
}


def read(**fields: bytes) -> Event:
    """Return the event of an entry that has only these fields."""
    return Event.from_entry("r", b"1-0", {name.encode(): raw for name, raw in fields.items()})


def nested(depth: int) -> list:
    value = []
    for _ in range(depth - 1):
        value = [value]
    return value


def test_an_entry_becomes_an_event():
    event = Event.from_entry("r", b"5-1", ENTRY)
    assert (event.id, event.run_id, event.sequence) == ("5-1", "r", 7)
    assert event.timestamp == "2025-01-01T12:00:00.000Z"
    assert event.event == {"category": "llm", "action": "stream"}
    assert (event.data, event.source) == ({"text": "a"}, ["me"])
    assert event.name == "llm.stream"


def test_an_event_is_immutable():
    with pytest.raises(FrozenInstanceError):
        read().id = "2-0"


def test_missing_fields_are_none():
    event = read(anything=b"at all")
    assert (event.sequence, event.timestamp, event.data, event.source) == (None,) * 4
    assert event.event == {"category": None, "action": None}
    assert event.name is None


@pytest.mark.parametrize("raw", [b"", b"-1", b"1.5", b"x", b" 1", b"9" * 19, b"\xff", b"1\n"])
def test_a_sequence_that_is_not_a_number_is_none(raw):
    assert read(sequence=raw).sequence is None


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"", ""),
        (b"{bro", "{bro"),
        (b"hello", "hello"),
        (b"{'a': 1}", "{'a': 1}"),
        (b'"\xff"', '"\ufffd"'),
        (b"NaN", "NaN"),
        (b'"\\ud800"', '"\\ud800"'),
        (b"[" * 2000, "[" * 2000),
        (b"a\nb", "a\nb"),
        (b'\xef\xbb\xbf{"a":1}', '\ufeff{"a":1}'),
    ],
)
def test_broken_json_becomes_its_text(raw, text):
    event = read(data=raw, source=raw)
    assert (event.data, event.source) == (text, text)
    assert json.loads(event.to_json())["data"] == text


def test_bytes_that_are_not_utf_8_are_replaced():
    event = read(event_category=b"\xff", event_action=b"a\xc3", timestamp=b"\xfe")
    assert event.event == {"category": "\ufffd", "action": "a\ufffd"}
    assert event.timestamp == "\ufffd"
    assert event.name is None


@pytest.mark.parametrize(
    "raw", [b'{\n"a": 1\n}', b'\r\n{"a":\r\n1}\r\n', b'\n\n{"a":\r1}', b'{"a"\n:\r1}']
)
def test_line_breaks_between_json_tokens_do_not_reach_the_wire(raw):
    line = read(data=raw, source=raw).to_json()
    assert not set(line) & set(b"\r\n")
    assert json.loads(line)["data"] == json.loads(line)["source"] == {"a": 1}


@pytest.mark.parametrize(
    ("category", "action", "name"),
    [
        ("llm", "stream", "llm.stream"),
        ("a" * 64, "b" * 64, f"{'a' * 64}.{'b' * 64}"),
        ("a" * 65, "b", None),
        ("llm", "x y", None),
        ("llm", "x\n", None),
        ("llm\nid: 9-9", "x", None),
        ("", "x", None),
        ("gateway", "reset", None),
    ],
)
def test_only_names_of_the_pattern_can_name_an_sse_event(category, action, name):
    event = read(event_category=category.encode(), event_action=action.encode())
    assert event.name == name


@pytest.mark.parametrize(
    ("category", "action", "terminal"),
    [
        *(("lifecycle", action, True) for action in ("completed", "failed", "cancelled", "lost")),
        ("lifecycle", "started", False),
        ("lifecycle", "Completed", False),
        ("llm", "completed", False),
        ("", "", False),
    ],
)
def test_four_lifecycle_events_are_terminal(category, action, terminal):
    event = read(event_category=category.encode(), event_action=action.encode())
    assert event.terminal is terminal


def test_the_json_of_an_event_has_the_shape_of_the_contract():
    assert json.loads(Event.from_entry("r", b"5-1", ENTRY).to_json()) == {
        "id": "5-1",
        "run_id": "r",
        "sequence": 7,
        "timestamp": "2025-01-01T12:00:00.000Z",
        "event": {"category": "llm", "action": "stream"},
        "data": {"text": "a"},
        "source": ["me"],
    }


def test_numbers_reach_the_wire_as_they_are_stored():
    stored = b"[1.10, 1E5, 123456789012345678901234567890]"
    assert stored in read(data=stored).to_json()


@pytest.mark.parametrize(
    "character", ["\n", "\r", "\x0b", "\x0c", "\x1c", "\x1e", "\x85", "\u2028"]
)
def test_every_client_reads_the_json_as_one_line(character):
    value = f"a{character}b\u2029"
    line = one_line({"a": value})
    assert line.decode().splitlines() == [line.decode()]
    assert json.loads(line) == {"a": value}


def test_line_separators_stored_by_other_programs_are_escaped_too():
    event = read(data='{"\u2028":"\x85"}'.encode(), timestamp="\u2029".encode())
    line = event.to_json().decode()
    assert line.splitlines() == [line]
    assert json.loads(line)["data"] == {"\u2028": "\x85"}


def test_the_repr_shows_the_event():
    shown = repr(Event.from_entry("r", b"5-1", ENTRY))
    for part in ("'5-1'", "sequence=7", "'llm'", "{'text': 'a'}"):
        assert part in shown


@pytest.mark.parametrize(
    ("run_id", "text"),
    [
        (1, "1"),
        (0, "0"),
        (10**100, str(10**100)),
        ("1", "1"),
        ("A-z_0.9", "A-z_0.9"),
        ("...", "..."),
        ("a" * 128, "a" * 128),
    ],
)
def test_a_run_id_becomes_text(run_id, text):
    assert check_run_id(run_id) == text


@pytest.mark.parametrize(
    "run_id",
    [
        *("", ".", "..", "a" * 129, "a b", "a/b", "a:b", "a{b}", "a\n", "é", "a\0", "*", "a%20b"),
        *(None, True, 1.5, b"1", ["1"], 10**128),
    ],
)
def test_a_wrong_run_id_is_refused(run_id):
    with pytest.raises(InvalidInput) as refused:
        check_run_id(run_id)
    assert refused.value.field == "run_id"


@pytest.mark.parametrize("name", ["a", "A-z_0", "-", "a" * 64])
def test_a_name_of_the_pattern_is_allowed(name):
    check_name("event_action", name)


@pytest.mark.parametrize("name", ["", "a" * 65, "a b", "a.b", "a\n", "é", None, 1, b"a", ["a"]])
def test_a_wrong_name_is_refused_and_its_field_named(name):
    with pytest.raises(InvalidEvent) as refused:
        check_names("llm", name)
    assert refused.value.field == "event_action"
    with pytest.raises(InvalidEvent) as refused:
        check_names(name, "x")
    assert refused.value.field == "event_category"


@pytest.mark.parametrize(
    ("category", "action", "field"),
    [
        ("gateway", "gap", "event_category"),
        ("gateway", "x", "event_category"),
        ("lifecycle", "lost", "event_action"),
    ],
)
def test_reserved_names_are_refused(category, action, field):
    with pytest.raises(InvalidEvent, match="reserved") as refused:
        check_names(category, action)
    assert refused.value.field == field


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 0, -1.5, "", "null", "\0\r\n\u2028\ufeff😀", [], {}, [None, [None]]),
        *(-(2**63), 2**64 - 1, 1.7976931348623157e308, {"NaN": "Infinity"}),
    ],
)
def test_any_json_value_is_encoded_exactly(value):
    assert orjson.loads(encode_json("data", value, MAX_EVENT_BYTES)) == value


@dataclass
class Measure:
    value: float


@pytest.mark.parametrize(
    "value",
    [
        *(-(2**63) - 1, 2**64, float("nan"), float("inf"), -float("inf")),
        *([1, [float("nan")]], {"a": {"b": (float("inf"),)}}, [None, float("nan")]),
        *(Measure(float("nan")), [Measure(float("inf"))]),
        *({1: 2}, {1, 2}, b"bytes", object()),
    ],
)
def test_a_value_that_json_cannot_carry_is_refused_and_its_field_named(value):
    with pytest.raises(InvalidEvent) as refused:
        encode_json("source", value, MAX_EVENT_BYTES)
    assert refused.value.field == "source"


@pytest.mark.parametrize("wrap", [nested, lambda depth: {"a": nested(depth - 1)}])
def test_the_limit_of_the_depth_is_128(wrap):
    assert orjson.loads(encode_json("data", wrap(128), MAX_EVENT_BYTES)) == wrap(128)
    for depth in (129, 200, 5000):
        with pytest.raises(InvalidEvent) as refused:
            encode_json("data", wrap(depth), MAX_EVENT_BYTES)
        assert refused.value.field == "data"


def test_brackets_side_by_side_and_in_strings_do_not_count_as_depth():
    value = [[[]] * 1000, "[" * 1000, {"{" * 1000: {}}]
    assert orjson.loads(encode_json("data", value, MAX_EVENT_BYTES)) == value
    check_depth("data", value)


def test_a_timestamp_is_in_utc_with_milliseconds():
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", timestamp_now())
