"""A local server that speaks S3, and one that takes connections and never answers."""

import socket
from typing import Self

import requests
from moto.server import ThreadedMotoServer

from tests.servers import Server, free_port

BUCKET = "archive"
ARCHIVE_URL = f"s3://{BUCKET}/runs"


class S3Server(Server):
    """An S3 in memory, with one bucket. What it holds outlives a stop."""

    def __init__(self) -> None:
        self.port = free_port()
        self._server: ThreadedMotoServer | None = None

    @property
    def variables(self) -> dict[str, str]:
        """The environment in which a program finds the server."""
        return {
            "ARCHIVE_URL": ARCHIVE_URL,
            "AWS_ENDPOINT": f"http://127.0.0.1:{self.port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
        }

    def start(self) -> Self:
        self._server = ThreadedMotoServer("127.0.0.1", self.port, verbose=False)
        self._server.start()
        requests.put(f"http://127.0.0.1:{self.port}/{BUCKET}", timeout=20).raise_for_status()
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
