"""An S3 that can be stopped and keeps what it holds, and a server that never answers."""

import socket
from typing import Self

import requests
from moto.server import ThreadedMotoServer

from tests.integration.archive.buckets import KEYS
from tests.servers import Server, free_port


class LastingS3Server(Server):
    """moto's server in a thread, with one bucket: what is in it outlives a stop."""

    def __init__(self) -> None:
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.url = "s3://bucket/some/path"
        self.environ = {**KEYS, "AWS_ENDPOINT_URL": self.endpoint}
        self._server: ThreadedMotoServer | None = None

    def start(self) -> Self:
        self._server = ThreadedMotoServer("127.0.0.1", self.port, verbose=False)
        self._server.start()
        requests.put(f"{self.endpoint}/bucket", timeout=20).raise_for_status()
        return self

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None


class SilentServer(Server):
    """Takes connections at a port, and never answers."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.socket()

    def start(self) -> Self:
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", self._port))
        self._listener.listen(100)
        return self

    def stop(self) -> None:
        self._listener.close()
