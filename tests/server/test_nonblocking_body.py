"""The non-blocking body: it reads a connection's bytes as gunicorn does."""

from itertools import pairwise
from typing import NamedTuple

import gevent.socket
import pytest
from gunicorn.config import Config
from gunicorn.http.body import Body
from gunicorn.http.errors import ParseException
from gunicorn.http.parser import RequestParser
from hypothesis import given
from hypothesis import strategies as st

from app.server.body import BodyError
from app.server.nonblocking_body import MAX_TRAILER_BYTES, NonBlockingBody

HEAD = b"POST /runs/1/events HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n"
CHUNKED = HEAD % b"Transfer-Encoding: chunked"
SIZE = 4096  # received at once


class Read(NamedTuple):
    """What was made of a request: its body, whether that was whole, and what is behind it."""

    body: bytes
    whole: bool
    behind: bytes = b""


class Connection:
    """A request whose bytes come as the test says, with gunicorn's parser at the other end."""

    def __init__(self, first: bytes):
        self.client, server = gevent.socket.socketpair()
        self.client.sendall(first)
        self.server = server
        request = next(RequestParser(Config(), server, ("127.0.0.1", 1)))
        self.body: Body = request.body
        self.unreader = request.unreader

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.client.close()
        self.server.close()

    def nonblocking(self) -> NonBlockingBody:
        environ = {"wsgi.input": self.body, "gunicorn.socket": self.server}
        nonblocking = NonBlockingBody.of(environ)
        assert nonblocking is not None
        return nonblocking


def read_without_blocking(pieces: list[bytes]) -> Read:
    with Connection(pieces[0]) as connection:
        nonblocking = connection.nonblocking()
        body = nonblocking.receive(SIZE)
        for piece in pieces[1:]:
            connection.client.sendall(piece)
            if not nonblocking.error:
                body += nonblocking.receive(SIZE)
        connection.client.shutdown(1)
        while not (nonblocking.ended or nonblocking.error):
            body += nonblocking.receive(SIZE)
        try:
            nonblocking.give_back()
        except BodyError:
            return Read(body, whole=False)
        if nonblocking.error:
            return Read(body, whole=False)
        return Read(body, True, rest_of(connection))


def read_by_gunicorn(pieces: list[bytes]) -> Read:
    with Connection(b"".join(pieces)) as connection:
        connection.client.shutdown(1)
        body = b""
        try:
            while data := connection.body.reader.read(1):
                body += data
        except (ParseException, OSError):
            return Read(body, whole=False)
        return Read(body, True, rest_of(connection))


def rest_of(connection: Connection) -> bytes:
    rest = connection.unreader.take_buffered()
    while data := connection.server.recv(65536):
        rest += data
    return rest


def cut(raw: bytes, places: list[int]) -> list[bytes]:
    places = sorted({place % (len(raw) + 1) for place in places} | {0, len(raw)})
    return [raw[start:end] for start, end in pairwise(places)]


def behind_head(head: bytes, pieces: list[bytes], joined: bool) -> list[bytes]:
    """The head by itself, or with the first piece behind it in one packet."""
    return [head + pieces[0], *pieces[1:]] if joined else [head, *pieces]


SIZE_LINES = st.sampled_from([b"%x", b"%X", b"0%x", b"%x;a=b", b'%x ; a="\\"x"', b"%x \t;b"])
CHUNKS = st.lists(st.tuples(SIZE_LINES, st.binary(min_size=1, max_size=40)), max_size=6)
LAST = st.sampled_from([b"0", b"000", b"0;a", b"0 ;b=c"])
TRAILERS = st.sampled_from([b"", b"X-Trailer: 1\r\n"])
BEHIND = st.sampled_from([b"", b"GET / HTTP/1.1\r\n\r\n", b"\0"])


@st.composite
def chunked_bodies(draw) -> bytes:
    chunks = [b"%b\r\n%b\r\n" % (line % len(data), data) for line, data in draw(CHUNKS)]
    return b"".join([*chunks, draw(LAST), b"\r\n", draw(TRAILERS), b"\r\n", draw(BEHIND)])


@given(chunked_bodies(), st.lists(st.integers(0, 1000), max_size=8), st.booleans())
def test_a_chunked_body_is_what_gunicorn_makes_of_it(raw, places, joined):
    read = read_without_blocking(behind_head(CHUNKED, cut(raw, places), joined))
    assert read.whole
    assert read == read_by_gunicorn([CHUNKED + raw])


