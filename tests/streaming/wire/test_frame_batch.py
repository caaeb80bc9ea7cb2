"""Batches of frames: the bytes of each stream format, encoded once, and parts of a batch."""

import pytest

from app.streaming.event import Event
from app.streaming.event_id import EventId
from app.streaming.wire.formats import EventStream, Filter, JsonLines, StreamFormat
from app.streaming.wire.frame import Frame
from app.streaming.wire.frame_batch import MAX_ENCODINGS, FrameBatch

TYPED, UNTYPED = (
    StreamFormat(Filter(), EventStream()),
    StreamFormat(Filter(), EventStream(typed=False)),
)
LINES = StreamFormat(Filter(), JsonLines())
ONLY_TOOLS = StreamFormat(Filter(frozenset({"tool"})), EventStream())


def batch(*categories: str, start: int = 0) -> FrameBatch:
    """One event of each category, with ids that count up after `start`."""
    return FrameBatch(
        EventId(start, 0),
        [
            Frame.of(
                Event.from_entry(
                    "r",
                    b"%d-0" % number,
                    {b"event_category": category.encode(), b"event_action": b"a"},
                )
            )
            for number, category in enumerate(categories, start + 1)
        ],
    )


def test_a_batch_ends_at_the_cursor_of_its_last_frame():
    some = batch("llm", "tool", start=4)
    assert (some.start, some.end) == (EventId(4, 0), EventId(6, 0))
    assert some.size == sum(len(frame.typed) for frame in some.frames)
    assert some.cost > some.size


@pytest.mark.parametrize(
    ("stream_format", "numbers", "bytes_of"),
    [
        (TYPED, (0, 1, 2), lambda frame: frame.typed),
        (UNTYPED, (0, 1, 2), lambda frame: frame.untyped),
        (LINES, (0, 1, 2), lambda frame: frame.json + b"\n"),
        (ONLY_TOOLS, (1,), lambda frame: frame.typed),
    ],
    ids=["typed", "untyped", "json lines", "filtered"],
)
def test_a_batch_has_the_bytes_and_the_number_of_events_of_each_format(
    stream_format, numbers, bytes_of
):
    some = batch("llm", "tool", "llm")
    expected = b"".join(bytes_of(some.frames[number]) for number in numbers)
    encoded = [some.encode(stream_format) for _ in range(2)]
    assert encoded == [(expected, len(numbers))] * 2


def test_control_events_are_not_counted():
    gap = Frame.control("r", "gap", None, cursor=EventId(0, 9))
    with_gap = FrameBatch(EventId(0, 0), [gap, *batch("llm").frames])
    body, events = with_gap.encode(ONLY_TOOLS)
    assert (body, events) == (gap.typed, 0)
    assert with_gap.encode(TYPED)[1] == 1


def test_equal_formats_share_the_same_bytes_object():
    some = batch("llm", "tool")
    first, _ = some.encode(StreamFormat(Filter(frozenset({"tool"})), EventStream()))
    assert some.encode(StreamFormat(Filter(frozenset({"tool"})), EventStream()))[0] is first


def test_formats_beyond_the_limit_get_their_bytes_too():
    some = batch(*"abcdefgh" * 2)
    for number, category in enumerate("abcdefgh"):
        stream_format = StreamFormat(Filter(frozenset({category})), EventStream())
        first, events = some.encode(stream_format)
        assert (first, events) == (some.frames[number].typed + some.frames[number + 8].typed, 2)
        assert (some.encode(stream_format)[0] is first) == (number < MAX_ENCODINGS)


def test_the_part_after_a_cursor():
    some = batch("llm", "llm", "llm", start=4)
    assert some.after(EventId(4, 0)) is some
    assert some.after(EventId(2, 0)) is some
    rest = some.after(EventId(5, 0))
    assert (rest.start, rest.end) == (EventId(5, 0), EventId(7, 0))
    assert rest.frames == some.frames[1:]
    assert some.after(EventId(6, 3)).frames == some.frames[2:]
