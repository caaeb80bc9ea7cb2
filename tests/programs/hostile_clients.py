"""Hostile clients of the gateway on a port, until killed.

Prints how many attacks there are, and then the name of every attack that was made.

Arguments: the port, the id of a run whose log has large events, and that of a live run.
"""

import contextlib
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator

PORT, LARGE, LIVE = int(sys.argv[1]), sys.argv[2], sys.argv[3]
REOPEN_SECONDS = 1.0
REUSE_SECONDS = 2.0

EVENT = b'{"event_category":"llm","event_action":"stream","data":%b}'
LISTS = EVENT % (b"[" + b",".join([b"[]"] * 87_000) + b"]")
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
STREAM = "GET /runs/{0}/events/stream{1} HTTP/1.1\r\nHost: localhost\r\n\r\n"


def connect(sent: bytes = b"") -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(60)
    connection.connect(("127.0.0.1", PORT))
    connection.sendall(sent)
    return connection


def post(body: bytes, length: int | None = None, kind: str = "application/json") -> bytes:
    head = (
        f"POST /runs/hostile/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body) if length is None else length}\r\n\r\n"
    )
    return head.encode() + body


def held(count: int, sent: Callable[[int], bytes], reads: bool = True) -> Iterator[None]:
    """Hold open so many connections, and read what comes.

    Open another one for each that was closed, once a second.
    """
    connections: dict[int, socket.socket] = {}
    poll = select.poll()
    while True:
        while len(connections) < count:
            with contextlib.suppress(OSError):
                connection = connect(sent(len(connections)))
                connections[connection.fileno()] = connection
                poll.register(connection, select.POLLIN if reads else select.POLLHUP)
        yield
        until = time.monotonic() + REOPEN_SECONDS
        while (left := until - time.monotonic()) > 0:
            for descriptor, _ in poll.poll(1000 * left):
                try:
                    closed = not connections[descriptor].recv(1 << 20)
                except OSError:
                    closed = True
                if closed:
                    poll.unregister(descriptor)
                    connections.pop(descriptor).close()


def asked(request: bytes) -> Iterator[None]:
    """Send a request on a new connection, and wait until an answer begins, again and again."""
    while True:
        with contextlib.suppress(OSError), connect() as connection:
            with contextlib.suppress(OSError):
                connection.sendall(request)
            connection.recv(1 << 20)
        yield


def reused(count: int) -> Iterator[None]:
    """Keep so many connections alive, with one request on each every two seconds."""
    connections: list[socket.socket | None] = [None] * count
    while True:
        for number, connection in enumerate(connections):
            with contextlib.suppress(OSError):
                if connection is None:
                    connections[number] = connection = connect()
                connection.sendall(HEALTH)
        for number, connection in enumerate(connections):
            try:
                if connection is None or not connection.recv(65536):
                    connections[number] = None
            except OSError:
                connections[number] = None
        yield
        time.sleep(REUSE_SECONDS)


def large_head(headers: int) -> bytes:
    accept = ",".join(["a/b;q=0.5"] * 800)
    return (
        STREAM.format(LIVE, "")
        .replace("\r\n\r\n", "\r\n" + f"Accept: {accept}\r\n" * headers + "\r\n")
        .encode()
    )


NAMES = b'{"event":{' + b",".join(b'"%06d":1' % number for number in range(370_000)) + b"}}"

ATTACKS = {
    "silent": lambda: held(400, lambda number: HEALTH[: number % 20]),
    "kept alive": lambda: reused(100),
    "slow bodies": lambda: held(150, lambda number: post(b"{", 100)),
    "slow lines": lambda: held(10, lambda number: post(b"{", 100, "application/x-ndjson")),
    "stalled streams": lambda: held(
        20, lambda number: STREAM.format(LARGE, "").encode(), reads=False
    ),
    "stalled pages": lambda: held(
        5,
        lambda number: f"GET /runs/{LARGE}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(),
        False,
    ),
    "a filter each": lambda: held(
        100, lambda number: STREAM.format(LIVE, f"?category=llm&category=c{number}").encode()
    ),
    "dense batch": lambda: asked(post(b"[" + b",".join([LISTS] * 15) + b"]")),
    "dense event": lambda: asked(post(EVENT % (b"[" + b",".join([b"[]"] * 1_300_000) + b"]"))),
    "many names": lambda: asked(post(NAMES)),
    "large head": lambda: asked(large_head(8)),
    "too large a head": lambda: asked(large_head(95)),
    "too large a body": lambda: asked(post(b"x" * 8_000_000)),
    "a reader of a page": lambda: asked(
        f"GET /runs/{LARGE}/events?limit=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    ),
}


def attack(name: str) -> None:
    for _ in ATTACKS[name]():
        os.write(1, f"{name}\n".encode())  # one write, so that no other thread cuts the line


if __name__ == "__main__":
    os.write(1, f"{len(ATTACKS)}\n".encode())
    for name in ATTACKS:
        threading.Thread(target=attack, args=(name,)).start()
