"""Clients that go on in the background while a gateway is stopped, reloaded or killed."""

import contextlib
import http.client
import itertools
import re
import threading
import time
from collections.abc import Callable, Iterator

import psutil
import requests

from tests.clients import Stream
from tests.raw_http import stream_path
from tests.servers import GatewayServer, wait_until

EVENT = {"event_category": "llm", "event_action": "stream"}
DRAIN_SECONDS = 1
# gunicorn.conf.py allows 5 s after the drain; a busy machine needs up to 15 more.
GRACE_SECONDS = 5 + 15


def post(gateway: GatewayServer, run_id: str, key: str, **event: object) -> requests.Response:
    return requests.post(
        f"{gateway.url}/runs/{run_id}/events",
        json={**EVENT, **event},
        headers={"Idempotency-Key": f'"{key}"'},
        timeout=20,
    )


class StreamBody:
    """The raw body of a stream, read by a thread. A body without its last chunk is an error."""

    def __init__(self, gateway: GatewayServer, run_id: str, accept: str = "text/event-stream"):
        self.received = b""
        self.ended_at: float | None = None
        self.error: Exception | None = None
        self._connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)
        self._connection.request("GET", stream_path(run_id), headers={"Accept": accept})
        self._response = self._connection.getresponse()
        assert self._response.status == 200
        threading.Thread(target=self._read, daemon=True).start()

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text.encode() in self.received, f"{text!r} in {self.received!r}")

    def wait_for_end(self) -> None:
        wait_until(lambda: self.ended_at, f"the end of {self.received!r}")

    @property
    def retries(self) -> list[int]:
        return [int(number) for number in re.findall(rb"^retry: (\d+)$", self.received, re.M)]

    @property
    def sequences(self) -> list[int]:
        return [int(number) for number in re.findall(rb'"sequence":(\d+)', self.received)]

    def _read(self) -> None:
        try:
            while piece := self._response.read1(65536):
                self.received += piece
        except (OSError, http.client.HTTPException) as error:
            self.error = error
        finally:
            self._connection.close()
            self.ended_at = time.monotonic()


@contextlib.contextmanager
def appending(append: Callable[[int], object]) -> Iterator[None]:
    """Append with the numbers 1, 2, 3 … in a thread until the block ends. None may fail."""
    over, failures = threading.Event(), []

    def produce() -> None:
        try:
            for number in itertools.count(1):
                append(number)
                if over.wait(0.01):
                    return
        except Exception as error:
            failures.append(error)

    producer = threading.Thread(target=produce)
    producer.start()
    try:
        yield
    finally:
        over.set()
        producer.join()
    assert not failures


def listens(worker: psutil.Process) -> bool:
    """Return whether a worker accepts new connections."""
    try:
        return any(each.status == psutil.CONN_LISTEN for each in worker.net_connections(kind="tcp"))
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


class Follower:
    """Follows a run in a thread, and resumes after the last id until the run has ended."""

    def __init__(self, url: str, headers: dict[str, str]):
        self.sequences: list[int] = []
        self.names: list[str] = []
        self.connections = 0
        self.error: Exception | None = None
        self._url = url
        self._headers = headers
        self._last_event_id = ""
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def finish(self) -> list[int]:
        self._thread.join(30)
        assert not self._thread.is_alive(), f"still open after {self.sequences}"
        assert self.error is None
        return self.sequences

    def _follow(self) -> None:
        try:
            while "lifecycle.completed" not in self.names:
                with wait_until(self._open, "the stream is open again") as stream:
                    stream.wait_for_end(30)
                self.connections += 1
                self.sequences += stream.sequences
                self.names += [message.event for message in stream.messages]
                self._last_event_id = stream.last_event_id or self._last_event_id
        except Exception as error:
            self.error = error

    def _open(self) -> Stream | None:
        resuming = {"Last-Event-ID": self._last_event_id} if self._last_event_id else {}
        try:
            stream = Stream(self._url, {**self._headers, **resuming})
        except (OSError, http.client.HTTPException):
            return None
        if stream.status != 200:
            stream.close()
            return None
        return stream
