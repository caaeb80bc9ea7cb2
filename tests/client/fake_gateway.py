"""A gateway that sends the responses of a script and records the requests."""

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import parse_headers
from typing import BinaryIO, Self
from urllib.parse import parse_qs, urlsplit

REASONS = {200: "OK", 201: "Created", 204: "No Content"}


@dataclass
class Request:
    """A request as the gateway got it."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes


def response(status: int, document: object = None, **headers: str) -> bytes:
    """Return a whole response; the document becomes JSON unless it is bytes."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    if document is None:
        body = b""
    content_type = "application/problem+json" if status >= 400 else "application/json"
    all_headers = {"Content-Type": content_type, "Content-Length": str(len(body))}
    all_headers |= {name.replace("_", "-").title(): value for name, value in headers.items()}
    lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Some Reason')}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in all_headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def run_state(run_id: str = "1", **members: object) -> dict[str, object]:
    """Return the state of a run as a gateway sends it."""
    state = {
        "run_id": run_id, "state": "active", "started_at": None, "ended_at": None,
        "last_event": None, "length": 0, "first_id": None, "last_id": "0-0", "last_sequence": 0,
        "ended": False, "ttl": None, "lease_seconds": None, "meta": None,
    }  # fmt: skip
    return {**state, **members}


def problem(status: int, **members: object) -> bytes:
    """Return a response with problem details."""
    return response(status, {"type": "about:blank", "status": status, "detail": "so", **members})


def stored(request: Request) -> bytes:
    """Return the response to an append of one event or more."""
    new_events = json.loads(request.body)
    if isinstance(new_events, dict):
        return response(201, {"id": "1-0", "sequence": 1})
    events = [{"id": f"1-{n}", "sequence": n + 1} for n in range(len(new_events))]
    return response(201, {"events": events})


def stream(*blocks: str, complete: bool = True) -> bytes:
    """Return an event stream; unless it is complete, its connection breaks."""
    head = (
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
        "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    )
    chunks = [f"{block}\n\n".encode() for block in blocks]
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return head.encode() + body + (b"0\r\n\r\n" if complete else b"")


@dataclass
class FakeGateway:
    """Sends one response a connection, in the order of the script; for None it hangs up.

    It sends the last response again and again. A function makes the response of its request.
    With `tls` it speaks https.
    """

    script: list[bytes | Callable[[Request], bytes] | None]
    requests: list[Request] = field(default_factory=list)
    tls: ssl.SSLContext | None = None

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        scheme = "https" if self.tls else "http"
        self.url = f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def of_requests(self, part: Callable[[Request], object]) -> list:
        """Return a part of every request."""
        return [part(request) for request in self.requests]

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                if self.tls:
                    connection = self.tls.wrap_socket(connection, server_side=True)
                with connection, connection.makefile("rb") as reader:
                    if not reader.peek(1):  # the client is gone before it has sent a request
                        continue
                    self.requests.append(_read(reader))
                    given = self.script.pop(0) if len(self.script) > 1 else self.script[0]
                    if given is not None:
                        given = given(self.requests[-1]) if callable(given) else given
                        connection.sendall(given)


def _read(reader: BinaryIO) -> Request:
    method, target, _ = reader.readline().decode().split()
    headers = {name.lower(): value for name, value in parse_headers(reader).items()}
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(reader.readline(), 16):
            body += reader.read(size)
            reader.readline()
        reader.readline()
    else:
        body = reader.read(int(headers.get("content-length", 0)))
    parts = urlsplit(target)
    return Request(method, parts.path, parse_qs(parts.query), headers, body)
