"""The worker, in moments that a test cannot bring about in a real gateway."""

import os
from types import SimpleNamespace

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
