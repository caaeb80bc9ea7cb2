"""Batches of frames: the bytes of each stream format, encoded once, and parts of a batch."""

import json
from itertools import pairwise

import pytest

from app.streaming.event import Event
from app.streaming.event_id import ZERO, EventId
from app.streaming.log.continuity import Stretch
from app.streaming.log.log_state import NO_LOG
from app.streaming.log.position import START, Between, Position
from app.streaming.wire.formats import EventStream, Filter, JsonLines, StreamFormat
from app.streaming.wire.frame import Frame
from app.streaming.wire.frame_batch import (
    MAX_BATCH_BYTES,
    MAX_ENCODINGS,
    FrameBatch,
    batches_after,
    batches_from,
    http_chunk,
    notice_batch,
)
from tests.streaming.positions import EPOCH, OTHER_EPOCH, at, log

TYPED, UNTYPED = (
    StreamFormat(Filter(), EventStream()),
    StreamFormat(Filter(), EventStream(typed=False)),
)
LINES = StreamFormat(Filter(), JsonLines())
ONLY_TOOLS = StreamFormat(Filter(frozenset({"tool"})), EventStream())


def batch(*categories: str, start: int = 0) -> FrameBatch:
    """One event of each category, with ids that count up after `start`."""
    frames = [
        Frame.of(
            Event.from_entry(
                "r",
                b"%d-0" % number,
                {b"event_category": category.encode(), b"event_action": b"a"},
            )
        )
        for number, category in enumerate(categories, start + 1)
    ]
    return FrameBatch(at(start), frames, at(start + len(frames)))


def notice(start: int, end: int) -> FrameBatch:
    gap = Frame.control("r", "gap", None, cursor=EventId(end, 0))
    return FrameBatch(at(start), [gap], at(end), notice="gap")


def numbers(some: FrameBatch) -> list[int]:
    return [frame.cursor.ms for frame in some.frames]


def test_a_batch_counts_its_events_and_its_bytes():
    some = batch("llm", "tool", start=4)
    assert some.events == 2
    assert some.size == sum(len(frame.typed) for frame in some.frames)
    assert some.cost > some.size
    assert (notice(4, 6).events, notice(4, 6).is_gap, some.is_gap) == (0, True, False)


@pytest.mark.parametrize(
    ("stream_format", "indexes", "bytes_of"),
    [
        (TYPED, (0, 1, 2), lambda frame: frame.typed),
        (UNTYPED, (0, 1, 2), lambda frame: frame.untyped),
        (LINES, (0, 1, 2), lambda frame: frame.json + b"\n"),
        (ONLY_TOOLS, (1,), lambda frame: frame.typed),
    ],
    ids=["typed", "untyped", "json lines", "filtered"],
)
@pytest.mark.parametrize("chunked", [False, True], ids=["plain", "chunked"])
def test_a_batch_has_the_bytes_and_the_number_of_events_of_each_format(
    stream_format, indexes, bytes_of, chunked
):
    some = batch("llm", "tool", "llm")
    expected = b"".join(bytes_of(some.frames[index]) for index in indexes)
    for _ in range(2):
        encoded = some.encode(stream_format, chunked)
        assert encoded.chunk == (http_chunk(expected) if chunked else expected)
        assert encoded.events == len(indexes)


@pytest.mark.parametrize(
    ("categories", "last_id", "dropped"),
    [
        (["tool", "tool"], 2, 0),
        (["llm", "tool"], 2, 0),
        (["tool", "llm", "llm"], 1, 2),
        (["llm", "tool", "llm"], 2, 1),
        (["llm", "llm"], None, 2),
    ],
)
def test_a_batch_says_what_the_filter_dropped_after_the_last_id(categories, last_id, dropped):
    encoded = batch(*categories).encode(ONLY_TOOLS)
    assert encoded.last_id == (None if last_id is None else EventId(last_id, 0))
    assert encoded.dropped == dropped


