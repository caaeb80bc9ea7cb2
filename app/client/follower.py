"""Follows a run, or several, over as many connections as needed."""

import logging
import re
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import orjson
import requests
import urllib3

from ..streaming.backoff import backoff
from ..streaming.errors import StoreUnavailable
from ..streaming.event import RESERVED_CATEGORY, Event
from .connections import is_framed
from .credentials import Bearer
from .received_event import parse_batch, parse_message
from .responses import CONNECTION_ERRORS, not_a_gateway
from .sse_parser import Message, SseParser
from .transport import INITIAL_PAUSE_SECONDS, MAX_PAUSE_SECONDS, Opened, Transport

# Before the next connection, unless the gateway asks for another time.
RECONNECT_SECONDS = 3.0

READ_BYTES = 65536

# Accept-Encoding: a proxy that compresses a stream also holds it back.
_HEADERS = {"Accept": "text/event-stream", "Accept-Encoding": "identity"}

# What can be sent back.
_CURSOR = re.compile(r"[!-~]{0,32768}")

log = logging.getLogger("tailrace.client")


class Follower:
    """Follows the stream at `path` from a cursor, or from where the query `start` says."""

    def __init__(
        self,
        transport: Transport,
        path: str,
        cursor: str,
        start: Mapping[str, int],
        categories: Sequence[str],
        actions: Sequence[str],
    ):
        self._transport = transport
        self._path = path
        self._cursor = "" if start else cursor
        self._start = start
        self._filter: dict[str, list[str]] = {
            "category": list(categories),
            "action": list(actions),
        }
        self._bearer: Bearer | None = None  # of the connection

    def events(self) -> Iterator[Event]:
        """Yield the events until the run has ended. Raises an error that no repeat can mend."""
        pauses = backoff(INITIAL_PAUSE_SECONDS, MAX_PAUSE_SECONDS)
        while True:
            pause: float | None
            try:
                response = self._open()
            except StoreUnavailable as error:
                log.warning("cannot follow %s now: %s", self._path, error)
                pause = error.retry_after + next(pauses)
            else:
                with response:
                    if response.status_code == 204:
                        return
                    pauses = backoff(INITIAL_PAUSE_SECONDS, MAX_PAUSE_SECONDS)
                    pause = yield from self._read(response)
                if pause is None:
                    return
            time.sleep(pause)

    def _send(self) -> Opened:
        query: dict[str, Any] = dict(self._filter)
        headers = dict(_HEADERS)
        if self._cursor:
            headers["Last-Event-ID"] = self._cursor
        else:
            query |= self._start
        return self._transport.open_stream("GET", self._path, params=query, headers=headers)

    def _open(self) -> requests.Response:
        response, self._bearer = self._send()
        content_type = response.headers.get("Content-Type", "")
        if response.status_code != 204 and not content_type.startswith("text/event-stream"):
            response.close()
            raise not_a_gateway(response.status_code, f"it is of the type {content_type!r}")
        return response

    def _read(self, response: requests.Response) -> Generator[Event, None, float | None]:
        """Yield the events of one connection.

        Returns the pause before the next connection in seconds, None if the run has ended.
        """
        parser = SseParser(self._cursor)
        caught_up = terminal = False
        try:
            while piece := response.raw.read1(READ_BYTES, decode_content=True):
                for event in self._receive(response, parser.feed(piece)):
                    if event.category != RESERVED_CATEGORY:
                        terminal = self._is_last(event)
                    elif event.action == "progress":
                        continue
                    elif event.action == "expiring":
                        self._transport.credentials.drop(self._bearer)
                        continue
                    elif event.action == "caught_up":
                        caught_up = True
                    yield event
        except urllib3.exceptions.DecodeError as error:
            raise not_a_gateway(response.status_code, str(error)) from None
        except CONNECTION_ERRORS as error:
            log.warning("%s broke after event %s: %s", self._path, self._cursor, error)
        else:
            if terminal:
                return self._pause_after_end(caught_up and is_framed(response))
        return RECONNECT_SECONDS if parser.retry_seconds is None else parser.retry_seconds

    def _receive(self, response: requests.Response, messages: Iterable[Message]) -> Iterator[Event]:
        """Yield the events of messages, and move the cursor to the id of each message."""
        for message in messages:
            events = self._parse(response.status_code, message.data)
            if not _CURSOR.fullmatch(message.last_event_id):
                raise not_a_gateway(response.status_code, f"an id is {message.last_event_id!r}")
            self._cursor = message.last_event_id or self._cursor
            yield from events

    def _parse(self, status: int, data: str) -> list[Event]:
        return [parse_message(status, data)]

    def _is_last(self, event: Event) -> bool:
        """Return whether the stream may end with an event."""
        return event.terminal

    def _pause_after_end(self, whole: bool) -> float | None:
        """Return None if the run has ended, 0 if only the gateway knows.

        A gateway that stops also ends its streams. It may do that in the middle of the history
        of a run that was reopened, and a filter may hide that it was. And a response without a
        length may have been cut off.
        """
        return None if whole and not any(self._filter.values()) else 0.0


class MergedFollower(Follower):
    """Follows several runs on one stream, each from its cursor."""

    def __init__(
        self,
        transport: Transport,
        cursors: Mapping[str, str],
        categories: Sequence[str],
        actions: Sequence[str],
    ):
        super().__init__(transport, "/events/stream", "", {}, categories, actions)
        self._cursors = dict(cursors)
        self._running = set(cursors)

    def _send(self) -> Opened:
        # A URL would be too long for many runs, and a header for their cursor.
        body = {"runs": self._cursors, "last_event_id": self._cursor or None}
        return self._transport.open_stream(
            "POST",
            self._path,
            params=self._filter,
            data=orjson.dumps(body),
            headers={**_HEADERS, "Content-Type": "application/json"},
        )

    def _parse(self, status: int, data: str) -> list[Event]:
        return parse_batch(status, data)

    def _is_last(self, event: Event) -> bool:
        """Return whether all runs have ended, as far as their events say it."""
        if event.terminal:
            self._running.discard(event.run_id)
        else:
            self._running.add(event.run_id)
        return not self._running

    def _pause_after_end(self, whole: bool) -> float | None:
        """Return 0: the gateway knows whether a run goes on."""
        return 0.0


class ChangesFollower(Follower):
    """Follows how runs begin and end. Its stream has no end, and its ids are not the events'."""

    def __init__(
        self,
        transport: Transport,
        cursor: str,
        start: Mapping[str, int],
        prefix: str | None,
    ):
        super().__init__(transport, "/runs/stream", cursor, start, (), ())
        self._filter = {} if prefix is None else {"prefix": [prefix]}

    def _is_last(self, event: Event) -> bool:
        """Return False: it is the run of the event that ends."""
        return False
