"""An S3 server for tests, and one that fails."""

import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

import requests

from tests.servers import Server, free_port, wait_until

# obstore reads these; the keys are any.
KEYS = {
    "AWS_ACCESS_KEY_ID": "tests",
    "AWS_SECRET_ACCESS_KEY": "tests",
    "AWS_REGION": "us-east-1",
    "AWS_ALLOW_HTTP": "true",
}


class S3Server(Server):
    """moto's server, with one bucket."""

    def __init__(self) -> None:
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.url = "s3://bucket/some/path"
        self.environ = {**KEYS, "AWS_ENDPOINT_URL": self.endpoint}
        self.process: subprocess.Popen | None = None

    def start(self) -> Self:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(self._makes_a_bucket, "the S3 server answers", 50)
        return self

    def _makes_a_bucket(self) -> bool:
        try:
            return requests.put(f"{self.endpoint}/bucket", timeout=5).ok
        except requests.ConnectionError:
            return False


class FailingServer(Server):
    """An S3 server that answers every request with a status, or with nothing at all for None."""

    def __init__(self, status: int | None) -> None:
        released = self._released = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", "0")))
                if status is None:
                    released.wait()
                    return
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_PUT = do_DELETE = do_POST = do_HEAD = answer

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.environ = {
            **KEYS,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._server.server_address[1]}",
        }

    def start(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def stop(self) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()
