"""The worker, in moments that a test cannot bring about in a real gateway."""

import logging
import os
from types import SimpleNamespace

import gevent
from gevent import socket
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.workers.ggevent import GeventWorker

from app.server.worker import StreamingWorker


def test_a_connection_accepted_just_before_the_listener_closed_is_served(monkeypatch):
    def close_and_serve(worker: GeventWorker) -> None:
        listener.close()
        worker.handle(listener, accepted, ("127.0.0.1", 1))

    def hello(environ, start_response):
        start_response("200 OK", [("Content-Length", "5")])
        return [b"hello"]

    hosts = SimpleNamespace(listens_on=lambda addresses: None)
    hello.extensions = {"tailrace": SimpleNamespace(drain=lambda: None, hosts=hosts)}
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


def make_worker() -> StreamingWorker:
    config = Config()
    config.set("keepalive", 3600)
    worker = StreamingWorker(1, os.getppid(), [], None, 30, config, Logger(config))
    worker._names = {None: ("127.0.0.1", 1)}
    return worker


def test_a_connection_that_is_killed_while_it_is_silent_is_no_error(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("gunicorn.error"), "propagate", True)
    worker = make_worker()
    accepted, client = socket.socketpair()
    with client:
        serving = gevent.spawn(worker.handle, None, accepted, ("127.0.0.1", 1))
        gevent.sleep(0)
        assert len(worker._waits) == 1
        serving.kill()
        assert client.recv(1000) == b""
    assert not worker._waits
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]
    worker.tmp.close()


def test_a_drain_ends_the_wait_for_clients_that_stay_silent(monkeypatch):
    monkeypatch.setattr("app.server.worker.SILENT_SECONDS", 0.0)
    worker = make_worker()
    worker.wsgi = SimpleNamespace(extensions={"tailrace": SimpleNamespace(drain=lambda: None)})
    accepted, client = socket.socketpair()
    with client:
        serving = gevent.spawn(worker.handle, None, accepted, ("127.0.0.1", 1))
        gevent.sleep(0)
        worker._drain().join()
        serving.join(20)
        assert serving.successful()
        assert client.recv(1000) == b""
    worker.tmp.close()
