"""Parsing Server-Sent Events: the examples of the HTML Living Standard, and odd input."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.protocol.sse_parser import Message, SseParser


def parsed(*pieces: bytes, last_event_id: str = "") -> list[Message]:
    parser = SseParser(last_event_id)
    return [message for piece in pieces for message in parser.feed(piece)]


@pytest.mark.parametrize(
    ("stream", "messages"),
    [
        (
            b"data: YHOO\ndata: +2\ndata: 10\n\n",
            [("message", "YHOO\n+2\n10", "")],
        ),
        (
            b": test stream\n\ndata: first event\nid: 1\n\n"
            b"data:second event\nid\n\ndata:  third event\n\n",
            [
                ("message", "first event", "1"),
                ("message", "second event", ""),
                ("message", " third event", ""),
            ],
        ),
        (b"data\n\ndata\ndata\n\ndata:", [("message", "", ""), ("message", "\n", "")]),
        (b"data:test\n\ndata: test\n\n", [("message", "test", "")] * 2),
        (
            b"event: add\ndata: 1\n\nevent: remove\ndata: 2\n\n",
            [("add", "1", ""), ("remove", "2", "")],
        ),
    ],
    ids=["stock ticker", "four blocks", "empty data", "a space", "named"],
)
def test_the_examples_of_the_standard(stream, messages):
    assert parsed(stream) == messages


@pytest.mark.parametrize("line_break", [b"\n", b"\r", b"\r\n"])
def test_each_of_three_line_breaks_ends_a_line_at_once(line_break):
    stream = line_break.join([b"id: 1", b"data: a", b"data: b", b"", b""])
    assert parsed(stream) == [("message", "a\nb", "1")]
    assert parsed(*(stream[i : i + 1] for i in range(len(stream)))) == [("message", "a\nb", "1")]


def test_a_crlf_in_two_pieces_is_one_line_break():
    assert parsed(b"data: a\r", b"\ndata: b\r", b"", b"\n\r\n") == [("message", "a\nb", "")]


@pytest.mark.parametrize("character", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"])
def test_nothing_else_ends_a_line(character):
    assert parsed(f"data: a{character}b\n\n".encode()) == [("message", f"a{character}b", "")]


def test_a_byte_order_mark_is_dropped_only_at_the_beginning():
    bom = b"\xef\xbb\xbf"
    assert parsed(bom[:1], bom[1:] + b"data: a\n\n" + bom + b"data: b\n\n") == [
        ("message", "a", "")
    ]


def test_bytes_that_are_not_utf_8_are_replaced():
    assert parsed(b"data: \xff\xc3", b"\xa9\n\n") == [("message", "\ufffdé", "")]


def test_an_id_holds_until_the_next_one_and_an_id_with_nul_is_ignored():
    stream = b"id: 1\ndata: a\n\ndata: b\n\nid: 2\0\ndata: c\n\nid:3\ndata: d\n\n"
    assert [message.last_event_id for message in parsed(stream)] == ["1", "1", "1", "3"]


def test_a_resumed_stream_starts_with_the_given_id():
    assert parsed(b": open\n\ndata: a\n\n", last_event_id="7") == [("message", "a", "7")]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        *(("3000", 3.0), ("0", 0.0)),
        *(("-1", None), ("1.5", None), ("", None), ("٣", None), ("9" * 5000, None)),
    ],
)
def test_retry_is_digits_of_milliseconds(value, seconds):
    parser = SseParser()
    parser.feed(f"retry: {value}\n\n".encode())
    assert parser.retry_seconds == seconds


def test_unknown_fields_and_blocks_without_data_give_no_event():
    assert parsed(b"Data: a\nfoo: b\nevent: x\n\ndata: c\n\n") == [("message", "c", "")]


def test_an_unfinished_block_gives_no_event():
    assert parsed(b"data: a\n\nid: 2\ndata: b\n") == [("message", "a", "")]


LINES = st.sampled_from(
    ["data: a", "data:b é😀", "data", "id: 1", "id", "event: x", ": c", "", "retry: 5", "\u2028"]
)
BREAKS = st.sampled_from(["\n", "\r", "\r\n"])


def parsed_by_the_standard(stream: str) -> list[tuple[str, str, str]]:
    """Return the events of a whole stream, by the letter of the standard."""
    messages, last_event_id, event, data = [], "", "", ""
    for line in re.split("\r\n|\r|\n", stream)[:-1]:
        name, _, value = line.partition(":")
        value = value[1:] if value.startswith(" ") else value
        if not line:
            if data:
                messages.append((event or "message", data[:-1], last_event_id))
            event, data = "", ""
        elif name == "data":
            data += value + "\n"
        elif name == "event":
            event = value
        elif name == "id":
            last_event_id = value
    return messages


@given(st.lists(st.tuples(LINES, BREAKS), max_size=30), st.lists(st.integers(0, 400)))
def test_the_sizes_of_the_pieces_make_no_difference(lines, cuts):
    stream = "".join(line + line_break for line, line_break in lines)
    raw = stream.encode()
    places = [0, *sorted(cut for cut in cuts if cut < len(raw)), len(raw)]
    pieces = [raw[a:b] for a, b in itertools.pairwise(places)]
    assert parsed(*pieces) == parsed_by_the_standard(stream)


@given(st.lists(st.binary(max_size=20)))
def test_any_bytes_can_be_parsed(pieces):
    whole = parsed(b"".join(pieces), b"\n\ndata: end\n\n")
    assert whole == parsed(*pieces, b"\n\ndata: end\n\n")
    assert whole[-1].data == "end"
