"""The line buffer: any split of a body gives the same lines, and no line gets too long."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.routes.ingest.line_buffer import LineBuffer, LineTooLong

MAX_LINE_BYTES = 5

PIECES = st.lists(st.sampled_from([b"\n", b"\r", b"a", b"bc"]), max_size=8).map(b"".join)
# A piece to add, how many lines to take after it, and whether to compact the buffer then.
STEPS = st.lists(st.tuples(PIECES, st.sampled_from([0, 1, 1000]), st.booleans()), max_size=12)


def buffer_of(*pieces: bytes, max_line_bytes: int = MAX_LINE_BYTES) -> LineBuffer:
    buffer = LineBuffer(max_line_bytes)
    for piece in pieces:
        buffer.add(piece)
    return buffer


def take_lines(buffer: LineBuffer, count: int = 1000) -> list[bytes]:
    lines = []
    while buffer.has_lines and len(lines) < count:
        lines.append(bytes(buffer.next_line()))
    return lines


# Any split into pieces


@given(STEPS)
def test_any_split_gives_the_lines_of_the_whole_body(steps):
    body = b"".join(piece for piece, _, _ in steps)
    buffer, lines = LineBuffer(len(body)), []
    for piece, count, compact in steps:
        buffer.add(piece)
        lines += take_lines(buffer, count)
        if compact:
            buffer.compact()
    buffer.end()
    lines += take_lines(buffer)
    expected = body.split(b"\n")
    assert lines == (expected if expected[-1] else expected[:-1])


@given(PIECES, PIECES)
def test_the_partial_line_begins_after_the_last_line_break(first, second):
    body = first + second
    buffer = buffer_of(first, second, max_line_bytes=len(body))
    partial = body.rpartition(b"\n")[2]
    assert buffer.has_lines is (b"\n" in body)
    assert buffer.has_partial_line is bool(partial)
    assert buffer.size == len(body)
    buffer.skip_lines()
    buffer.compact()
    assert not buffer.has_lines
    assert buffer.size == len(partial)


# The end of the body


def test_the_last_line_needs_no_line_break():
    buffer = buffer_of(b"a\nb")
    assert take_lines(buffer) == [b"a"]
    assert buffer.has_partial_line
    buffer.end()
    assert not buffer.has_partial_line
    assert take_lines(buffer) == [b"b"]


@pytest.mark.parametrize("pieces", [[], [b""], [b"a\n"]])
def test_there_is_no_line_after_the_last_line_break(pieces):
    buffer = buffer_of(*pieces)
    take_lines(buffer)
    buffer.end()
    assert not buffer.has_lines
    assert not buffer.has_partial_line


# The longest line


@pytest.mark.parametrize("pieces", [[b"12345\n"], [b"12345", b"\n"], [b"1", b"2345\n12345\n"]])
def test_a_line_may_have_the_maximum_length(pieces):
    assert set(take_lines(buffer_of(*pieces))) == {b"12345"}


def test_a_last_line_may_have_the_maximum_length():
    buffer = buffer_of(b"12345")
    buffer.end()
    assert take_lines(buffer) == [b"12345"]


@pytest.mark.parametrize("pieces", [[b"123456"], [b"12345", b"6"], [b"a\n", b"b\n123", b"456"]])
def test_a_partial_line_that_gets_too_long_is_an_error(pieces):
    buffer = buffer_of(*pieces[:-1])
    with pytest.raises(LineTooLong):
        buffer.add(pieces[-1])


def test_complete_lines_can_be_taken_after_a_partial_line_got_too_long():
    buffer = LineBuffer(MAX_LINE_BYTES)
    with pytest.raises(LineTooLong):
        buffer.add(b"a\nb\n123456")
    assert take_lines(buffer) == [b"a", b"b"]


@pytest.mark.parametrize("pieces", [[b"a\n123456\nb\n"], [b"a\n12345", b"6\nb\n"]])
def test_a_complete_line_that_is_too_long_is_an_error_when_it_is_taken(pieces):
    buffer = buffer_of(*pieces)
    assert buffer.next_line() == b"a"
    with pytest.raises(LineTooLong):
        buffer.next_line()
    assert buffer.next_line() == b"b"


# Freeing memory


def test_compact_keeps_only_the_partial_line():
    buffer = buffer_of(b"a\nb\nc")
    take_lines(buffer)
    assert buffer.size == 5
    buffer.compact()
    assert buffer.size == 1
    buffer.add(b"d\n")
    assert take_lines(buffer) == [b"cd"]


def test_compact_keeps_everything_while_lines_are_left():
    buffer = buffer_of(b"a\nb\nc")
    buffer.next_line()
    buffer.compact()
    assert buffer.size == 5
    assert take_lines(buffer) == [b"b"]


def test_skip_lines_drops_complete_lines_and_keeps_the_partial_line():
    buffer = buffer_of(b"a\nb\nc")
    buffer.skip_lines()
    assert not buffer.has_lines
    buffer.end()
    assert take_lines(buffer) == [b"c"]


def test_clear_drops_everything():
    buffer = buffer_of(b"a\nb")
    buffer.clear()
    assert (buffer.size, buffer.has_lines, buffer.has_partial_line) == (0, False, False)
    buffer.add(b"c\n")
    assert take_lines(buffer) == [b"c"]
