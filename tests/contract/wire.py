"""HTTP as the contract test speaks it: exact headers, whole answers, and streams frame by frame."""

import contextlib
import http.client
import json
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

TIMEOUT_SECONDS = 10
MAX_IDLE_SECONDS = 2  # gunicorn closes a connection that is idle for longer than 5 s
JSON_LINES = "application/x-ndjson"

Headers = Iterable[tuple[str, str]]


class Answer(NamedTuple):
    """A whole answer."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Frame(NamedTuple):
    """An event of a stream: the lines `id:` and `event:` (None if absent), and its JSON."""

    id: str | None
    event: str | None
    json: dict[str, Any]

    @property
    def control(self) -> str | None:
        """The action of a control event, None for any other."""
        action: str | None = self.json["event"]["action"]
        return action if self.json["id"] is None else None


class Http:
    """A client of one gateway, which keeps its connection."""

    def __init__(self, port: int):
        self._port = port
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
        self._used = time.monotonic()

    def request(
        self, method: str, path: str, headers: Headers = (), body: bytes | Iterable[bytes] = b""
    ) -> Answer:
        """Send a request whose body has a length, or is chunked if it comes in pieces."""
        if time.monotonic() > self._used + MAX_IDLE_SECONDS:
            self._connection.close()  # http.client opens it again
        self._used = time.monotonic()
        _send(self._connection, method, path, headers, body)
        response = self._connection.getresponse()
        return Answer(response.status, response.headers, response.read())

    def stream(self, path: str, headers: Headers = ()) -> "Answer | OpenStream":
        """Open a stream, on a connection of its own; return any other answer as a whole."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_SECONDS)
        _send(connection, "GET", path, headers, b"")
        response = connection.getresponse()
        if response.status == 200:
            return OpenStream(connection, response)
        with contextlib.closing(connection):
            return Answer(response.status, response.headers, response.read())

    def close(self) -> None:
        self._connection.close()


class OpenStream:
    """A stream that is open: an iterator over its frames, in either format."""

    def __init__(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse):
        self._connection = connection
        self._response = response
        self.is_json_lines = response.headers["Content-Type"].startswith(JSON_LINES)

    def __enter__(self) -> Iterator[Frame]:
        return self._json_lines() if self.is_json_lines else self._events()

    def __exit__(self, *exc_info: object) -> None:
        self._response.close()
        self._connection.close()

    def _json_lines(self) -> Iterator[Frame]:
        while line := self._response.readline():
            assert line.endswith(b"\n"), line
            frame = Frame(None, None, json.loads(line))
            if frame.control != "heartbeat":
                yield frame

    def _events(self) -> Iterator[Frame]:
        """Parse blocks of lines (HTML Living Standard, section 9.2). Every block has data."""
        block: dict[str, str] = {}
        while raw := self._response.readline():
            line = raw.decode().removesuffix("\n")
            name, _, value = line.partition(":")
            if line == "":
                assert "data" in block, f"a block without data: {block}"
                yield Frame(block.get("id"), block.get("event"), json.loads(block["data"]))
                block = {}
            elif name not in ("", "retry"):
                assert name not in block, f"{line!r} after {block}"
                block[name] = value.removeprefix(" ")
        assert not block, f"the stream ended inside {block}"


def _send(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    headers: Headers,
    body: bytes | Iterable[bytes],
) -> None:
    connection.putrequest(method, path, skip_accept_encoding=True)
    for name, value in headers:
        connection.putheader(name, value)
    is_whole = isinstance(body, bytes)
    if not is_whole:
        connection.putheader("Transfer-Encoding", "chunked")
    elif body or method == "POST":
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body if is_whole else iter(body), encode_chunked=not is_whole)
