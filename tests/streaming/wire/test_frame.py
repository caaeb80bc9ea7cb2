"""Frames, byte by byte: of events, of stream entries, and of control events."""

import itertools
import json

import pytest

from app.streaming.event import Event, pairs
from app.streaming.event_id import EventId
from app.streaming.wire.frame import Frame


def event(category: str = "llm", action: str = "stream", data: bytes = b"1") -> Event:
    names = {b"event_category": category.encode(), b"event_action": action.encode()}
    return Event.from_entry("r", b"5-1", {**names, b"data": data, b"sequence": b"2"})


def test_a_frame_has_an_id_a_name_and_one_line_of_data():
    some_event = event()
    frame = Frame.of(some_event)
    assert frame.typed == b"id: 5-1\nevent: llm.stream\ndata: " + some_event.to_json() + b"\n\n"
    assert frame.untyped == b"id: 5-1\ndata: " + some_event.to_json() + b"\n\n"
    assert frame.json == some_event.to_json()
    assert (frame.cursor, frame.category, frame.action) == (EventId(5, 1), "llm", "stream")


@pytest.mark.parametrize(
    "text", ["\n\nevent: x\ndata: y\n\n", "a\rb", "a\r\nb", "\x85", "\u2028\u2029", "\0", "\ufeff"]
)
def test_data_stays_on_its_line(text):
    frame = Frame.of(event(data=json.dumps(text, ensure_ascii=False).encode()))
    lines = frame.typed.decode().splitlines()
    assert [line.partition(":")[0] for line in lines] == ["id", "event", "data", ""]
    assert json.loads(lines[2].removeprefix("data: "))["data"] == text


@pytest.mark.parametrize(
    ("category", "action"),
    [("", ""), ("x y", "a"), ("a\nid: 9-9", "b"), ("gateway", "reset"), ("a", "\r\n\r\n")],
)
def test_an_event_written_by_others_with_an_invalid_name_has_no_event_line(category, action):
    frame = Frame.of(event(category, action))
    assert frame.typed == frame.untyped
    assert frame.typed.count(b"\n") == 3


def test_a_control_event_has_the_shape_of_an_event_without_id_and_sequence():
    frame = Frame.control("r", "gap", {"requested": "1-0"}, cursor=EventId(4, 9))
    identity, _, wire = frame.typed.partition(b"event: gateway.gap\ndata: ")
    assert identity == b""
    document = json.loads(wire.removesuffix(b"\n\n"))
    assert document.pop("timestamp").endswith("Z")
    assert document == {
        "id": None,
        "run_id": "r",
        "sequence": None,
        "event": {"category": "gateway", "action": "gap"},
        "data": {"requested": "1-0"},
        "source": None,
    }
    assert frame.untyped == b"data: " + wire
    assert json.loads(frame.json)["event"] == {"category": "gateway", "action": "gap"}
    assert frame.unfiltered


def test_a_control_event_carries_its_cursor_as_the_id_if_asked_to():
    frame = Frame.control("r", "caught_up", None, cursor=EventId(0, 0), id_line=EventId(0, 0))
    assert frame.typed.startswith(b"id: 0-0\nevent: gateway.caught_up\ndata: {")
    assert frame.untyped == frame.typed.replace(b"event: gateway.caught_up\n", b"")
    assert json.loads(frame.json)["event"]["action"] == "caught_up"


# Stream entries. Those that Tailrace appended are encoded without an Event in between.

FIELDS = {
    b"timestamp": (b"2026-01-01T00:00:00.000Z", b"", b'a"b', b"\xff", b"1\n"),
    b"sequence": (b"7", b"0", b"007", b"", b"x", b"-1", b"9" * 18, b"9" * 19, b"1\n"),
    b"epoch": (b"1767225600000000", b"", b"x", b"-1", b"1\n", b"\xff"),
    b"event_category": (b"llm", b"lifecycle", b"gateway", b"", b"a b", b"\xff", b"a\n"),
    b"event_action": (b"stream", b"completed", b"lost", b"", b"\xc3\xa9", b"a\r\nb"),
    b"data": (
        b'{"a":1}',
        b"null",
        b"",
        b"not json",
        b"[1,\n2\r]",
        b'"\xe2\x80\xa8\xc2\x85"',
        b"\xff",
    ),
    b"source": (b'{"s":2}', b"null", b"", b"{", b'"\xe2\x80\xa9"'),
}
USUAL = [value for name, (first, *_) in FIELDS.items() for value in (name, first)]


def both_ways(fields: list[bytes]) -> tuple[Frame, Frame]:
    """The frames of an entry and of its event, which knows no epoch."""
    event = Event.from_entry("run-1", b"5-1", pairs(fields))
    short = Frame.of_entry("run-1", b"5-1", fields)
    return short._replace(epoch=b""), Frame.of(event)


def with_values(**values: bytes) -> list[bytes]:
    return [
        part
        for name, (first, *_) in FIELDS.items()
        for part in (name, values.get(name.decode(), first))
    ]


@pytest.mark.parametrize("names", list(itertools.combinations(FIELDS, 2)))
def test_an_entry_with_any_values_gives_the_frame_of_its_event(names):
    one, other = names
    for first, second in itertools.product(FIELDS[one], FIELDS[other]):
        fields = with_values(**{one.decode(): first, other.decode(): second})
        short, long = both_ways(fields)
        assert short == long, fields
        short, long = both_ways(fields[:12])
        assert short == long, fields[:12]


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [b"a", b"b"],
        USUAL[:10],
        [*USUAL, b"more", b"1"],
        [*USUAL, b"lease_seconds", b"30"],
        [*USUAL[:12], b"lease_seconds", b"30"],
        [*USUAL[:12], b"other", b"1"],
        [*USUAL[2:4], *USUAL[:2], *USUAL[4:]],
        [*USUAL[:12], *USUAL[10:12]],
        [*USUAL[:4], *USUAL[6:]],
    ],
    ids=[
        "none",
        "others",
        "fewer",
        "more",
        "lease",
        "lease alone",
        "not source",
        "in another order",
        "data twice",
        "no epoch",
    ],
)
def test_an_entry_with_other_fields_gives_the_frame_of_its_event(fields):
    short, long = both_ways(fields)
    assert short == long


def test_a_frame_has_the_epoch_of_an_entry_that_tailrace_appended():
    assert Frame.of_entry("r", b"5-1", USUAL).epoch == b"1767225600000000"
    assert b"1767225600000000" not in Frame.of_entry("r", b"5-1", USUAL).typed


@pytest.mark.parametrize(
    "fields",
    [
        [*USUAL[:4], *USUAL[6:]],
        with_values(epoch=b""),
        with_values(epoch=b"x"),
        with_values(sequence=b"x"),
        [*USUAL, b"more", b"1"],
    ],
    ids=["none", "empty", "no number", "no sequence", "more fields"],
)
def test_an_entry_of_another_program_has_no_epoch(fields):
    assert Frame.of_entry("r", b"5-1", fields).epoch == b""


def test_a_frame_knows_its_sequence_and_whether_it_ends_the_run():
    ending = Frame.of_entry(
        "r", b"5-1", with_values(event_category=b"lifecycle", event_action=b"failed")
    )
    assert (ending.sequence, ending.terminal) == (7, True)
    assert not Frame.of_entry("r", b"5-1", USUAL).terminal
    control = Frame.control("r", "gap", None, cursor=EventId(1, 0))
    assert (control.sequence, control.terminal) == (None, False)
