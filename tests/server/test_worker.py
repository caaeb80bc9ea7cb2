"""The worker, in moments that a test cannot bring about in a real gateway."""

import logging
import os
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent.event import Event
from gevent.pool import Pool
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.workers.ggevent import GeventWorker

from app.server.connections import Connections
from app.server.worker import StreamingWorker
from app.settings import Settings


def test_a_connection_accepted_just_before_the_listener_closed_is_served(monkeypatch):
    def close_and_serve(worker: GeventWorker) -> None:
        listener.close()
        worker.handle(listener, accepted, ("127.0.0.1", 1))

    def hello(environ, start_response):
        start_response("200 OK", [("Content-Length", "5")])
        return [b"hello"]

    hosts = SimpleNamespace(listens_on=lambda addresses: None)
    census = SimpleNamespace(start=lambda: None)
    store = SimpleNamespace(engine=SimpleNamespace(watch=lambda: None))
    sampler = SimpleNamespace(start=lambda readings: None)
    gateway = SimpleNamespace(
        drain=lambda: None,
        hosts=hosts,
        store=store,
        census=census,
        sampler=sampler,
        settings=Settings(),
    )
    hello.extensions = {"tailrace": gateway}
    monkeypatch.setattr(GeventWorker, "run", close_and_serve)

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    accepted, client = socket.socketpair()
    with client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        config = Config()
        worker = StreamingWorker(1, os.getppid(), [listener], None, 30, config, Logger(config))
        worker.wsgi = hello
        worker.run()
        assert client.recv(1000).endswith(b"hello")
        worker.tmp.close()


@pytest.fixture
def serve(monkeypatch) -> Iterator[Callable[..., tuple[gevent.Greenlet, socket.socket]]]:
    """Return a function that connects a client to a worker; it returns the greenlet and the client.

    The worker has an application. Its connections may be silent for an hour.
    """
    monkeypatch.setattr("app.server.worker.SILENT_SECONDS", 0.0)
    monkeypatch.setattr(logging.getLogger("gunicorn.error"), "propagate", True)
    config = Config()
    config.set("keepalive", 3600)
    worker = StreamingWorker(1, os.getppid(), [], None, 30, config, Logger(config))
    worker._names = {None: ("127.0.0.1", 1)}
    worker._connections = Connections(100)
    pool = Pool()
    worker.servers.append(SimpleNamespace(pool=pool, started=False, close=lambda: None))

    def connect(application: Any, sent: bytes) -> tuple[gevent.Greenlet, socket.socket]:
        application.extensions = {"tailrace": SimpleNamespace(drain=lambda: None)}
        worker.wsgi = application
        accepted, client = socket.socketpair()
        client.sendall(sent)
        connection = pool.spawn(worker.handle, None, accepted, ("127.0.0.1", 1))
        connection.worker = worker
        return connection, client

    yield connect
    worker.tmp.close()


def hello(environ, start_response):
    start_response("200 OK", [("Content-Length", "5")])
    return [b"hello"]


GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize("sent", [b"", b"GET / HT", GET])
def test_a_drain_ends_connections_that_stay_silent_and_that_is_no_error(serve, caplog, sent):
    connection, client = serve(hello, sent)
    gevent.sleep(0)
    if sent == GET:
        received = b""
        while not received.endswith(b"hello"):
            received += client.recv(1000)
        gevent.sleep(0)
    connection.worker._drain().join(20)
    connection.join(20)
    assert connection.dead
    assert client.recv(1000) == b""
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]
    client.close()


def test_a_drain_leaves_a_request_that_is_being_served_alone(serve):
    may_end = Event()

    def wait_and_say_hello(environ, start_response):
        may_end.wait()
        return hello(environ, start_response)

    connection, client = serve(wait_and_say_hello, GET)
    gevent.sleep(0)
    connection.worker._drain().join(20)
    gevent.sleep(0)
    assert not connection.dead
    may_end.set()
    assert client.recv(1000).startswith(b"HTTP/1.1 200")
    client.close()
    connection.join(20)
