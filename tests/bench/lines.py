"""The producers of lines: many requests of streaming ingest, each to another run.

Run it as `python -m tests.bench.lines PORT CONNECTIONS SECONDS RATE`: it streams RATE lines a
second over each connection. It prints its result as JSON.
"""

import json
import re
import socket
import sys
import time
from collections.abc import Iterator

OPENING_SECONDS = 0.5  # so that the opening of a long request delays no line

LENGTH = re.compile(rb"content-length: *([0-9]+)", re.IGNORECASE)
STORED = re.compile(rb'"stored": *([0-9]+)')


class Answer:
    """Collects one answer."""

    def __init__(self):
        self._data = b""

    def add(self, data: bytes) -> bytes | None:
        """Take received bytes. Returns the body once it is complete."""
        assert data, "the server has closed the connection"
        self._data += data
        head, found, body = self._data.partition(b"\r\n\r\n")
        if not found or len(body) < int(LENGTH.search(head)[1]):
            return None
        assert head[9:10] == b"2", self._data
        self._data = b""
        return body


def connect(port: int, connections: int) -> list[socket.socket]:
    return [socket.create_connection(("127.0.0.1", port)) for _ in range(connections)]


def head(number: int, *headers: str) -> bytes:
    lines = [f"POST /runs/bench-{number}/events HTTP/1.1", "Host: localhost", *headers, "", ""]
    return "\r\n".join(lines).encode()


def ingest(port: int, connections: int, seconds: float, rate: float) -> dict:
    """Stream lines over the connections in turn, and then read the answers."""
    opened = connect(port, connections)
    headers = "Content-Type: application/x-ndjson", "Transfer-Encoding: chunked"
    for number, one in enumerate(opened):
        one.sendall(head(number, *headers))
    time.sleep(OPENING_SECONDS)
    began = time.monotonic()
    for due, one in turns(opened, began, seconds, rate):
        time.sleep(max(0.0, due - time.monotonic()))
        one.sendall(chunk(line()))
    behind = time.monotonic() - began - seconds
    for one in opened:
        one.sendall(b"0\r\n\r\n")
    stored = sum(int(STORED.search(read_answer(one))[1]) for one in opened)
    return {"sent": int(seconds * rate) * connections, "stored": stored, "behind_s": behind}


def turns(
    opened: list[socket.socket], began: float, seconds: float, rate: float
) -> Iterator[tuple[float, socket.socket]]:
    """Yield each due time with the connection whose turn it is."""
    for tick in range(int(seconds * rate)):
        for number, one in enumerate(opened):
            yield began + (tick + number / len(opened)) / rate, one


def line() -> bytes:
    event = {
        "event_category": "llm",
        "event_action": "stream",
        "data": {"content": "token", "t": time.monotonic_ns()},
    }
    return json.dumps(event).encode() + b"\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def read_answer(one: socket.socket) -> bytes:
    answer = Answer()
    while (body := answer.add(one.recv(65536))) is None:
        continue
    return body


def main(port: str, connections: str, seconds: str, rate: str) -> None:
    print(json.dumps(ingest(int(port), int(connections), float(seconds), float(rate))))


if __name__ == "__main__":
    main(*sys.argv[1:])
