"""The non-blocking body: it reads the same bytes of a connection as gunicorn does."""

from itertools import pairwise
from typing import NamedTuple

import pytest
from gunicorn.http.errors import ParseException
from hypothesis import given
from hypothesis import strategies as st

from app.server.bodies.gunicorn_body import BodyError
from app.server.bodies.nonblocking_body import MAX_TRAILER_BYTES, NonBlockingBody
from tests.server.gunicorn_connection import CHUNKED, HEAD, GunicornConnection, with_length

RECEIVE_BYTES = 4096


class Read(NamedTuple):
    """The body that was read from a connection, and the bytes after a complete body."""

    body: bytes
    complete: bool
    after: bytes = b""


def read_without_blocking(pieces: list[bytes]) -> Read:
    with GunicornConnection(pieces[0]) as connection:
        nonblocking = connection.nonblocking_body()
        body = nonblocking.receive(RECEIVE_BYTES)
        for piece in pieces[1:]:
            connection.client.sendall(piece)
            if not nonblocking.error:
                body += nonblocking.receive(RECEIVE_BYTES)
        connection.client.shutdown(1)
        while not (nonblocking.ended or nonblocking.error):
            body += nonblocking.receive(RECEIVE_BYTES)
        try:
            nonblocking.give_back()
        except BodyError:
            return Read(body, complete=False)
        if nonblocking.error:
            return Read(body, complete=False)
        return Read(body, True, unread_bytes(connection))


def read_by_gunicorn(pieces: list[bytes]) -> Read:
    with GunicornConnection(b"".join(pieces)) as connection:
        connection.client.shutdown(1)
        body = b""
        try:
            while data := connection.body.reader.read(1):
                body += data
        except (ParseException, OSError):
            return Read(body, complete=False)
        return Read(body, True, unread_bytes(connection))


def unread_bytes(connection: GunicornConnection) -> bytes:
    rest = connection.unreader.take_buffered()
    while data := connection.server.recv(65536):
        rest += data
    return rest


def split(raw: bytes, places: list[int]) -> list[bytes]:
    places = sorted({place % (len(raw) + 1) for place in places} | {0, len(raw)})
    return [raw[start:end] for start, end in pairwise(places)]


def with_head(head: bytes, pieces: list[bytes], joined: bool) -> list[bytes]:
    """Return what to send: the head by itself, or `joined` with the first piece."""
    return [head + pieces[0], *pieces[1:]] if joined else [head, *pieces]


SIZE_LINES = st.sampled_from([b"%x", b"%X", b"0%x", b"%x;a=b", b'%x ; a="\\"x"', b"%x \t;b"])
CHUNKS = st.lists(st.tuples(SIZE_LINES, st.binary(min_size=1, max_size=40)), max_size=6)
LAST_CHUNKS = st.sampled_from([b"0", b"000", b"0;a", b"0 ;b=c"])
TRAILERS = st.sampled_from([b"", b"X-Trailer: 1\r\n"])
AFTER = st.sampled_from([b"", b"GET / HTTP/1.1\r\n\r\n", b"\0"])


@st.composite
def chunked_bodies(draw) -> bytes:
    chunks = [b"%b\r\n%b\r\n" % (line % len(data), data) for line, data in draw(CHUNKS)]
    return b"".join([*chunks, draw(LAST_CHUNKS), b"\r\n", draw(TRAILERS), b"\r\n", draw(AFTER)])


@given(chunked_bodies(), st.lists(st.integers(0, 1000), max_size=8), st.booleans())
def test_a_chunked_body_is_read_as_gunicorn_reads_it(raw, places, joined):
    read = read_without_blocking(with_head(CHUNKED, split(raw, places), joined))
    assert read.complete
    assert read == read_by_gunicorn([CHUNKED + raw])


@given(
    chunked_bodies(),
    st.lists(st.integers(0, 1000), max_size=8),
    st.integers(0, 1000),
    st.sampled_from([b"", b"\r", b"\n", b"\r\n", b"0", b"g", b";", b" ", b"-1", b"+", b"0x", b"_"]),
    st.integers(0, 3),
    st.booleans(),
)
def test_a_malformed_chunked_body_is_refused_where_gunicorn_refuses_it(
    raw, places, place, replacement, removed, joined
):
    """Up to three bytes are replaced by others, or the body is truncated there."""
    place %= len(raw)
    raw = raw[:place] + replacement + (raw[place + removed :] if removed or replacement else b"")
    read = read_without_blocking(with_head(CHUNKED, split(raw + b"\r\n", places), joined))
    expected = read_by_gunicorn([CHUNKED + raw + b"\r\n"])
    assert read.complete == expected.complete
    if read.complete:
        assert read == expected


