"""The wire formats: filters, heartbeats, batches, byte by byte."""

import json

import pytest

from app.streaming.event import Event
from app.streaming.event_id import EventId
from app.streaming.wire.formats import (
    MAX_ENCODINGS,
    EventStream,
    Filter,
    FrameBatch,
    JsonLines,
    StreamFormat,
)
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
def test_a_filter_wants_one_of_the_categories_and_one_of_the_actions(categories, actions, passes):
    wanted = Filter(frozenset(categories), frozenset(actions))
    assert wanted.passes(Frame.of(event())) is passes


def test_terminal_and_control_events_pass_every_filter():
    wanted = Filter(frozenset({"tool"}), frozenset({"x"}))
    assert wanted.passes(Frame.of(event("lifecycle", "completed")))
    assert wanted.passes(Frame.control("r", "gap", None, position=EventId(1, 0)))
    assert not wanted.passes(Frame.of(event("lifecycle", "started")))


def test_an_event_of_the_reserved_category_that_others_wrote_passes_no_filter_by_it():
    assert not Filter(frozenset({"llm"})).passes(Frame.of(event("gateway", "reset")))


def test_a_stream_opens_with_a_retry_and_a_comment():
    retry, comment, rest = EventStream().opening("r", 3000).split(b"\n\n")
    assert retry.startswith(b"retry: ")
    assert comment.startswith(b":")
    assert rest == b""


def test_the_retry_is_spread_around_what_was_asked_for():
    times = [int(EventStream().retry(3000).split()[1]) for _ in range(100)]
    assert 2000 <= min(times) < max(times) <= 4000


def test_a_heartbeat_is_a_comment_that_ends_with_an_empty_line():
    beat = EventStream().heartbeat("r")
    assert beat.startswith(b":")
    assert beat.endswith(b"\n\n")


def test_untyped_leaves_names_out_of_events_but_not_of_control_events():
    wire = EventStream(typed=False)
    assert b"event:" not in wire.frame(Frame.of(event()))
    assert b"event: gateway.gap" in wire.frame(
        Frame.control("r", "gap", None, position=EventId(1, 0))
    )


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


# BatchSender

TYPED, UNTYPED = (
    StreamFormat(Filter(), EventStream()),
    StreamFormat(Filter(), EventStream(typed=False)),
)
LINES = StreamFormat(Filter(), JsonLines())
ONLY_TOOLS = StreamFormat(Filter(frozenset({"tool"})), EventStream())


def batch(*categories: str, since: int = 0) -> FrameBatch:
    """One event of each category, with ids that count up after `since`."""
    return FrameBatch(
        EventId(since, 0),
        [
            Frame.of(
                Event.from_entry(
                    "r",
                    b"%d-0" % number,
                    {b"event_category": category.encode(), b"event_action": b"a"},
                )
            )
            for number, category in enumerate(categories, since + 1)
        ],
    )


def test_a_batch_ends_where_its_last_frame_stands():
    some = batch("llm", "tool", since=4)
    assert (some.since, some.position) == (EventId(4, 0), EventId(6, 0))
    assert some.size == sum(len(frame.typed) for frame in some.frames)
    assert some.cost > some.size


@pytest.mark.parametrize(
    ("view", "numbers", "form"),
    [
        (TYPED, (0, 1, 2), lambda frame: frame.typed),
        (UNTYPED, (0, 1, 2), lambda frame: frame.untyped),
        (LINES, (0, 1, 2), lambda frame: frame.json + b"\n"),
        (ONLY_TOOLS, (1,), lambda frame: frame.typed),
    ],
    ids=["typed", "untyped", "json lines", "filtered"],
)
def test_a_batch_gives_each_view_its_own_bytes_and_their_number(view, numbers, form):
    some = batch("llm", "tool", "llm")
    expected = b"".join(form(some.frames[number]) for number in numbers)
    assert [some.encode(view), some.encode(view)] == [(expected, len(numbers))] * 2


def test_control_events_are_no_events_to_count():
    told = Frame.control("r", "gap", None, position=EventId(0, 9))
    with_gap = FrameBatch(EventId(0, 0), [told, *batch("llm").frames])
    body, events = with_gap.encode(ONLY_TOOLS)
    assert (body, events) == (told.typed, 0)
    assert with_gap.encode(TYPED)[1] == 1


def test_equal_views_share_the_very_same_bytes():
    some = batch("llm", "tool")
    first, _ = some.encode(StreamFormat(Filter(frozenset({"tool"})), EventStream()))
    assert some.encode(StreamFormat(Filter(frozenset({"tool"})), EventStream()))[0] is first


def test_views_beyond_those_whose_bytes_are_kept_get_theirs_too():
    some = batch(*"abcdefgh" * 2)
    for number, category in enumerate("abcdefgh"):
        view = StreamFormat(Filter(frozenset({category})), EventStream())
        first, events = some.encode(view)
        assert (first, events) == (some.frames[number].typed + some.frames[number + 8].typed, 2)
        assert (some.encode(view)[0] is first) == (number < MAX_ENCODINGS)


def test_a_batch_after_a_cursor_is_what_comes_after_it():
    some = batch("llm", "llm", "llm", since=4)
    assert some.after(EventId(4, 0)) is some
    assert some.after(EventId(2, 0)) is some
    rest = some.after(EventId(5, 0))
    assert (rest.since, rest.position) == (EventId(5, 0), EventId(7, 0))
    assert rest.frames == some.frames[1:]
    assert some.after(EventId(6, 3)).frames == some.frames[2:]
