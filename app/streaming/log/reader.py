"""Reads of a run's log: its events by cursor, in pages and as they come, and its state."""

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import redis

from ..errors import InvalidInput
from ..event import Event, check_run_id
from ..event_id import LAST, ZERO, EventId
from .connection import (
    Argument,
    Command,
    Reply,
    call,
    call_all,
    is_wrong_type,
    make_blocking_client,
)
from .continuity import Stretch, locate
from .lease import Leases
from .log_state import NO_LOG, LogState
from .position import Position
from .redis_keys import log_key
from .replies import parse_event, parse_events, parse_log_state, parse_mark, parse_streams
from .scripts import Script
from .shared_connection import SharedConnection
from .writer import LogWriter

# A blocking XREAD stays silent for ever on a log that is deleted or begun again meanwhile. So
# one lasts no longer than this, and the log is checked before the next.
MAX_BLOCK_SECONDS = 5.0

# How many entries the first command of a scan reads. The next ones read as many as their size
# allows.
INITIAL_COUNT = 64
MAX_READ_COUNT = 1000
MAX_READ_BYTES = 256 * 1024

MAX_SCANNED_ENTRIES = 10_000
MAX_PAGE_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Page:
    """Some events of a log, and where the next page goes on (None at the end)."""

    events: list[Event]
    next: EventId | None