def test_without_a_filter_the_last_id_is_the_end_and_nothing_is_dropped():
    encoded = batch("llm", "llm").encode(TYPED)
    assert (encoded.last_id, encoded.dropped) == (EventId(2, 0), 0)


@pytest.mark.parametrize("stream_format", [TYPED, LINES, ONLY_TOOLS])
def test_a_notice_passes_every_filter_and_is_no_event_and_no_id(stream_format):
    gap = notice(1, 4)
    encoded = gap.encode(stream_format)
    assert encoded.chunk == stream_format.wire.frame(gap.frames[0])
    assert (encoded.events, encoded.last_id, encoded.dropped) == (0, None, 0)


def test_equal_formats_share_the_same_bytes_object():
    some = batch("llm", "tool")
    first = some.encode(StreamFormat(Filter(frozenset({"tool"})), EventStream())).chunk
    assert some.encode(StreamFormat(Filter(frozenset({"tool"})), EventStream())).chunk is first


def test_formats_beyond_the_limit_get_their_bytes_too():
    some = batch(*"abcdefgh" * 2)
    for number, category in enumerate("abcdefgh"):
        stream_format = StreamFormat(Filter(frozenset({category})), EventStream())
        first = some.encode(stream_format)
        assert first.chunk == some.frames[number].typed + some.frames[number + 8].typed
        assert first.events == 2
        assert (some.encode(stream_format).chunk is first.chunk) == (number < MAX_ENCODINGS)


# Parts of a batch


def test_the_part_after_a_position():
    some = batch("llm", "llm", "llm", start=4)
    assert some.after(at(4)) is some
    position = at(5)
    rest = some.after(position)
    assert rest.start is position
    assert rest.end is some.end
    assert rest.frames == some.frames[1:]
    assert some.after(Between(EPOCH, EventId(6, 3), 6)).frames == some.frames[2:]


@pytest.mark.parametrize(
    "position",
    [
        at(7),
        at(8),
        at(3),
        at(5, OTHER_EPOCH),
        Position(b"", EventId(5, 0), 5),
        Position(EPOCH, EventId(5, 0), 6),
        Position(EPOCH, EventId(5, 0), 4),
        Position(EPOCH, EventId(4, 0), 3),
        Position(EPOCH, EventId(5, 3), 5),
        Position(EPOCH, EventId(4, 3), 4),
        Position(EPOCH, EventId(5, 3), None),
        Position(EPOCH, EventId(4, 0), None),
        START,
    ],
    ids=[
        "its end",
        "after it",
        "before it",
        "another log",
        "a log that nobody knows",
        "more came before",
        "fewer came before",
        "fewer came before the start",
        "an entry that is not in it",
        "an entry that is not before it",
        "between events, unproven",
        "the start, unproven",
        "the start of every log",
    ],
)
def test_a_position_that_is_not_in_the_batch_gets_no_part_of_it(position):
    assert batch("llm", "llm", "llm", start=4).after(position) is None


def test_a_position_without_a_sequence_is_proved_by_its_entry():
    some = batch("llm", "llm", "llm", start=4)
    rest = some.after(Position(EPOCH, EventId(5, 0), None))
    assert numbers(rest) == [6, 7]


def test_a_batch_whose_start_is_uncounted_has_no_parts():
    """Entries may be missing within it, or a notice stands before it."""
    some = batch("llm", "llm", "llm", start=4)
    start = at(4)._replace(sequence=None)
    uncounted = FrameBatch(start, some.frames, some.end)
    for position in (
        *(start, at(5), at(5)._replace(sequence=None)),
        Position(EPOCH, EventId(5, 3), 5),
    ):
        assert uncounted.after(position) is None


def test_a_batch_from_the_start_of_every_log_is_of_its_own_log():
    some = batch("llm", "llm")
    first = FrameBatch(START, some.frames, some.end)
    assert first.after(START) is None
    assert numbers(first.after(at(0))) == [1, 2]
    assert numbers(first.after(at(1))) == [2]
    assert first.after(at(0, OTHER_EPOCH)) is None


