"""Reading a run's log: by cursor, in pages, as it grows, and what state it is in."""

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import redis

from ..errors import InvalidInput, StoreUnavailable
from ..event import Event, check_run_id
from ..event_id import LAST, ZERO, EventId
from . import connection, replies
from .log_state import LogState
from .redis_keys import log_key
from .shared_connection import SharedConnection
from .writer import LogWriter

# One blocking XREAD lasts at most this long, so that a log that was deleted or begun anew
# meanwhile, on which it would stay silent for ever, is noticed.
BLOCK_SLICE_SECONDS = 5.0

# How many entries one command reads at first, and then, by their size, at the most.
INITIAL_COUNT = 64
READ_COUNT = 1000
READ_BYTES = 256 * 1024

# What a page scans and holds at the most.
SCAN_LIMIT = 10_000
PAGE_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Page:
    """Some events of a log, and where the next page goes on (None at its end)."""

    events: list[Event]
    next: EventId | None


def next_count(size: int, entries: int) -> int:
    """How many entries to read next, after some entries of `size` bytes together."""
    return max(1, min(READ_COUNT, READ_BYTES * entries // size))


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 0:
        raise InvalidInput("limit", "must be 0 or more, or None")


class LogReader:
    """Reads the logs of one server; the first to find that a run is lost has `writer` end it."""

    def __init__(self, client: redis.Redis, shared: SharedConnection, writer: LogWriter):
        self._client = client
        self._blocking_client = connection.make_blocking_client(client, BLOCK_SLICE_SECONDS)
        self._shared = shared
        self._writer = writer
        self._tails = threading.local()

    @property
    def last_refusal(self) -> float:
        """When Redis last did not take a write of the `writer`: a monotonic time, or -inf."""
        return self._writer.last_refusal

    def get_events(
        self, run_id: int | str, *, limit: int | None = None, descending: bool = False
    ) -> list[Event]:
        """The events of a run, all of them unless limited, in the order of the log."""
        _check_limit(limit)
        self.state(check_run_id(run_id))
        return list(islice(self._scan(str(run_id), descending=descending), limit))

    def get_events_after(
        self, run_id: int | str, last_id: str, *, limit: int | None = None
    ) -> list[Event]:
        """The events after the id `last_id`, all of them unless limited."""
        _check_limit(limit)
        after = EventId.parse(last_id, "last_id")
        self.state(check_run_id(run_id))
        return list(islice(self._scan(str(run_id), after), limit))

    def page(
        self,
        run_id: int | str,
        *,
        after: EventId | None = None,
        before: EventId | None = None,
        descending: bool = False,
        limit: int = 100,
        categories: Sequence[str] = (),
        actions: Sequence[str] = (),
    ) -> Page:
        """Up to `limit` events strictly between two ids, those that the filter lets pass.

        A page may be shorter than `limit` before the end: it scans SCAN_LIMIT entries and
        holds about PAGE_BYTES at the most. `next` is the `after` of the following page, the
        `before` when descending.
        """
        run_id = check_run_id(run_id)
        self.state(run_id)  # which ends the run, if its producer is lost
        found, size, scanned, position = [], 0, 0, None
        for event in self._scan(run_id, after, before, descending):
            if len(found) == limit or size > PAGE_BYTES or scanned == SCAN_LIMIT:
                return Page(found, position)
            position, scanned = EventId.parse(event.id), scanned + 1
            if (not categories or event.category in categories) and (
                not actions or event.action in actions
            ):
                found.append(event)
                size += len(event.data_json) + len(event.source_json)
        return Page(found, None)

    def subscribe(
        self, run_id: int | str, last_id: str | None = None, block_ms: int | None = 5000
    ) -> list[Event]:
        """Wait for events: those after `last_id`, or [] when none came in `block_ms`.

        Without `last_id` it begins at the tail as of the first call, and goes on from where
        it was: the cursor is kept per store, run and thread. Such a cursor goes back to the
        beginning of a log that was deleted and begun anew, and so does a `last_id` that the
        log has not reached. As in Redis, a `block_ms` of 0 waits for ever; None does not wait.
        """
        run_id = check_run_id(run_id)
        if block_ms is not None and block_ms < 0:
            raise InvalidInput("block_ms", "must be 0 or more, or None")
        deadline = None if block_ms == 0 else time.monotonic() + (block_ms or 0) / 1000
        if last_id is not None:
            cursor, tails = EventId.parse(last_id, "last_id"), None
        else:
            tails = self._tails.__dict__
            if run_id not in tails:
                tails[run_id] = self.state(run_id).last_id
            cursor = tails[run_id]
        while True:
            left = None if deadline is None else deadline - time.monotonic()
            events = self._read_blocking(run_id, cursor, left)
            if tails is not None:
                if events:
                    tails[run_id] = EventId.parse(events[-1].id)
                elif self.state(run_id).last_id < cursor:
                    cursor = tails[run_id] = ZERO
                    continue
            elif not events:
                state = self.state(run_id)
                if (state.end_id or ZERO) > cursor:
                    continue  # the run is lost, or something has come just now
                if state.last_id < cursor:
                    cursor = ZERO
                    continue
            if events or (left is not None and left <= 0):
                return events

    def state(self, run_id: int | str, *, ttl: bool = False) -> LogState:
        """Return the state of a run's log, after ending the run if its lease has run out.

        NO_LOG where there is no log. With `ttl` the state says how long the log is kept.
        """
        run_id = check_run_id(run_id)
        state = self._state(run_id, ttl)
        return self._state(run_id, ttl) if self._is_lost(run_id, state) else state

    def states(self, run_ids: Sequence[str]) -> list[LogState | None]:
        """The logs of several runs in one round trip; None where the key holds no log."""
        commands = (("XINFO", "STREAM", log_key(run_id)) for run_id in run_ids)
        return [
            None if connection.is_wrong_type(reply) else replies.log_state(reply)
            for reply in connection.call_all(self._client, *commands)
        ]

    def is_missing(self, run_id: str, cursor: EventId) -> bool:
        """Whether the log ought to retain the entry at a cursor, and does not."""
        key = log_key(run_id)
        if connection.checked(self._shared.call("XRANGE", key, str(cursor), str(cursor))):
            return False
        state = self._state(run_id)
        retained = state.first_id is not None and state.first_id <= cursor < state.last_id
        return retained and cursor > state.deleted

    def history(
        self, run_id: str, after: EventId, upto: EventId, count: int
    ) -> tuple[list[Any], LogState]:
        """Return up to `count` raw entries of `after` < id <= `upto`, and the log's state then."""
        key = log_key(run_id)
        entries, stream = connection.call_all(
            self._client,
            ("XRANGE", key, f"({after}", str(upto), "COUNT", count),
            ("XINFO", "STREAM", key),  # afterwards: what was deleted by then is told
        )
        return connection.checked(entries), replies.log_state(stream)

    def cursor_before_tail(self, run_id: str, last_id: EventId, count: int) -> EventId:
        """The cursor after which `count` entries follow up to `last_id`; ZERO if fewer."""
        ids = (EventId.parse(event.id) for event in self._scan(run_id, descending=True))
        upto_last = (event_id for event_id in ids if event_id <= last_id)
        return next(islice(upto_last, count, None), ZERO)

    # Inside

    def _state(self, run_id: str, ttl: bool = False) -> LogState:
        key = log_key(run_id)
        if not ttl:
            return replies.log_state(self._shared.call("XINFO", "STREAM", key))
        return replies.log_state(*self._shared.call_all(("XINFO", "STREAM", key), ("TTL", key)))

    def _is_lost(self, run_id: str, state: LogState) -> bool:
        """Whether the run has been ended just now, since its lease has run out."""
        if not self._is_overdue(state):
            return False
        try:
            return self._writer.mark_lost(run_id, state.end_id, watched=False)
        except StoreUnavailable:  # a full memory, a replica: it can be read nevertheless
            return False

    def _is_overdue(self, state: LogState) -> bool:
        """Whether the lease has run out, as far as can be told here."""
        lease = state.lease_seconds
        if lease is None or state.ended or time.time() * 1000 < state.last_id.ms + lease * 1000:
            return False
        # Whoever could not write, here at least, must have had the whole of it since.
        since = max(self._shared.connected_since, self.last_refusal)
        return time.monotonic() - since >= lease

    def _scan(
        self,
        run_id: str,
        after: EventId | None = None,
        before: EventId | None = None,
        descending: bool = False,
    ) -> Iterator[Event]:
        """Every event strictly between two ids, read in pages as it is asked for."""
        if after == LAST or before == ZERO:
            return  # nothing lies beyond the ends, and Redis refuses to be asked
        command = "XREVRANGE" if descending else "XRANGE"
        lower, upper = f"({after}" if after else "-", f"({before}" if before else "+"
        count = INITIAL_COUNT
        while True:
            start, stop = (upper, lower) if descending else (lower, upper)
            entries = connection.call(
                self._client, command, log_key(run_id), start, stop, "COUNT", count
            )
            events = replies.events(run_id, entries)
            yield from events
            if len(events) < count:
                return
            if descending:
                upper = f"({events[-1].id}"
            else:
                lower = f"({events[-1].id}"
            size = sum(len(event.data_json) + len(event.source_json) + 200 for event in events)
            count = next_count(size, len(events))

    def _read_blocking(self, run_id: str, cursor: EventId, left: float | None) -> list[Event]:
        """One XREAD that blocks for what is `left` (None: without end), within one slice."""
        blocking = left is None or left > 0
        longest = BLOCK_SLICE_SECONDS if left is None else min(left, BLOCK_SLICE_SECONDS)
        block_ms = max(1, int(1000 * longest))
        reply = connection.call(
            self._blocking_client,
            *("XREAD", "COUNT", READ_COUNT),
            *(("BLOCK", block_ms) if blocking else ()),
            *("STREAMS", log_key(run_id), str(cursor)),
        )
        for _, entries in replies.streams(reply):
            return replies.events(run_id, entries)
        return []
