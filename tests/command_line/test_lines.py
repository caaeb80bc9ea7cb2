"""Lines of an input: odd bytes, long lines, and pieces that end anywhere."""

import pytest

from app.command_line.lines import MAX_PART_CHARACTERS, Part, split_lines, split_whole_lines
from app.streaming.new_event import MAX_EVENT_BYTES, NewEvent


def lines_of(*pieces: bytes) -> list[str]:
    parts = list(split_lines(iter(pieces)))
    assert not [part for part in parts if part.is_continued]
    return [part.text for part in parts]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"a\nb\n", ["a", "b"]),
        (b"a\nb", ["a", "b"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"10%\r20%\r\n", ["10%\r20%"]),
        (b"a\x0bb\x0cc\x1cd\xc2\x85e\xe2\x80\xa8f\n", ["a\x0bb\x0cc\x1cd\x85e\u2028f"]),
        (b"\0\n", ["\0"]),
        (b"\xff\xfe\n\xc3\n", ["\ufffd\ufffd", "\ufffd"]),
        (b"a\n\xe4\xb8", ["a", "\ufffd"]),
    ],
)
def test_lines_are_the_same_however_the_input_is_cut(text, lines):
    assert lines_of(text) == lines
    assert lines_of(*(text[at : at + 1] for at in range(len(text)))) == lines


def test_a_line_comes_before_the_next_piece_is_read():
    pieces = iter([b"one\ntw", b"o\n"])
    lines = split_lines(pieces)
    assert next(lines).text == "one"
    assert next(pieces) == b"o\n"


@pytest.mark.parametrize("end", [b"", b"\n"])
@pytest.mark.parametrize("size", [1000, 10**6])
def test_a_long_line_comes_in_parts_that_fit_into_events(end, size):
    length = 2 * MAX_PART_CHARACTERS + 1
    text = b"\0" * length + end
    pieces = (text[at : at + size] for at in range(0, len(text), size))
    parts = list(split_lines(pieces))
    assert [part.is_continued for part in parts] == [True, True, False]
    assert "".join(part.text for part in parts) == "\0" * length
    assert NewEvent.of("log", "line", parts[0].text).size <= MAX_EVENT_BYTES


def test_a_line_that_is_as_long_as_a_part_is_not_continued():
    assert list(split_lines(iter([b"a" * MAX_PART_CHARACTERS, b"\n"]))) == [
        Part("a" * MAX_PART_CHARACTERS, False)
    ]


def test_a_whole_line_that_is_too_long_is_none_and_costs_no_memory():
    pieces = [b"ab\n", b"12345", b"6789\nc", b"d\n123456", b"\nlast"]
    assert list(split_whole_lines(iter(pieces), 5)) == [b"ab", None, b"cd", None, b"last"]
    assert list(split_whole_lines(iter([b"123456"]), 5)) == [None]