@given(
    chunked_bodies(),
    st.lists(st.integers(0, 1000), max_size=8),
    st.integers(0, 1000),
    st.sampled_from([b"", b"\r", b"\n", b"\r\n", b"0", b"g", b";", b" ", b"-1", b"+", b"0x", b"_"]),
    st.integers(0, 3),
    st.booleans(),
)
def test_a_malformed_one_is_refused_where_gunicorn_refuses_it(
    raw, places, place, put, dropped, joined
):
    """Something is put in the place of a few bytes; or the body breaks off there."""
    place %= len(raw)
    raw = raw[:place] + put + (raw[place + dropped :] if dropped or put else b"")
    read = read_without_blocking(behind_head(CHUNKED, cut(raw + b"\r\n", places), joined))
    expected = read_by_gunicorn([CHUNKED + raw + b"\r\n"])
    assert read.whole == expected.whole
    if read.whole:
        assert read == expected


@given(st.binary(max_size=100), st.lists(st.integers(0, 1000), max_size=8), BEHIND, st.booleans())
def test_an_announced_body_ends_where_it_says(body, places, behind, joined):
    head = HEAD % b"Content-Length: %d" % len(body)
    read = read_without_blocking(behind_head(head, cut(body + behind + b" ", places), joined))
    assert read == Read(body, True, behind + b" ")


@given(st.binary(max_size=100), st.lists(st.integers(0, 1000), max_size=8), st.integers(1, 99))
def test_a_body_that_ends_before_is_broken_off_and_what_came_is_given(body, places, missing):
    head = HEAD % b"Content-Length: %d" % (len(body) + missing)
    read = read_without_blocking([head, *cut(body, places)])
    assert read == Read(body, whole=False)


def test_nothing_that_has_come_is_nothing():
    with Connection(CHUNKED) as connection:
        nonblocking = connection.nonblocking()
        assert nonblocking.receive(SIZE) == b""
        assert not nonblocking.ended
        assert nonblocking.error is None


def test_a_reset_breaks_it_off():
    with Connection(CHUNKED + b"1\r\na") as connection:
        nonblocking = connection.nonblocking()
        assert nonblocking.receive(SIZE) == b"a"
        connection.client.close()
        assert nonblocking.receive(SIZE) == b""
        assert nonblocking.error is not None


@pytest.mark.parametrize("announced", [b"Content-Length: 0", b"X: no length"])
def test_what_stands_behind_no_body_is_given_back(announced):
    behind = b"GET / HTTP/1.1\r\n\r\n"
    assert read_without_blocking([HEAD % announced + behind]) == Read(b"", True, behind)


def test_it_reads_no_more_at_once_than_it_is_told():
    with Connection(CHUNKED) as connection:
        nonblocking = connection.nonblocking()
        connection.client.sendall(b"ff\r\n%b" % (b"x" * 200))
        received = []
        while not received or nonblocking.has_more:
            received.append(nonblocking.receive(50))
            assert nonblocking.taken <= 50
        assert b"".join(received) == b"x" * 200
        assert (nonblocking.receive(50), nonblocking.taken) == (b"", 0)


def test_the_end_is_where_the_trailers_end():
    with Connection(CHUNKED + b"1\r\na\r\n0") as connection:
        nonblocking = connection.nonblocking()
        nonblocking.receive(SIZE)
        assert not nonblocking.is_ending
        for piece in (b"\r\n", b"X: 1", b"\r\n", b"\r"):
            connection.client.sendall(piece)
            nonblocking.receive(SIZE)
            assert (nonblocking.is_ending, nonblocking.ended) == (True, False)
        connection.client.sendall(b"\n")
        nonblocking.receive(SIZE)
        assert nonblocking.ended
        nonblocking.give_back()


def test_trailers_have_a_limit():
    with Connection(CHUNKED + b"0\r\n") as connection:
        nonblocking = connection.nonblocking()
        for _ in range(2 * MAX_TRAILER_BYTES // 16):
            connection.client.sendall(b"X: 0123456789a\r\n")
            nonblocking.receive(SIZE)
            if nonblocking.error:
                break
        assert nonblocking.error is not None


def test_what_is_told_of_a_malformed_body_is_short():
    with Connection(CHUNKED + b"g" * 5000 + b"\r\n") as connection:
        nonblocking = connection.nonblocking()
        nonblocking.receive(SIZE)
        nonblocking.receive(SIZE)
        assert len(str(nonblocking.error)) < 300


def test_a_line_before_a_chunk_that_does_not_end_breaks_it_off():
    with Connection(CHUNKED) as connection:
        nonblocking = connection.nonblocking()
        for _ in range(20_000):
            connection.client.sendall(b"1")
            nonblocking.receive(SIZE)
            if nonblocking.error:
                break
        assert nonblocking.error is not None


@pytest.mark.parametrize("environ", [{}, {"gunicorn.socket": object()}])
def test_of_another_server_there_is_none(environ):
    assert NonBlockingBody.of({"wsgi.input": object(), **environ}) is None
