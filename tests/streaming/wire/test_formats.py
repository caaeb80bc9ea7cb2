"""The formats of a stream: filters, heartbeats and frames, byte by byte."""

import json
import re

import pytest

from app.streaming.event import Event
from app.streaming.event_id import EventId
from app.streaming.wire.formats import EventStream, Filter, JsonLines
from app.streaming.wire.frame import Frame


def event(category: str = "llm", action: str = "stream", data: bytes = b"1") -> Event:
    names = {b"event_category": category.encode(), b"event_action": action.encode()}
    return Event.from_entry("r", b"5-1", {**names, b"data": data, b"sequence": b"2"})


@pytest.mark.parametrize(
    ("categories", "actions", "passes"),
    [
        ((), (), True),
        (("llm",), (), True),
        (("tool", "llm"), (), True),
        (("tool",), (), False),
        ((), ("stream",), True),
        ((), ("done",), False),
        (("llm",), ("done",), False),
        (("llm",), ("stream",), True),
    ],
)
def test_an_event_passes_a_filter_by_one_category_and_one_action(categories, actions, passes):
    event_filter = Filter(frozenset(categories), frozenset(actions))
    assert event_filter.passes(Frame.of(event())) is passes


def test_terminal_and_control_events_pass_every_filter():
    event_filter = Filter(frozenset({"tool"}), frozenset({"x"}))
    assert event_filter.passes(Frame.of(event("lifecycle", "completed")))
    assert event_filter.passes(Frame.control("r", "gap", None, cursor=EventId(1, 0)))
    assert not event_filter.passes(Frame.of(event("lifecycle", "started")))


def test_an_event_of_the_reserved_category_written_by_others_passes_no_filter_by_that():
    assert not Filter(frozenset({"llm"})).passes(Frame.of(event("gateway", "reset")))


def test_a_stream_opens_with_a_retry_and_a_comment():
    retry, comment, rest = EventStream().opening("r", 3000).split(b"\n")
    assert retry.startswith(b"retry: ")
    assert comment.startswith(b":")
    assert rest == b""


def test_the_retry_is_random_around_the_given_time():
    times = [int(EventStream().retry(3000).split()[1]) for _ in range(100)]
    assert 2000 <= min(times) < max(times) <= 4000


def test_a_heartbeat_is_a_comment():
    assert re.fullmatch(rb":[^\r\n]+\n", EventStream().heartbeat("r"))


@pytest.mark.parametrize("kind", ["opening", "retry", "heartbeat"])
def test_what_has_no_data_is_whole_lines_and_ends_no_block(kind):
    """Many decoders dispatch every block, also one that has no data."""
    wire = EventStream()
    lines = {
        "opening": wire.opening("r", 3000),
        "retry": wire.retry(3000),
        "heartbeat": wire.heartbeat("r"),
    }[kind]
    *whole, rest = lines.split(b"\n")
    assert rest == b""
    assert all(whole)


def test_a_frame_is_a_block_of_its_own_after_lines_without_data():
    wire, frame = EventStream(), Frame.of(event())
    sent = wire.opening("r", 3000) + wire.heartbeat("r") + frame.typed + wire.heartbeat("r")
    [block, rest] = sent.split(b"\n\n")
    assert block.endswith(b"\n" + frame.typed.removesuffix(b"\n\n"))
    assert rest == wire.heartbeat("r")


@pytest.mark.parametrize(
    "frame",
    [
        Frame.of(event()),
        Frame.control("r", "gap", None, cursor=EventId(1, 0)),
        Frame.control("r", "progress", None, cursor=EventId(1, 0), id_line=EventId(1, 0)),
    ],
    ids=["event", "gap", "progress"],
)
def test_without_types_neither_events_nor_control_events_have_an_event_line(frame):
    """So that `onmessage` of a browser gets all of them."""
    typed, untyped = EventStream().frame(frame), EventStream(typed=False).frame(frame)
    name = f"event: {frame.category}.{frame.action}\n".encode()
    assert name in typed
    assert untyped == typed.replace(name, b"")


def test_json_lines_are_one_object_a_line_and_nothing_else():
    wire = JsonLines()
    chunks = [
        wire.opening("r", 3000),
        wire.frame(Frame.of(event(data=b'"a\\n\xe2\x80\xa8"'))),
        wire.heartbeat("r"),
        wire.retry(3000),
    ]
    lines = b"".join(chunks).decode().splitlines()
    assert [json.loads(line)["event"]["category"] for line in lines] == [
        "gateway", "llm", "gateway",
    ]  # fmt: skip
