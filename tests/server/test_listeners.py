"""Listening sockets: they open late, and nobody is left in their queue when they close."""

import errno
import socket

import gevent
import pytest
from gevent.server import StreamServer
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.sock import BaseSocket, TCPSocket

from app.server.listeners import close_empty, open_late, open_now


@pytest.fixture
def bound(monkeypatch):
    """Return a socket as gunicorn's master makes it."""
    monkeypatch.setattr(BaseSocket, "_is_listening", BaseSocket._is_listening)
    open_late()
    config = Config()
    listener = TCPSocket(("127.0.0.1", 0), config, Logger(config))
    yield listener.sock
    listener.close()


def test_a_socket_refuses_connections_until_a_worker_opens_it(bound):
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(bound.getsockname(), timeout=20)
    open_now(bound, 10)
    open_now(bound, 10)  # another worker
    socket.create_connection(bound.getsockname(), timeout=20).close()


def test_a_port_on_which_another_program_listens_meanwhile_is_an_error(bound):
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(bound.getsockname())
        other.listen()
        with pytest.raises(OSError, match="in use") as error:
            open_now(bound, 10)
    assert error.value.errno == errno.EADDRINUSE


def test_those_who_wait_in_the_queue_are_served_before_it_closes():
    served: list[socket.socket] = []
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(100)
        server = StreamServer(
            gevent.socket.socket(fileno=listener.detach()),
            handle=lambda client, address: served.append(client),
        )
    server.max_accept = 1
    server.start()
    clients = [socket.create_connection(server.address[:2], timeout=20) for _ in range(50)]
    address = server.address[:2]
    close_empty(server)
    gevent.sleep(0)
    assert len(served) == 50
    for client in clients:
        client.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=20)


def test_a_server_that_has_not_started_is_closed():
    server = StreamServer(("127.0.0.1", 0), handle=lambda client, address: None)
    close_empty(server)
    assert server.closed
