"""Follows a run, or several, without I/O: what to request next, and what the answers mean."""

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from ..streaming.backoff import backoff
from ..streaming.errors import InvalidInput, StoreUnavailable
from ..streaming.event import RESERVED_CATEGORY, Event, check_run_id
from ..streaming.event_id import EventId
from .calls import Request, events_path
from .received_event import parse_batch, parse_message
from .repeats import INITIAL_PAUSE_SECONDS, MAX_PAUSE_SECONDS
from .responses import not_a_gateway
from .sse_parser import Message, SseParser

# Before the next connection, unless the gateway asks for another time.
RECONNECT_SECONDS = 3.0

MAX_FOLLOWED_RUNS = 1000

# Accept-Encoding: a proxy that compresses a stream also holds it back.
_HEADERS = {"Accept": "text/event-stream", "Accept-Encoding": "identity"}

# What can be sent back.
_CURSOR = re.compile(r"[!-~]{0,32768}")

log = logging.getLogger("tailrace.client")


class Following:
    """Follows the stream at `path` from a cursor, or from where the query `start` says.

    A client sends `request`. With its response it calls `opened`, `receive` for each piece of
    the body, and then `ended` or `broke`; without one it calls `unavailable`. Each of the last
    three returns the seconds to wait before the next request.

    `is_expiring` says that the next request needs another token. The client sets it to False.
    """

    def __init__(
        self,
        path: str,
        cursor: str,
        start: Mapping[str, Any],
        categories: Sequence[str] = (),
        actions: Sequence[str] = (),
    ):
        self.is_expiring = False
        self._path = path
        self._cursor = "" if start else cursor
        self._start = start
        self._filter = {"category": list(categories), "action": list(actions)}
        self._begin_outage()

    def _begin_outage(self) -> None:
        self._pauses = backoff(INITIAL_PAUSE_SECONDS, MAX_PAUSE_SECONDS)
        self._is_away = False

    def request(self) -> Request:
        """Return the next request."""
        query: dict[str, Any] = dict(self._filter)
        headers = dict(_HEADERS)
        if self._cursor:
            headers["Last-Event-ID"] = self._cursor
        else:
            query |= self._start
        return Request("GET", self._path, query, headers)

    def unavailable(self, error: StoreUnavailable) -> float:
        """Take the error of a request, and return the pause before the next one."""
        log.warning("cannot follow %s now: %s", self._path, error)
        self._is_away = True
        return error.retry_after + next(self._pauses)

    def opened(self, status: int, content_type: str) -> bool:
        """Take the head of a response. Return False if nothing comes any more.

        Raises Refused if it is not from a gateway.
        """
        if status != 204 and not content_type.startswith("text/event-stream"):
            raise not_a_gateway(status, f"it is of the type {content_type!r}")
        if self._is_away:
            log.info("reached %s again", self._path)
        if status == 204:
            return False
        self._begin_outage()
        self._status = status
        self._parser = SseParser(self._cursor)
        self._caught_up = self._terminal = False
        return True

    def receive(self, piece: bytes) -> Iterator[Event]:
        """Yield the events to show that a piece of the body completes.

        Raises Refused if it is not from a gateway.
        """
        for event in self._events(self._parser.feed(piece)):
            if event.category != RESERVED_CATEGORY:
                self._terminal = self._is_last(event)
            elif event.action == "progress":
                continue
            elif event.action == "expiring":
                self.is_expiring = True
                continue
            elif event.action == "caught_up":
                self._caught_up = True
            yield event

    def broke(self, error: Exception) -> float:
        """Take the error of a connection that broke, and return the pause before the next one."""
        log.warning("%s broke after event %s: %s", self._path, self._cursor, error)
        return self._reconnect_seconds()

    def ended(self, is_framed: bool) -> float | None:
        """Return the pause after a stream that ended, None if the run has ended.

        `is_framed` says that it was not just the connection that ended.
        """
        if self._terminal:
            return self._pause_after_end(self._caught_up and is_framed)
        return self._reconnect_seconds()

    def _reconnect_seconds(self) -> float:
        asked = self._parser.retry_seconds
        return RECONNECT_SECONDS if asked is None else asked

    def _events(self, messages: Iterable[Message]) -> Iterator[Event]:
        """Yield the events of messages, and move the cursor to the id of each message."""
        for message in messages:
            events = self._parse(message.data)
            if not _CURSOR.fullmatch(message.last_event_id):
                raise not_a_gateway(self._status, f"an id is {message.last_event_id!r}")
            self._cursor = message.last_event_id or self._cursor
            yield from events

    def _parse(self, data: str) -> list[Event]:
        return [parse_message(self._status, data)]

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


