"""Server-Sent Events in a body: any split into pieces gives the events of the standard."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.protocol.sse_parser import SseParser as ClientParser
from app.routes.ingest.line_buffer import LineBuffer
from app.routes.ingest.sse_parser import LineFeeds, SseEvent, SseParser
from app.routes.problems import FieldError
from app.streaming.errors import EventTooLarge

MAX_EVENT_BYTES = 100

PARTS = st.sampled_from(
    [
        *("\n", "\r", "\r\n", "\n\n", "data", "event", "id", "retry", ":", ": ", " ", "data:"),
        *("data: a", "data: {}", "event: b", "id: 1", "retry: 5", ": ping", "\ufeff", "é", "\0"),
        *("\u2028", "\x85", "\x0b", "\x0c", "\x1c", "dat", "Data: x", "data : x"),
    ]
)
BODIES = st.lists(PARTS, max_size=30).map("".join).map(str.encode)


def pieces_of(body: bytes, *cuts: int) -> list[bytes]:
    ends = [*sorted(cuts), len(body)]
    return [body[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def parse(pieces: list[bytes], limit: int = 10_000) -> list[SseEvent]:
    buffer, feeds, parser, events = LineBuffer(limit), LineFeeds(), SseParser(limit), []
    for piece in pieces:
        buffer.add(feeds.convert(piece))
        while buffer.has_lines:
            event = parser.read(buffer.next_line())
            if event is not None:
                events.append(event)
        buffer.compact()
    return events


def texts(events: list[SseEvent]) -> list[tuple[str, str]]:
    return [(event.name, event.data.decode()) for event in events]


def lines_of(text: bytes) -> list[bytes]:
    """Return lines as the standard has them: by hand, to compare with."""
    lines, line, at = [], b"", 0
    while at < len(text):
        if text[at : at + 2] == b"\r\n":
            lines, line, at = [*lines, line], b"", at + 2
        elif text[at : at + 1] in (b"\r", b"\n"):
            lines, line, at = [*lines, line], b"", at + 1
        else:
            line, at = line + text[at : at + 1], at + 1
    return [*lines, line]


@given(BODIES, st.lists(st.integers(0, 200), max_size=6))
def test_any_body_in_any_pieces_gives_the_events_of_a_client(body, cuts):
    expected = [(each.event, each.data) for each in ClientParser().feed(body)]
    assert texts(parse(pieces_of(body, *cuts))) == expected


@given(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"a"]), max_size=12).map(b"".join))
def test_every_line_break_becomes_a_line_feed_wherever_a_body_is_cut(body):
    for cut in range(len(body) + 1):
        feeds = LineFeeds()
        converted = b"".join(map(feeds.convert, [body[:cut], b"", body[cut:]]))
        assert converted.split(b"\n") == lines_of(body)


BODY = (
    ": commentaire\nevent: é\ndata: un\ndata:deux\n\n\nid: 7\nretry: 10\ndata\n\n"
    'data:  {"a": "分"}\nother: x\nevent\n\nevent: none\n\ndata: [DONE]\n\ndata: cut'
)
EVENTS = [("é", "un\ndeux"), ("message", ""), ("message", ' {"a": "分"}'), ("message", "[DONE]")]


@pytest.mark.parametrize("line_break", ["\n", "\r", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_body_may_be_cut_at_every_byte(line_break, mark):
    body = (mark + BODY.replace("\n", line_break)).encode()
    for cut in range(len(body) + 1):
        assert texts(parse(pieces_of(body, cut))) == EVENTS
    assert texts(parse([bytes([each]) for each in body])) == EVENTS


@pytest.mark.parametrize("line_break", [b"\n", b"\r", b"\r\n"])
def test_an_event_has_the_number_of_its_first_line(line_break):
    body = b": ping\nid: 5\nevent: a\n: pong\ndata: 1\n\n\ndata: 2\ndata: 3\n\n"
    events = parse([body.replace(b"\n", line_break)])
    assert [(event.line, event.data) for event in events] == [(3, b"1"), (8, b"2\n3")]


def test_only_the_first_line_may_have_a_byte_order_mark():
    mark = b"\xef\xbb\xbf"
    body = mark + b"data: 1\n\n" + mark + b"data: 2\n\n" + mark + mark
    assert texts(parse([body])) == [("message", "1")]
    assert texts(parse([mark + mark + b"data: 1\n\n"])) == []


@pytest.mark.parametrize("line", [b"data: \xff", b": \xff", b"id: \xc3", b"\xed\xa0\x80", b"x\xfe"])
def test_a_line_that_is_not_utf_8_is_refused_whatever_it_is(line):
    parser = SseParser(MAX_EVENT_BYTES)
    parser.read(b"")
    with pytest.raises(FieldError) as caught:
        parser.read(line)
    assert (caught.value.code, caught.value.field, parser.line) == (400, "body", 2)


# The largest event


@pytest.mark.parametrize(
    "lines",
    [
        [b"data: " + b"x" * 100],
        [b"data: " + b"x" * 60, b"data: " + b"x" * 39],  # and a line feed
        [b"data"] * 101,
        [b"event: " + b"e" * 60, b"data: " + b"x" * 40],
        [b"event: " + b"e" * 100, b"event: " + b"e" * 50, b"data:" + b"x" * 50],
        [b": " + b"x" * 1000, b"id: " + b"x" * 1000, b"other: " + b"x" * 1000, b"data: x"],
    ],
)
def test_an_event_may_have_the_largest_size_and_not_a_byte_more(lines):
    parser = SseParser(MAX_EVENT_BYTES)
    for line in lines:
        assert parser.read(line) is None
    assert parser.size <= MAX_EVENT_BYTES + 1
    assert parser.read(b"") is not None
    assert (parser.size, parser.has_begun) == (0, False)
    for line in lines:
        parser.read(line)
    with pytest.raises(EventTooLarge):
        parser.read(b"data:" + b"x" * 100)
    assert parser.line == next(
        number
        for number, line in enumerate(lines, len(lines) + 2)
        if line.startswith((b"data", b"event"))
    )


def test_ten_thousand_lines_of_one_event_are_one_event():
    parser = SseParser(262_144)
    for number in range(10_000):
        parser.read(b"data: %d" % number)
    event = parser.read(b"")
    assert event.data == b"\n".join(b"%d" % number for number in range(10_000))


def test_an_event_of_many_lines_is_refused_at_the_line_that_makes_it_too_large():
    parser = SseParser(262_144)
    line = b"data: " + b"x" * 99  # and a line feed
    for _ in range(262_144 // 100):
        parser.read(line)
    with pytest.raises(EventTooLarge):
        parser.read(line)
    assert parser.line == 1