def test_a_notice_has_no_parts():
    gap = notice(4, 8)
    assert gap.after(at(4)) is gap
    assert [gap.after(at(number)) for number in (3, 5, 8, 9)] == [None] * 4


# From entries


def entry(number: int, sequence: int | None = None, epoch: bytes = EPOCH, size: int = 1) -> list:
    fields = {
        b"timestamp": b"2026-01-01T00:00:00.000Z",
        b"sequence": b"%d" % (sequence or number),
        b"epoch": epoch,
        b"event_category": b"llm",
        b"event_action": b"a",
        b"data": b"1" * (size if size == 1 else size - 300),
    }
    return [b"%d-0" % number, [part for pair in fields.items() for part in pair]]


def raw(number: int) -> list:
    """An entry of another program."""
    return [b"%d-0" % number, [b"data", b"1"]]


def test_entries_that_prove_that_they_follow_are_a_batch():
    [some] = batches_after("r", at(4), [entry(5), entry(6)])
    assert (some.start, some.end, numbers(some)) == (at(4), at(6), [5, 6])
    [first] = batches_after("r", START, [entry(1)])
    assert (first.start, first.end) == (START, at(1))


@pytest.mark.parametrize(
    "entries",
    [
        [entry(6)],
        [entry(5), entry(7)],
        [entry(5, 4)],
        [entry(5, epoch=OTHER_EPOCH)],
        [entry(5), entry(6, epoch=OTHER_EPOCH)],
        [raw(5)],
        [entry(5), raw(6)],
    ],
    ids=[
        "a hole before",
        "a hole between",
        "numbered again",
        "another log",
        "another log later",
        "another program",
        "another program later",
    ],
)
def test_entries_that_prove_nothing_are_no_batch(entries):
    assert batches_after("r", at(4), entries) == []


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([1] * 10, [10]),
        ([30_000] * 5, [2, 2, 1]),
        ([1, 200_000, 1], [1, 1, 1]),
        ([200_000] * 3, [1, 1, 1]),
        ([MAX_BATCH_BYTES], [1]),
    ],
    ids=["small ones", "middling ones", "a huge one between", "huge ones", "a lone one"],
)
def test_a_batch_is_of_bounded_size_or_one_frame(sizes, expected):
    entries = [entry(number, size=size) for number, size in enumerate(sizes, 5)]
    found = batches_after("r", at(4), entries)
    assert [some.events for some in found] == expected
    assert all(some.size <= MAX_BATCH_BYTES or some.events == 1 for some in found)
    assert (found[0].start, found[-1].end) == (at(4), at(4 + len(sizes)))
    assert all(first.end is second.start for first, second in pairwise(found))
    assert [some.end for some in found] == [at(numbers(some)[-1]) for some in found]


def test_what_a_log_goes_on_with_is_batches_that_follow_one_another():
    found = batches_from(
        "r", at(1), [entry(2), entry(5), entry(6)], log(6, deleted=EventId(4, 0)), whole=True
    )
    assert [(each.events, each.frames[0].action, each.end) for each in found] == [
        (1, "a", at(2)),
        (0, "gap", at(4)._replace(id=EventId(2, 0))),
        (2, "a", at(6)),
    ]
    assert found[0].start == at(1)
    for one, following in pairwise(found):
        assert one.end is following.start


def test_the_data_of_a_notice_are_where_the_client_was_and_what_there_is():
    stretch = Stretch(at(3), Position(b"", ZERO, 0), "reset")
    [frame] = notice_batch("r", stretch, NO_LOG).frames
    assert json.loads(frame.json)["data"] == {
        "requested": "3-0",
        "earliest": None,
        "latest": None,
    }
    assert not frame.typed.startswith(b"id:")
