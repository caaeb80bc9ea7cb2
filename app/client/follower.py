"""Following a run over as many connections as it takes."""

import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any

import orjson
import requests

from ..streaming.errors import Refused, StoreUnavailable
from ..streaming.event import RESERVED_CATEGORY, Event
from .responses import BROKEN, parse_event
from .sse_parser import Message, SseParser
from .transport import FOLLOW_TIMEOUTS, Transport, pauses

# Before a stream is opened again, unless the gateway says another time.
RECONNECT_SECONDS = 3.0

READ_BYTES = 65536

# Accept-Encoding: what a proxy compresses, it also holds back.
_HEADERS = {"Accept": "text/event-stream", "Accept-Encoding": "identity"}

log = logging.getLogger("tailrace.client")


class Follower:
    """Follows the stream at `path` from a cursor, or from `tail` events before the end."""

    def __init__(
        self,
        transport: Transport,
        path: str,
        cursor: str,
        tail: int | None,
        categories: Sequence[str],
        actions: Sequence[str],
    ):
        self._transport = transport
        self._path = path
        self._cursor = cursor if tail is None else ""
        self._tail = tail
        self._filter = {"category": list(categories), "action": list(actions)}

    def events(self) -> Iterator[Event]:
        """The events, until the run has ended; raises what the gateway refuses for good."""
        waiting = pauses()
        while True:
            try:
                response = self._open()
            except StoreUnavailable as error:
                log.warning("%s cannot be followed now: %s", self._path, error)
                pause = error.retry_after + next(waiting)
            else:
                with response:
                    if response.status_code == 204:
                        return
                    waiting = pauses()
                    pause = yield from self._read(response)
                if pause is None:
                    return
            time.sleep(pause)

    def _open(self) -> requests.Response:
        query: dict[str, Any] = self._filter
        headers = _HEADERS
        if self._cursor:
            headers = {**headers, "Last-Event-ID": self._cursor}
        else:
            query = {**query, "tail": self._tail}
        response = self._transport.send_once(
            "GET",
            self._path,
            params=query,
            headers=headers,
            stream=True,
            timeout=FOLLOW_TIMEOUTS,
        )
        kind = response.headers.get("Content-Type", "")
        if response.status_code != 204 and not kind.startswith("text/event-stream"):
            response.close()
            raise Refused(response.status_code, f"the answer is no event stream, but {kind!r}")
        return response

    def _read(self, response: requests.Response) -> Iterator[Event]:
        """The events of one connection; gives the pause before the next one, None at the end."""
        parser = SseParser(self._cursor)
        caught_up = terminal = False
        try:
            while piece := response.raw.read1(READ_BYTES):
                for message in parser.feed(piece):
                    event = _parse_event(message)
                    if event.category != RESERVED_CATEGORY:
                        terminal = event.terminal
                    elif event.action == "caught_up":
                        caught_up = True
                    self._cursor = message.last_event_id or self._cursor
                    yield event
        except BROKEN as error:
            log.warning("%s broke after %s: %s", self._path, self._cursor, error)
        else:
            if terminal:
                return self._pause_after_the_end(caught_up)
        return RECONNECT_SECONDS if parser.retry_seconds is None else parser.retry_seconds

    def _pause_after_the_end(self, caught_up: bool) -> float | None:
        """None where the run had ended, 0 where only the gateway knows that.

        A gateway that stops ends its streams too. It may do so in the middle of the history
        of a run that was reopened, and a filter may hide that one was.
        """
        return 0.0 if any(self._filter.values()) or not caught_up else None


def _parse_event(message: Message) -> Event:
    try:
        return parse_event(orjson.loads(message.data))
    except (ValueError, LookupError, TypeError) as error:
        raise Refused(200, f"the stream is not a gateway's: {error!r}") from error