def next_count(size: int, entries: int) -> int:
    """Return how many entries to read next, if the last `entries` had `size` bytes together."""
    return max(1, min(MAX_READ_COUNT, MAX_READ_BYTES * entries // size))


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 0:
        raise InvalidInput("limit", "must be 0 or more, or None")


class LogReader:
    """Reads the logs on one server. A read that finds a lease expired ends the run first.

    Every method raises InvalidInput for an argument that is not allowed, NotALog if the run's
    key in Redis does not hold a stream, StoreUnavailable if Redis cannot serve, and
    ReentrantCall in a signal handler that has interrupted a call.
    """

    def __init__(self, client: redis.Redis, shared: SharedConnection, writer: LogWriter):
        self._client = client
        self._blocking_client = make_blocking_client(client, MAX_BLOCK_SECONDS)
        self._shared = shared
        self._writer = writer
        self._tails = threading.local()
        self._read_log = Script(_Pool(client), "read.lua", keys=1)
        self.leases = Leases(shared, writer)

    @property
    def last_refusal(self) -> float:
        """When Redis last refused or lost a write of this process: a monotonic time, or -inf."""
        return self.leases.last_refusal

    def get_events(
        self, run_id: int | str, *, limit: int | None = None, descending: bool = False
    ) -> list[Event]:
        """Return the events of a run in the order of the log, at most `limit` of them."""
        _check_limit(limit)
        self.state(check_run_id(run_id))
        return list(islice(self._scan(str(run_id), descending=descending), limit))

    def get_events_after(
        self, run_id: int | str, last_id: str, *, limit: int | None = None
    ) -> list[Event]:
        """Return the events after the id `last_id`, at most `limit` of them."""
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
        """Return up to `limit` events that lie strictly between two ids and pass a filter.

        A page can be shorter than `limit` before the end of the log: it scans up to
        MAX_SCANNED_ENTRIES entries, and holds about MAX_PAGE_BYTES. Its `next` is the `after` of
        the following page, or the `before` when descending.
        """
        run_id = check_run_id(run_id)
        self.state(run_id)  # ends the run if its lease has expired
        found: list[Event] = []
        size, scanned, position = 0, 0, None
        for event in self._scan(run_id, after, before, descending):
            if len(found) == limit or size > MAX_PAGE_BYTES or scanned == MAX_SCANNED_ENTRIES:
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
        """Wait for events and return them, or [] if none came within `block_ms` milliseconds.

        With `last_id` these are the events after that id. Without it, the first call begins at
        the end of the log, and each later one goes on where the last one stopped: this object
        keeps a cursor for each run and thread. Either cursor goes back to the beginning if it
        lies beyond the end of the log, which was deleted and begun again.

        As in Redis, a `block_ms` of 0 waits for ever. None does not wait.
        """
        run_id = check_run_id(run_id)
        if block_ms is not None and block_ms < 0:
            raise InvalidInput("block_ms", "must be 0 or more, or None")
        deadline = None if block_ms == 0 else time.monotonic() + (block_ms or 0) / 1000
        if last_id is not None:
            return self._read_until(run_id, EventId.parse(last_id, "last_id"), deadline)
        tails: dict[str, EventId] = self._tails.__dict__
        if run_id not in tails:
            tails[run_id] = self.state(run_id).last_id
        return self._read_until(run_id, tails[run_id], deadline, tails)

    def state(self, run_id: int | str, *, ttl: bool = False) -> LogState:
        """Return the state of a run's log, after ending the run if its lease has expired.

        Without a log it is NO_LOG. With `ttl` the state says how long Redis keeps the log.
        """
        run_id = check_run_id(run_id)
        state = self._state(run_id, ttl)
        return self._state(run_id, ttl) if self.leases.end_if_lost(run_id, state) else state

    def states(self, run_ids: Sequence[str]) -> list[LogState | None]:
        """Return the states of several logs in one round trip, None for a key without a log."""
        commands = (("XINFO", "STREAM", log_key(run_id)) for run_id in run_ids)
        return [
            None if is_wrong_type(reply) else self._with_epoch(run_id, parse_log_state(reply))
            for run_id, reply in zip(run_ids, call_all(self._client, *commands), strict=True)
        ]

    def entries(self, run_id: str, after: EventId, upto: EventId, count: int) -> list[Reply]:
        """Return up to `count` raw entries of `after` < id <= `upto`."""
        if after == LAST:
            return []
        first, last = f"({after}", str(upto)
        entries = call(self._client, "XRANGE", log_key(run_id), first, last, "COUNT", count)
        return list(entries)

    def read(
        self, run_id: str, after: EventId, count: int, *, inclusive: bool = False
    ) -> tuple[list[Reply], LogState]:
        """Return up to `count` raw entries after an id, and the log's state at that moment.

        With `inclusive` the entry with that id is the first one. If the run's lease has expired,
        the run is ended first.
        """
        entries, state = self._read(run_id, after, count, inclusive)
        if self.leases.end_if_lost(run_id, state):
            return self._read(run_id, after, count, inclusive)
        return entries, state

    def locate(self, run_id: str, cursor: EventId) -> tuple[Stretch, LogState]:
        """Return where a client stands that knows only an id, and the log's state then."""
        entries, state = self.read(run_id, cursor, 1, inclusive=True)
        return locate(cursor, [parse_mark(entry) for entry in entries], state), state

    def before_tail(self, run_id: str, state: LogState, count: int) -> Position:
        """Return the position just before the last `count` entries of a log, in its given state.

        With fewer entries it is the beginning of the log. What is missing before those entries
        is no gap for who asks for them. `count` is at least 1.
        """
        entries = (
            parse_mark(entry)
            for entry in self._scan_entries(run_id, descending=True)
            if EventId.from_redis(entry[0]) <= state.last_id
        )
        mark = next(islice(entries, count - 1, None), None)
        if mark is None or state.first_id is None or mark.cursor < state.first_id:
            return state.beginning
        sequence = None if mark.sequence is None else mark.sequence - 1
        return Position(mark.epoch or state.epoch, mark.cursor.before(), sequence)

    # Inside

    def _state(self, run_id: str, ttl: bool = False) -> LogState:
        stream, *seconds = self._shared.call_all(
            ("XINFO", "STREAM", log_key(run_id)), *((("TTL", log_key(run_id)),) if ttl else ())
        )
        return self._with_epoch(run_id, parse_log_state(stream, *seconds))

    def _with_epoch(self, run_id: str, state: LogState) -> LogState:
        """Return a state with its epoch, if its last entry does not say it."""
        if state.epoch or not state.exists:
            return state
        _, known = self._read(run_id, ZERO, 0)
        return replace(known, ttl=state.ttl)

    def _read(
        self, run_id: str, start: EventId, count: int, inclusive: bool = False
    ) -> tuple[list[Reply], LogState]:
        if start == LAST and not inclusive:  # there is no id beyond, and Redis refuses one
            count = 0
        first = str(start) if inclusive else f"({start}"
        reply = self._read_log.run(log_key(run_id), first, count)
        if not reply:
            return [], NO_LOG
        stream, epoch, entries = reply
        return entries, replace(parse_log_state(stream), epoch=epoch)

    def _scan(
        self,
        run_id: str,
        after: EventId | None = None,
        before: EventId | None = None,
        descending: bool = False,
    ) -> Iterator[Event]:
        """Yield every event strictly between two ids. Each page is read when it is needed."""
        for entry in self._scan_entries(run_id, after, before, descending):
            yield parse_event(run_id, entry)

    def _scan_entries(
        self,
        run_id: str,
        after: EventId | None = None,
        before: EventId | None = None,
        descending: bool = False,
    ) -> Iterator[Reply]:
        if after == LAST or before == ZERO:
            return  # there is no id beyond, and Redis refuses such a command
        command = "XREVRANGE" if descending else "XRANGE"
        lower, upper = f"({after}" if after else "-", f"({before}" if before else "+"
        count = INITIAL_COUNT
        while True:
            start, stop = (upper, lower) if descending else (lower, upper)
            entries = call(self._client, command, log_key(run_id), start, stop, "COUNT", count)
            yield from entries
            if len(entries) < count:
                return
            last_id, _ = entries[-1]
            if descending:
                upper = f"({last_id.decode()}"
            else:
                lower = f"({last_id.decode()}"
            size = sum(sum(map(len, fields)) + 200 for _, fields in entries)
            count = next_count(size, len(entries))

    def _read_until(
        self,
        run_id: str,
        cursor: EventId,
        deadline: float | None,
        tails: dict[str, EventId] | None = None,
    ) -> list[Event]:
        """Return the events after a cursor, as soon as there are any, or [] at the deadline.

        `tails` is where the cursor of this run is kept, if it is.
        """
        while True:
            left = None if deadline is None else deadline - time.monotonic()
            events = self._read_blocking(run_id, cursor, left)
            if events:
                if tails is not None:
                    tails[run_id] = EventId.parse(events[-1].id)
                return events
            state = self.state(run_id)
            if state.last_id < cursor:
                cursor = ZERO
                if tails is not None:
                    tails[run_id] = ZERO
            elif tails is None and (state.end_id or ZERO) > cursor:
                continue  # the run was lost, or an event has just come
            elif left is not None and left <= 0:
                return []

    def _read_blocking(self, run_id: str, cursor: EventId, left: float | None) -> list[Event]:
        """Send one XREAD that blocks for `left` seconds (None: no deadline), within the bound."""
        blocking = left is None or left > 0
        block_seconds = MAX_BLOCK_SECONDS if left is None else min(left, MAX_BLOCK_SECONDS)
        block_ms = max(1, int(1000 * block_seconds))
        reply = call(
            self._blocking_client,
            *("XREAD", "COUNT", MAX_READ_COUNT),
            *(("BLOCK", block_ms) if blocking else ()),
            *("STREAMS", log_key(run_id), str(cursor)),
        )
        for _, entries in parse_streams(reply):
            return parse_events(run_id, entries)
        return []


class _Pool:
    """Runs a script over the pool of a client."""

    def __init__(self, client: redis.Redis):
        self._client = client

    def call(self, *command: Argument) -> Reply:
        return call_all(self._client, command)[0]

    def call_all(self, *commands: Command) -> list[Reply]:
        return call_all(self._client, *commands)
