"""The body of a request: as a whole once it has arrived, or in pieces as it arrives."""

import io

import gevent
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.server.bodies.gunicorn_body import (
    READ_BYTES,
    BodyError,
    closes_after,
    read_arrived,
    read_pieces,
)
from tests.server.gunicorn_connection import CHUNKED, HEAD, GunicornConnection, with_length

BODY = b'{"data": 1}'
NEXT_REQUEST = b"GET / HTTP/1.1\r\n\r\n"


def read_all(connection: GunicornConnection) -> bytes:
    with gevent.Timeout(10):
        return b"".join(read_pieces(connection.body))


# A body that has arrived


@pytest.mark.parametrize("limit", [len(BODY), 1000])
def test_a_body_that_arrived_with_the_head_is_returned(limit):
    with GunicornConnection(with_length(len(BODY)) + BODY + NEXT_REQUEST) as connection:
        assert read_arrived(connection.body, connection.server, limit) == BODY
        assert connection.unreader.take_buffered() == NEXT_REQUEST
        assert read_all(connection) == b""


@pytest.mark.parametrize("with_head", [0, 5])
def test_a_body_that_arrived_after_the_head_is_returned(with_head):
    with GunicornConnection(with_length(len(BODY)) + BODY[:with_head]) as connection:
        connection.client.sendall(BODY[with_head:] + NEXT_REQUEST)
        assert read_arrived(connection.body, connection.server, 1000) == BODY
        assert connection.unreader.take_buffered() == b""
        assert connection.server.recv(1000) == NEXT_REQUEST


@pytest.mark.parametrize("arrived", [b"", BODY[:-1]])
def test_a_body_that_has_not_arrived_as_a_whole_is_left_to_read_pieces(arrived):
    with GunicornConnection(with_length(len(BODY))) as connection:
        connection.client.sendall(arrived)
        assert read_arrived(connection.body, connection.server, 1000) is None
        connection.client.sendall(BODY[len(arrived) :])
        assert read_all(connection) == BODY


def test_a_body_over_the_limit_is_left_to_read_pieces():
    with GunicornConnection(with_length(len(BODY)) + BODY) as connection:
        assert read_arrived(connection.body, connection.server, len(BODY) - 1) is None
        assert read_all(connection) == BODY


def test_a_chunked_body_is_left_to_read_pieces():
    with GunicornConnection(CHUNKED + b"1\r\na\r\n0\r\n\r\n") as connection:
        assert read_arrived(connection.body, connection.server, 1000) is None
        assert read_all(connection) == b"a"


@pytest.mark.parametrize("sent_before", [b"", b"ab"])
def test_a_body_of_a_client_that_has_gone_is_an_error_of_read_pieces(sent_before):
    with GunicornConnection(with_length(len(BODY)) + sent_before) as connection:
        connection.client.close()
        assert read_arrived(connection.body, connection.server, 1000) is None
        with pytest.raises(BodyError):
            read_all(connection)


def test_only_buffered_bytes_are_read_without_a_gevent_socket():
    with GunicornConnection(with_length(len(BODY))) as connection:
        connection.client.sendall(BODY)
        assert read_arrived(connection.body, object(), 1000) is None
        assert read_all(connection) == BODY


def test_a_body_of_another_server_is_left_to_read_pieces():
    body = io.BytesIO(BODY)
    assert read_arrived(body, None, 1000) is None
    assert list(read_pieces(body)) == [BODY]


# A body in pieces


@given(st.binary(max_size=200), st.integers(1, 200))
def test_a_body_with_a_length_is_read_to_its_end(body, first):
    with GunicornConnection(with_length(len(body)) + body[:first]) as connection:
        connection.client.sendall(body[first:] + NEXT_REQUEST)
        assert read_all(connection) == body
        assert not closes_after(connection.body)


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=5))
def test_a_chunked_body_is_read_to_its_end(chunks):
    raw = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    with GunicornConnection(CHUNKED + raw + b"0\r\n\r\n" + NEXT_REQUEST) as connection:
        assert read_all(connection) == b"".join(chunks)
        assert not closes_after(connection.body)


@pytest.mark.parametrize(
    ("head", "wire"),
    [(with_length(2), b"%b"), (CHUNKED, b"1\r\n%b\r\n")],
    ids=["length", "chunked"],
)
def test_a_piece_is_yielded_before_the_next_one_arrives(head, wire):
    with GunicornConnection(head) as connection, gevent.Timeout(10):
        pieces = read_pieces(connection.body)
        for byte in (b"a", b"b"):
            connection.client.sendall(wire % byte)
            assert next(pieces) == byte
            assert closes_after(connection.body)


def test_a_piece_has_a_maximum_size():
    body = b"\n" * (3 * READ_BYTES)
    with GunicornConnection(with_length(len(body))) as connection, gevent.Timeout(10):
        sending = gevent.spawn(connection.client.sendall, body)
        pieces = list(read_pieces(connection.body))
        sending.get()
        assert max(map(len, pieces)) <= READ_BYTES
        assert b"".join(pieces) == body


@pytest.mark.parametrize(
    "request_bytes",
    [
        with_length(3) + b"ab",
        CHUNKED + b"2\r\nab\r\n",
        CHUNKED + b"3\r\nab",
        CHUNKED + b"2\r\nab\r\n0\r\n",
        CHUNKED + b"2\r\nabc\r\n0\r\n\r\n",
        CHUNKED + b"2\r\nab\r\ng\r\n\r\n",
        CHUNKED + b"2\r\nab\r\n" + b"1" * 9000,
    ],
)
def test_a_truncated_or_malformed_body_is_an_error_after_its_good_pieces(request_bytes):
    with GunicornConnection(request_bytes) as connection, gevent.Timeout(10):
        connection.client.close()
        received: list[bytes] = []
        with pytest.raises(BodyError) as error:
            received.extend(read_pieces(connection.body))
        assert b"".join(received) == b"ab"
        assert len(str(error.value)) < 200
        assert closes_after(connection.body)


def test_a_reset_connection_is_an_error():
    with GunicornConnection(with_length(3)) as connection:
        connection.server.sendall(b"unread")
        connection.client.close()  # with unread bytes, it resets the connection
        with pytest.raises(BodyError):
            read_all(connection)


def test_a_request_without_a_body_has_no_pieces():
    with GunicornConnection(HEAD % b"X: no length") as connection:
        assert list(read_pieces(connection.body)) == []


def test_a_body_of_another_server_that_cannot_be_read_is_an_error():
    class FailingBody(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError("the client has gone")

    with pytest.raises(BodyError, match="the client has gone"):
        next(read_pieces(FailingBody()))