class MergedFollowing(Following):
    """Follows several runs on one stream, each from its cursor."""

    def __init__(
        self, cursors: Mapping[str, str], categories: Sequence[str], actions: Sequence[str]
    ):
        super().__init__("/events/stream", "", {}, categories, actions)
        self._cursors = dict(cursors)
        self._running = set(cursors)

    def request(self) -> Request:
        """Return the next request."""
        # A URL would be too long for many runs, and a header for their cursor.
        body = {"runs": self._cursors, "last_event_id": self._cursor or None}
        headers = {**_HEADERS, "Content-Type": "application/json"}
        return Request("POST", self._path, self._filter, headers, orjson.dumps(body))

    def _parse(self, data: str) -> list[Event]:
        return parse_batch(self._status, data)

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


class ChangesFollowing(Following):
    """Follows how runs begin and end, without an end."""

    def __init__(self, cursor: str, prefix: str | None, tail: int | None):
        super().__init__("/runs/stream", cursor, {} if tail is None else {"tail": tail})
        self._filter = {} if prefix is None else {"prefix": [prefix]}

    def _is_last(self, event: Event) -> bool:
        """Return False: it is a run that ends with a terminal event, and not the stream."""
        return False


def follow_run(
    run_id: int | str,
    last_event_id: str,
    tail: int | None,
    from_sequence: int | None,
    categories: Sequence[str],
    actions: Sequence[str],
) -> Following:
    """Return what follows a run. Raises InvalidInput for a wrong argument."""
    _check_cursor(last_event_id, "last_event_id")
    path = f"{events_path(run_id)}/stream"
    if tail is not None and from_sequence is not None:
        raise InvalidInput("from_sequence", "cannot stand beside tail")
    start = {"tail": tail, "from_sequence": from_sequence}
    given = {name: number for name, number in start.items() if number is not None}
    return Following(path, last_event_id, given, categories, actions)


def follow_several(
    runs: Mapping[int | str, str], categories: Sequence[str], actions: Sequence[str]
) -> Following:
    """Return what follows several runs. Raises InvalidInput for a wrong argument."""
    cursors: dict[str, str] = {}
    for given, cursor in runs.items():
        run_id = check_run_id(given)
        if run_id in cursors:
            raise InvalidInput("runs", f"names the run {run_id} twice")
        _check_cursor(cursor, "runs")
        cursors[run_id] = cursor
    if not 1 <= len(cursors) <= MAX_FOLLOWED_RUNS:
        raise InvalidInput("runs", f"must be 1 to {MAX_FOLLOWED_RUNS} runs")
    return MergedFollowing(cursors, categories, actions)


def follow_changes(last_event_id: str, prefix: str | None, tail: int | None) -> Following:
    """Return what follows the beginnings and ends of runs. Raises InvalidInput."""
    _check_cursor(last_event_id, "last_event_id")
    return ChangesFollowing(last_event_id, prefix, tail)


def _check_cursor(cursor: str, field: str) -> None:
    """Raise InvalidInput, which names `field`, unless a stream can start at a cursor."""
    if cursor not in ("earliest", "latest"):
        EventId.parse(cursor, field)