@given(st.binary(max_size=100), st.lists(st.integers(0, 1000), max_size=8), AFTER, st.booleans())
def test_a_body_ends_at_its_content_length(body, places, after, joined):
    head = with_length(len(body))
    read = read_without_blocking(with_head(head, split(body + after + b" ", places), joined))
    assert read == Read(body, True, after + b" ")


@given(st.binary(max_size=100), st.lists(st.integers(0, 1000), max_size=8), st.integers(1, 99))
def test_a_truncated_body_is_an_error_after_the_bytes_that_arrived(body, places, missing):
    head = with_length(len(body) + missing)
    read = read_without_blocking([head, *split(body, places)])
    assert read == Read(body, complete=False)


def test_receive_returns_nothing_when_nothing_has_arrived():
    with GunicornConnection(CHUNKED) as connection:
        nonblocking = connection.nonblocking_body()
        assert nonblocking.receive(RECEIVE_BYTES) == b""
        assert not nonblocking.ended
        assert nonblocking.error is None


def test_a_closed_connection_is_an_error():
    with GunicornConnection(CHUNKED + b"1\r\na") as connection:
        nonblocking = connection.nonblocking_body()
        assert nonblocking.receive(RECEIVE_BYTES) == b"a"
        connection.client.close()
        assert nonblocking.receive(RECEIVE_BYTES) == b""
        assert nonblocking.error is not None


@pytest.mark.parametrize("header", [b"Content-Length: 0", b"X: no length"])
def test_the_next_request_is_given_back_when_there_is_no_body(header):
    after = b"GET / HTTP/1.1\r\n\r\n"
    assert read_without_blocking([HEAD % header + after]) == Read(b"", True, after)


def test_receive_takes_no_more_than_the_given_size():
    with GunicornConnection(CHUNKED) as connection:
        nonblocking = connection.nonblocking_body()
        connection.client.sendall(b"ff\r\n%b" % (b"x" * 200))
        received = []
        while not received or nonblocking.has_more:
            received.append(nonblocking.receive(50))
            assert nonblocking.taken <= 50
        assert b"".join(received) == b"x" * 200
        assert (nonblocking.receive(50), nonblocking.taken) == (b"", 0)


def test_a_chunked_body_ends_after_its_trailers():
    with GunicornConnection(CHUNKED + b"1\r\na\r\n0") as connection:
        nonblocking = connection.nonblocking_body()
        nonblocking.receive(RECEIVE_BYTES)
        assert not nonblocking.is_ending
        for piece in (b"\r\n", b"X: 1", b"\r\n", b"\r"):
            connection.client.sendall(piece)
            nonblocking.receive(RECEIVE_BYTES)
            assert (nonblocking.is_ending, nonblocking.ended) == (True, False)
        connection.client.sendall(b"\n")
        nonblocking.receive(RECEIVE_BYTES)
        assert nonblocking.ended
        nonblocking.give_back()


def test_trailers_over_the_limit_are_an_error():
    with GunicornConnection(CHUNKED + b"0\r\n") as connection:
        nonblocking = connection.nonblocking_body()
        for _ in range(2 * MAX_TRAILER_BYTES // 16):
            connection.client.sendall(b"X: 0123456789a\r\n")
            nonblocking.receive(RECEIVE_BYTES)
            if nonblocking.error:
                break
        assert nonblocking.error is not None


def test_the_error_of_a_malformed_body_is_short():
    with GunicornConnection(CHUNKED + b"g" * 5000 + b"\r\n") as connection:
        nonblocking = connection.nonblocking_body()
        nonblocking.receive(RECEIVE_BYTES)
        nonblocking.receive(RECEIVE_BYTES)
        assert len(str(nonblocking.error)) < 300


def test_a_chunk_size_line_without_an_end_is_an_error():
    with GunicornConnection(CHUNKED) as connection:
        nonblocking = connection.nonblocking_body()
        for _ in range(20_000):
            connection.client.sendall(b"1")
            nonblocking.receive(RECEIVE_BYTES)
            if nonblocking.error:
                break
        assert nonblocking.error is not None


@pytest.mark.parametrize("environ", [{}, {"gunicorn.socket": object()}])
def test_there_is_no_nonblocking_body_on_another_server(environ):
    assert NonBlockingBody.of({"wsgi.input": object(), **environ}) is None
