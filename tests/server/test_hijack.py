"""Hijacking a client's connection from gunicorn."""

import socket
from http.client import HTTPResponse

import pytest

from app.server.hijack import hijack
from tests.server.gunicorn_connection import GunicornConnection

HEADERS = [("Content-Type", "text/event-stream")]


@pytest.mark.parametrize(
    ("version", "chunked"), [(b"HTTP/1.1", True), (b"HTTP/1.0", False)], ids=["1.1", "1.0"]
)
def test_the_headers_are_sent_and_the_connection_is_returned(version, chunked):
    request = b"GET / %b\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n" % version
    with GunicornConnection(request) as connection:
        response = connection.response()
        response.start_response("200 OK", HEADERS)
        hijacked = hijack(response.start_response)
        assert hijacked is not None
        assert hijacked.chunked is chunked
        hijacked.send_all(b"1\r\na\r\n" if chunked else b"a")
        hijacked.finish()
        received = HTTPResponse(connection.client)
        received.begin()
        assert received.headers["Content-Type"] == "text/event-stream"
        assert received.headers["Connection"] == "close"
        assert received.read() == b"a"


def test_gunicorn_writes_nothing_more_and_closes_the_connection():
    with GunicornConnection(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n") as connection:
        response = connection.response()
        response.start_response("200 OK", HEADERS)
        hijacked = hijack(response.start_response)
        assert hijacked is not None
        connection.client.recv(65536)
        assert response.should_close()
        response.close()  # as gunicorn's worker does after every response
        hijacked.close()
        assert connection.client.recv(1) == b""


def test_another_server_is_not_hijacked():
    assert hijack(lambda status, headers: None) is None


def test_a_connection_that_is_no_plain_gevent_socket_is_not_hijacked():
    """Such as one with TLS."""
    with GunicornConnection(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n") as connection:
        server, client = socket.socketpair()
        with server, client:
            response = connection.response()
            response.sock = server
            response.start_response("200 OK", HEADERS)
            assert hijack(response.start_response) is None
            client.setblocking(False)
            with pytest.raises(BlockingIOError):
                client.recv(1)
