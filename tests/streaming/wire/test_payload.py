"""Payloads: the data of events alone, byte by byte."""

import json

import pytest

from app.streaming.event import Event
from app.streaming.event_id import EventId
from app.streaming.wire.frame import Frame
from app.streaming.wire.payload import PayloadEvents, payload_of

WIRE = PayloadEvents()


def entry(data: object, source: object = None, **names: str) -> list[bytes]:
    """Return an entry as the append script writes it."""
    fields = {
        "timestamp": "2026-01-01T00:00:00.000Z",
        "sequence": "7",
        "epoch": "123",
        "event_category": names.get("category", "llm"),
        "event_action": names.get("action", "stream"),
        "data": json.dumps(data, ensure_ascii=False, separators=(",", ":")),
    }
    if source is not None:
        fields["source"] = json.dumps(source)
    return [part.encode() for pair in fields.items() for part in pair]


def sent(data: object, source: object = None) -> bytes:
    return WIRE.frame(Frame.of_entry("r", b"5-1", entry(data, source)))


@pytest.mark.parametrize(
    "data",
    [
        {"type": "text-delta", "delta": "a"},
        [],
        0,
        False,
        "",
        "text",
        'a "data": , "source": b',
        {"data": None, "source": {"data": 1}},
        {"a": "\n\r\u2028\u2029\x85\0"},
    ],
)
def test_a_payload_is_the_data_on_one_line_with_the_id(data):
    head, line, *rest = sent(data).split(b"\n")
    assert head == b"id: 5-1"
    assert line.startswith(b"data: ")
    assert json.loads(line.removeprefix(b"data: ")) == data
    assert rest == [b"", b""]
    assert not sent(data).decode().splitlines()[2:-1]


def test_data_that_is_null_is_no_payload():
    assert sent(None) == b""
    assert sent(None, {"sse": {"text": True}}) == b""


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a", b"data: a\n"),
        ("", b"data: \n"),
        ("a\nb", b"data: a\ndata: b\n"),
        ("a\r\nb\rc\n", b"data: a\ndata: b\ndata: c\ndata: \n"),
        (" a: b", b"data:  a: b\n"),
        ("\u2028é", "data: \u2028é\n".encode()),
    ],
)
def test_a_text_comes_as_it_was(text, lines):
    assert sent(text, {"sse": {"text": True}}) == b"id: 5-1\n%b\n" % lines


@pytest.mark.parametrize(
    "source",
    [
        "text",
        {"sse": None},
        {"sse": {"text": False}},
        {"sse": {"event": "a.b"}},
        {"sse": {"text": "yes"}},
        {"sse": [1]},
        {"text": True},
        [{"sse": {"text": True}}],
    ],
)
def test_a_source_that_says_nothing_of_a_text_changes_nothing(source):
    assert sent("a", source) == b'id: 5-1\ndata: "a"\n\n'


def test_a_text_that_is_no_string_is_json():
    assert sent([1], {"sse": {"text": True}}) == b"id: 5-1\ndata: [1]\n\n"


def test_an_event_of_another_program_has_its_data():
    frame = Frame.of_entry("r", b"5-1", [b"data", b"no json", b"x", b"y"])
    assert WIRE.frame(frame) == b'id: 5-1\ndata: "no json"\n\n'
    assert WIRE.frame(Frame.of_entry("r", b"5-1", [b"x", b"y"])) == b""


def test_a_control_event_is_a_comment():
    notice = Frame.control("r", "gap", {"a": "b\nc"}, cursor=EventId(1, 0), id_line=EventId(1, 0))
    comment, rest = WIRE.frame(notice).split(b"\n")
    assert rest == b""
    assert comment.startswith(b": gateway.gap {")
    assert json.loads(comment.removeprefix(b": gateway.gap "))["data"] == {"a": "b\nc"}


def test_the_name_of_an_event_is_kept():
    event = Event.from_entry("r", b"5-1", {b"data": b"1", b"source": b'{"sse":{"event":"a.b"}}'})
    payload = payload_of(event.to_json())
    assert payload is not None
    assert payload.name == "a.b"


def test_heartbeats_and_retries_are_those_of_every_stream():
    assert WIRE.heartbeat("r") == b": heartbeat\n"
    assert WIRE.opening("r", 3000).startswith(b"retry: ")
    assert WIRE.content_type == "text/event-stream; charset=utf-8"


def test_data_too_deep_for_the_decoder_comes_within_the_whole_event_as_a_text():
    """Another program may have written it. An error would end the streams of other runs."""
    event = b'{"id":"5-1","data":%b,"source":null}' % (b"[" * 1000 + b"]" * 1000)
    assert payload_of(event).json == json.dumps(event.decode()).encode()
    source = b'{"data":1,"source":{"sse":%b}}' % (b"[" * 990 + b"]" * 990)
    assert payload_of(source).json in (b"1", json.dumps(source.decode()).encode())
