"""A client that reads SSE as the HTML Living Standard defines it, with no code of the app."""

import http.client
import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.servers import wait_until


@dataclass
class Message:
    """One dispatched SSE event, with the last event id of the stream at that time."""

    event: str
    data: str
    last_event_id: str

    @property
    def json(self) -> dict:
        return json.loads(self.data)


@dataclass
class Stream:
    """An open stream. A thread reads it into `messages` and `comments`."""

    url: str
    headers: dict[str, str] = field(default_factory=dict)
    messages: list[Message] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)
    retry: int | None = None
    last_event_id: str = ""
    ended: bool = False
    error: Exception | None = None

    def __post_init__(self):
        parts = urlsplit(self.url)
        self._connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
        self._connection.request("GET", f"{parts.path}?{parts.query}", headers=self.headers)
        self._socket = self._connection.sock
        self.response = self._connection.getresponse()
        self.status = self.response.status
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return
        finally:
            self._socket.close()

    @property
    def events(self) -> list[Message]:
        """The events of the log, without control events."""
        return [message for message in list(self.messages) if not _is_control(message)]

    @property
    def controls(self) -> list[Message]:
        return [message for message in list(self.messages) if _is_control(message)]

    @property
    def sequences(self) -> list[int]:
        return [message.json["sequence"] for message in self.events]

    def wait_for_events(self, count: int, seconds: float = 20.0) -> list[Message]:
        self._wait_until(lambda: len(self.events) >= count, f"{count} events", seconds)
        return self.events

    def wait_for_control(self, action: str, count: int = 1, seconds: float = 20.0) -> Message:
        def found() -> list[Message]:
            return [each for each in self.controls if each.json["event"]["action"] == action]

        self._wait_until(lambda: len(found()) >= count, f"gateway.{action}", seconds)
        return found()[count - 1]

    def wait_for_end(self, seconds: float = 20.0) -> None:
        self._wait_until(lambda: self.ended, "the stream ends", seconds)

    def _wait_until(
        self, predicate: Callable[[], object], description: str, seconds: float
    ) -> None:
        try:
            wait_until(predicate, description, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}, but {self}") from None

    def _read(self) -> None:
        try:
            self._event, self._data = "", []
            while line := self.response.readline():
                self._take_line(line.decode("utf-8").removesuffix("\n").removesuffix("\r"))
        except (OSError, ValueError, http.client.HTTPException) as error:
            self.error = error
        finally:
            self.response.close()
            self._connection.close()
            self.ended = True

    def _take_line(self, line: str) -> None:
        """Process one line (HTML Living Standard, section 9.2.6)."""
        if line == "":
            self._dispatch()
            return
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "":
            self.comments.append(value)
        elif name == "event":
            self._event = value
        elif name == "data":
            self._data.append(value)
        elif name == "id" and "\0" not in value:
            self.last_event_id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self.retry = int(value)

    def _dispatch(self) -> None:
        if self._data:
            data = "\n".join(self._data)
            self.messages.append(Message(self._event or "message", data, self.last_event_id))
        self._event, self._data = "", []


def _is_control(message: Message) -> bool:
    return message.json["id"] is None
