"""Requests that stream lines over connections of their own, sent byte by byte as a test says."""

import contextlib
import http.client
import json
import re
import select
import socket

import requests

from app.streaming.event_store import EventStore
from tests import raw_http
from tests.servers import GatewayServer, wait_until

MB = 1_000_000
MAX_GROWTH = 64 * MB  # of a worker's memory, for a body of any size
CHUNKED = "Transfer-Encoding: chunked"
CONTENT_LENGTH = re.compile(rb"content-length: *([0-9]+)", re.IGNORECASE)
LAST_CHUNK = b"0\r\n\r\n"


def line(data: object = None, category: str = "llm", action: str = "stream") -> bytes:
    event = {"event_category": category, "event_action": action, "data": data}
    return json.dumps(event).encode() + b"\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def head(run_id: str, *headers: str, version: str = "1.1") -> bytes:
    lines = (
        f"POST /runs/{run_id}/events HTTP/{version}",
        "Host: localhost",
        "Content-Type: application/x-ndjson",
        *headers,
    )
    return "\r\n".join([*lines, "", ""]).encode()


def length_of(body: bytes) -> str:
    return f"Content-Length: {len(body)}"


class Producer:
    """A connection with a request that streams lines to a run, or without a run, an idle one."""

    def __init__(self, gateway: GatewayServer, run_id: str, *headers: str):
        self.connection = socket.create_connection(("127.0.0.1", gateway.port), timeout=30)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""
        if run_id:
            self.raw(head(run_id, *(headers or [CHUNKED])))

    def __enter__(self) -> "Producer":
        return self

    def __exit__(self, *exc_info) -> None:
        self.connection.close()

    def raw(self, data: bytes) -> None:
        self.connection.sendall(data)

    def send(self, *lines: bytes) -> None:
        """Send each line in a chunk, all chunks together."""
        self.raw(b"".join(map(chunk, lines)))

    def close_sending_half(self) -> None:
        self.connection.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        raw_http.reset(self.connection)

    def answer(self) -> tuple[int, dict]:
        """Read the next response. A further one may already be behind it."""
        status = 100
        while status == 100:
            head = self._take_up_to(b"\r\n\r\n")
            status = int(head[9:12])
        return status, json.loads(self._take(int(CONTENT_LENGTH.search(head)[1])))

    def _take_up_to(self, end: bytes) -> bytes:
        while end not in self._received:
            self._receive()
        return self._take(self._received.index(end) + len(end))

    def _take(self, size: int) -> bytes:
        while len(self._received) < size:
            self._receive()
        taken, self._received = self._received[:size], self._received[size:]
        return taken

    def _receive(self) -> None:
        piece = self.connection.recv(65536)
        if not piece:
            raise http.client.RemoteDisconnected
        self._received += piece

    def end(self) -> tuple[int, dict]:
        self.raw(LAST_CHUNK)
        return self.answer()

    def was_answered(self) -> bool:
        """Return whether an answer is there to read."""
        return self.is_answered_within(0)

    def is_answered_within(self, seconds: float) -> bool:
        poll = select.poll()  # `select` takes no file above 1,023
        poll.register(self.connection, select.POLLIN)
        return bool(poll.poll(1000 * seconds))

    def is_closed_by_the_gateway(self) -> bool:
        try:
            return self.connection.recv(1) == b""
        except ConnectionResetError:
            return True


def data_of(store: EventStore, run_id: str) -> list:
    """Return the data of all events of a run."""
    return [event.data for event in store.get_events(run_id)]


def wait_for_data(store: EventStore, run_id: str, data: list) -> None:
    wait_until(lambda: data_of(store, run_id) == data, f"{data} is stored")


def is_healthy(gateway: GatewayServer) -> bool:
    return requests.get(f"{gateway.url}/healthz", timeout=20).ok


def send_until_answered(producer: Producer) -> None:
    """Send lines without pause until an answer comes, or the connection breaks."""
    with contextlib.suppress(OSError):
        while not producer.was_answered():
            producer.send(line("x" * 10_000))


class MemoryCheck:
    """Sends many megabytes, and checks the memory of the gateway's worker after each piece."""

    def __init__(self, gateway: GatewayServer):
        [self._worker] = gateway.workers()
        self._before = self._worker.memory_info().rss

    def send(self, producer: Producer, megabytes: int, piece: bytes, http_chunk: bool) -> None:
        """Send until all is sent, or an answer comes."""
        framed_piece = chunk(piece) if http_chunk else piece
        with contextlib.suppress(OSError):
            for _ in range(megabytes * MB // len(piece)):
                if producer.was_answered():
                    break
                producer.raw(framed_piece)
                assert self._worker.memory_info().rss < self._before + MAX_GROWTH
