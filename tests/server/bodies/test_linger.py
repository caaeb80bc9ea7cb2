"""Closing a connection whose request was not read to its end."""

import io
import itertools

import gevent
import pytest

from app.server.bodies import linger as linger_module
from app.server.bodies.gunicorn_body import closes_after, read_pieces
from app.server.bodies.linger import MAX_LEFT_BYTES, linger, take_unread
from tests.clocks import replace_time
from tests.server.gunicorn_connection import CHUNKED, HEAD, GunicornConnection, with_length


@pytest.mark.parametrize(
    "request_bytes", [with_length(3) + b"abc", CHUNKED + b"3\r\nabc\r\n0\r\n\r\n"]
)
def test_the_connection_of_a_request_that_was_read_is_not_taken(request_bytes):
    with GunicornConnection(request_bytes) as connection:
        assert b"".join(read_pieces(connection.body)) == b"abc"
        assert take_unread(connection.environ) is None
        assert not closes_after(connection.body)


@pytest.mark.parametrize("head", [HEAD % b"X: no length", with_length(MAX_LEFT_BYTES)])
def test_gunicorn_reads_a_small_unread_body_and_keeps_the_connection(head):
    with GunicornConnection(head) as connection:
        assert take_unread(connection.environ) is None
        assert not closes_after(connection.body)


@pytest.mark.parametrize("head", [with_length(MAX_LEFT_BYTES + 1), CHUNKED])
def test_the_connection_of_a_large_unread_body_is_taken_and_closed(head):
    with GunicornConnection(head) as connection:
        assert take_unread(connection.environ) is connection.server
        assert closes_after(connection.body)


@pytest.mark.parametrize("request_bytes", [with_length(3) + b"a", CHUNKED + b"1\r\na\r\n"])
def test_the_connection_of_a_partly_read_body_is_taken_and_closed(request_bytes):
    with GunicornConnection(request_bytes) as connection:
        assert next(read_pieces(connection.body)) == b"a"
        assert take_unread(connection.environ) is connection.server
        assert closes_after(connection.body)


def test_a_connection_of_another_server_is_not_taken():
    assert take_unread({"wsgi.input": io.BytesIO(b"abc")}) is None
    assert take_unread({"wsgi.input": io.BytesIO(b"abc"), "gunicorn.socket": object()}) is None


def test_linger_ends_the_response_and_discards_until_the_client_closes():
    with GunicornConnection(CHUNKED) as connection, gevent.Timeout(10):
        lingering = gevent.spawn(linger, connection.server, 3600.0)
        assert connection.client.recv(1) == b""
        for _ in range(10):
            connection.client.sendall(b"x" * 100_000)
        assert not lingering.ready()
        connection.client.close()
        lingering.get()


@pytest.mark.parametrize("seconds", [0.0, 0.01])
def test_linger_closes_the_connection_of_a_silent_client_after_the_time_limit(seconds):
    with GunicornConnection(CHUNKED) as connection, gevent.Timeout(10):
        linger(connection.server, seconds)
        assert connection.client.recv(1) == b""


def test_linger_refuses_further_bytes_after_the_time_limit(monkeypatch):
    """The clock advances one second at each look, so two of three seconds are left to read."""
    now = itertools.count().__next__
    replace_time(monkeypatch, linger_module, monotonic=now, sleep=gevent.sleep)

    def send_without_end() -> None:
        while True:
            connection.client.sendall(b"x" * 100_000)

    with GunicornConnection(CHUNKED) as connection, gevent.Timeout(10):
        sending = gevent.spawn(send_without_end)
        linger(connection.server, 3)
        with pytest.raises(BrokenPipeError):
            sending.get()
        assert now() == 4


def test_linger_returns_when_the_client_has_gone_before():
    with GunicornConnection(CHUNKED) as connection, gevent.Timeout(10):
        connection.server.sendall(b"unread")
        connection.client.close()
        linger(connection.server, 3600.0)
