"""A gateway that gives the answers of a script, and remembers what it was asked."""

import contextlib
import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import parse_headers
from urllib.parse import parse_qs, urlsplit

REASONS = {200: "OK", 201: "Created", 204: "No Content"}


@dataclass
class Request:
    """A request as it came."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes


def answer(status: int, document: object = None, **headers: str) -> bytes:
    """A whole answer; `document` is JSON, or bytes as they are."""
    raw = isinstance(document, bytes)
    body = b"" if document is None else document if raw else json.dumps(document).encode()
    kind = "application/problem+json" if status >= 400 else "application/json"
    lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Some Reason')}", "Connection: close"]
    told = {"Content-Type": kind, "Content-Length": str(len(body))}
    told |= {name.replace("_", "-").title(): value for name, value in headers.items()}
    lines += [f"{name}: {value}" for name, value in told.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def stream(*blocks: str, clean: bool = True) -> bytes:
    """An open stream; one that is not clean breaks off."""
    head = (
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
        "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    )
    chunks = [f"{block}\n\n".encode() for block in blocks]
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return head.encode() + body + (b"0\r\n\r\n" if clean else b"")


@dataclass
class FakeGateway:
    """Answers one request a connection, as the script says; None hangs up.

    The last answer of the script is given again and again.
    """

    script: list[bytes | None]
    requests: list[Request] = field(default_factory=list)

    def __enter__(self) -> "FakeGateway":
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def told(self, what: Callable[[Request], object]) -> list:
        return [what(request) for request in self.requests]

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection, connection.makefile("rb") as reader:
                    self.requests.append(_read(reader))
                    given = self.script.pop(0) if len(self.script) > 1 else self.script[0]
                    if given is not None:
                        connection.sendall(given)


def _read(reader) -> Request:
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
