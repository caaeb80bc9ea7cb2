"""The log in Redis: one stream a run, written by one atomic script and read by cursor."""

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import redis
from redis.exceptions import NoPermissionError

from app.streaming import connection, replies
from app.streaming.appender import Appender
from app.streaming.errors import (
    InvalidInput,
    ServerTooOld,
    StoreUnavailable,
)
from app.streaming.event import (
    MAX_EVENT_BYTES,
    Draft,
    Event,
    check_run_id,
)
from app.streaming.event_id import LAST, ZERO, EventId
from app.streaming.frame import Frame
from app.streaming.keys import keys_of, log_key
from app.streaming.log_writer import TOO_OLD, Appended, LogWriter, check_range
from app.streaming.replies import LogInfo
from app.streaming.shared_connection import SharedConnection

MINIMUM_SERVER = (7, 0)

# One blocking XREAD lasts at most this long, so that a log that was deleted or begun anew
# meanwhile, on which it would stay silent for ever, is noticed.
BLOCK_SLICE_SECONDS = 5.0

# How many entries one command reads at first, and then, by their size, at the most.
FIRST_COUNT = 64
READ_COUNT = 1000
READ_BYTES = 256 * 1024

# What a page scans and holds at the most.
SCAN_LIMIT = 10_000
PAGE_BYTES = 16 * 1024 * 1024


class AppendedEvent(NamedTuple):
    """An event in the log, and whether an earlier append with its key had put it there."""

    event: Event
    repeated: bool


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


class EventStore:
    """The event store of all runs on one Redis or Valkey server, 7.0 or newer.

    Args:
        url: `redis://`, `rediss://` or `unix://`; REDIS_URL or the local server without it.
        client: a `redis.Redis` of your own instead, whatever its protocol or decoding.
        maxlen: about how many entries a log retains.
        ended_ttl_seconds: how long a log is kept after a terminal event.
        idle_ttl_seconds: how long a log is kept after its last append, while not ended.
        max_event_bytes: the largest event, as the JSON of its data and source.

    Every method raises InvalidInput for arguments that break the contract, NotALog where
    the run's key holds something else, and StoreUnavailable where Redis cannot serve.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        client: redis.Redis | None = None,
        maxlen: int = 10_000,
        ended_ttl_seconds: int = 86_400,
        idle_ttl_seconds: int = 604_800,
        max_event_bytes: int = MAX_EVENT_BYTES,
    ):
        if client is None:
            client = connection.make_client(url or connection.default_url())
        self._client = client
        self._blocking_client = connection.make_blocking_client(client, BLOCK_SLICE_SECONDS)
        self._shared = SharedConnection(partial(connection.make_connection, client))
        self._writer = LogWriter(
            self._shared,
            maxlen=maxlen,
            ended_ttl_seconds=ended_ttl_seconds,
            idle_ttl_seconds=idle_ttl_seconds,
            max_event_bytes=max_event_bytes,
        )
        self._tails = threading.local()

    # Writing

    def add(
        self,
        run_id: int | str,
        event_category: str,
        event_action: str,
        data: Any = None,
        source: Any = None,
        *,
        idempotency_key: str | None = None,
        expected_sequence: int | None = None,
        lease_seconds: int | None = None,
    ) -> str:
        """Append an event and give its id; see `append` for the arguments and the errors."""
        return self.append(
            run_id,
            event_category,
            event_action,
            data,
            source,
            idempotency_key=idempotency_key,
            expected_sequence=expected_sequence,
            lease_seconds=lease_seconds,
        ).event.id

    def append(
        self,
        run_id: int | str,
        event_category: str,
        event_action: str,
        data: Any = None,
        source: Any = None,
        *,
        idempotency_key: str | None = None,
        expected_sequence: int | None = None,
        lease_seconds: int | None = None,
    ) -> AppendedEvent:
        """Append an event and give it back as it was stored.

        `data` and `source` are any JSON value; a source of None is not stored. A repeat with
        an `idempotency_key` (1 to 128 visible ASCII characters) appends nothing and gives the
        first event, for as long as the log retains that. The event is appended only as the
        `expected_sequence`, where one is given. `lease_seconds` sets how long the run may be
        silent before it is lost; every append renews what was set.

        Raises InvalidEvent, EventTooLarge, KeyReused, UnexpectedSequence, and RunEnded after
        a terminal event (unless this is `lifecycle.started`, which reopens the run).
        """
        run_id = check_run_id(run_id)
        draft = self._writer.draft(event_category, event_action, data, source)
        appended = self._writer.append(
            run_id, [draft], idempotency_key, expected_sequence, lease_seconds
        )
        event = Event(
            id=str(appended.first_id),
            run_id=run_id,
            sequence=appended.first_sequence,
            timestamp=appended.timestamp,
            category=event_category,
            action=event_action,
            data_json=draft.data_json,
            source_json=draft.source_json or b"null",
        )
        return AppendedEvent(event, appended.repeated)

    def add_many(
        self,
        run_id: int | str,
        events: Iterable[Mapping[str, Any]],
        *,
        idempotency_key: str | None = None,
        expected_sequence: int | None = None,
        lease_seconds: int | None = None,
    ) -> list[str]:
        """Append up to 1,000 events, all or none, and give their ids; see `append_many`."""
        return self.append_many(
            run_id,
            events,
            idempotency_key=idempotency_key,
            expected_sequence=expected_sequence,
            lease_seconds=lease_seconds,
        ).ids()

    def append_many(
        self,
        run_id: int | str,
        events: Iterable[Mapping[str, Any]],
        *,
        idempotency_key: str | None = None,
        expected_sequence: int | None = None,
        lease_seconds: int | None = None,
    ) -> Appended:
        """Append events, all or none, with sequences that follow on each other.

        Each is a mapping with the names of `append`'s arguments: `event_category`,
        `event_action`, and perhaps `data`, `source` and `lease_seconds`, the last of which
        holds. The keywords hold for all of them together. Raises as `append` does; an
        InvalidInput then names an event as `<index>`, or its field as `<index>.<field>`, and
        `events` where they are none, or more than 1,000.
        """
        drafts, own_lease = self._writer.drafts(events)
        return self.append_drafts(
            run_id,
            drafts,
            idempotency_key=idempotency_key,
            expected_sequence=expected_sequence,
            lease_seconds=lease_seconds if own_lease is None else own_lease,
        )

    def draft(
        self, event_category: str, event_action: str, data: Any = None, source: Any = None
    ) -> Draft:
        """An event that `append_drafts` is to append; raises InvalidEvent and EventTooLarge."""
        return self._writer.draft(event_category, event_action, data, source)

    def append_drafts(
        self,
        run_id: int | str,
        drafts: list[Draft],
        *,
        idempotency_key: str | None = None,
        expected_sequence: int | None = None,
        lease_seconds: int | None = None,
    ) -> Appended:
        """Append 1 to 1,000 drafts as `append_many` does events."""
        return self._writer.append(
            check_run_id(run_id), drafts, idempotency_key, expected_sequence, lease_seconds
        )

    def appender(
        self,
        run_id: int | str,
        *,
        expected_sequence: int | None = None,
        retry_seconds: float = 30.0,
    ) -> Appender:
        """What appends a run's events in the background, as a context; see `Appender`.

        The first event is appended only as the `expected_sequence`, the others after it.
        """
        return Appender(
            partial(self.append_drafts, check_run_id(run_id)),
            max_event_bytes=self._writer.max_event_bytes,
            expected_sequence=expected_sequence,
            retry_seconds=retry_seconds,
        )

    def lose(self, run_id: str, last_id: EventId, *, watched: bool = False) -> bool:
        """End a run whose lease has run out since its last event; False when it goes on.

        For who has been connected for the whole lease: producers that could not reach Redis
        either must first have their turn. Who has `watched` all the time needs no clock;
        else Redis's decides.
        """
        return self._writer.lose(run_id, last_id, watched)

    def set_expire(self, run_id: int | str, ttl_seconds: int = 86_400) -> bool:
        """Keep the run's log for `ttl_seconds` from now; False when there is no log."""
        check_range("ttl_seconds", ttl_seconds)
        commands = [("EXPIRE", key, ttl_seconds) for key in keys_of(check_run_id(run_id))]
        return bool(connection.checked(connection.call_all(self._client, *commands)[0]))

    def delete(self, run_id: int | str) -> bool:
        """Remove the run's log; False when there was none."""
        log, *others = keys_of(check_run_id(run_id))
        commands = ("DEL", log), ("DEL", *others)
        return bool(connection.checked(connection.call_all(self._client, *commands)[0]))

    # Reading

    def get_events(
        self, run_id: int | str, *, limit: int | None = None, descending: bool = False
    ) -> list[Event]:
        """The events of a run, all of them unless limited, in the order of the log."""
        _check_limit(limit)
        self.look(check_run_id(run_id))
        return list(islice(self._scan(str(run_id), descending=descending), limit))

    def get_events_after(
        self, run_id: int | str, last_id: str, *, limit: int | None = None
    ) -> list[Event]:
        """The events after the id `last_id`, all of them unless limited."""
        _check_limit(limit)
        after = EventId.parse(last_id, "last_id")
        self.look(check_run_id(run_id))
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
        self.look(run_id)  # which ends the run, if its producer is lost
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
        beginning of a log that was deleted and begun anew. As in Redis, a `block_ms` of 0
        waits for ever; None does not wait.
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
                tails[run_id] = self.info(run_id).last_id
            cursor = tails[run_id]
        while True:
            left = None if deadline is None else deadline - time.monotonic()
            events = self._read_blocking(run_id, cursor, left)
            if tails is not None:
                if events:
                    tails[run_id] = EventId.parse(events[-1].id)
                elif self.info(run_id).last_id < cursor:
                    cursor = tails[run_id] = ZERO
                    continue
            elif not events and (self.look(run_id).end_id or ZERO) > cursor:
                continue  # the run is lost, or something has come just now
            if events or (left is not None and left <= 0):
                return events

    def info(self, run_id: int | str) -> LogInfo:
        """The run's log as it is now; NO_LOG where there is none."""
        run_id = check_run_id(run_id)
        info = self._info(run_id)
        return self._info(run_id) if self._is_lost(run_id, info) else info

    def look(self, run_id: str) -> LogInfo:
        """The run's log as it is now, without its TTL, after ending the run if it is lost.

        It costs a shared round trip.
        """
        info = self._look(run_id)
        return self._look(run_id) if self._is_lost(run_id, info) else info

    def infos(self, run_ids: Sequence[str]) -> list[LogInfo | None]:
        """The logs of several runs in one round trip; None where the key holds no log."""
        commands = (("XINFO", "STREAM", log_key(run_id)) for run_id in run_ids)
        return [
            None if connection.is_wrong_type(reply) else replies.log_info(reply)
            for reply in connection.call_all(self._client, *commands)
        ]

    def lacks(self, run_id: str, cursor: EventId) -> bool:
        """Whether the log ought to retain the entry at a cursor, and does not."""
        key = log_key(run_id)
        if connection.checked(self._shared.call("XRANGE", key, str(cursor), str(cursor))):
            return False
        info = self._look(run_id)
        retained = info.first_id is not None and info.first_id <= cursor < info.last_id
        return retained and cursor > info.deleted

    def history(
        self, run_id: str, after: EventId, upto: EventId, count: int
    ) -> tuple[list[Frame], LogInfo]:
        """Up to `count` frames of `after` < id <= `upto`, and the log as of then."""
        key = log_key(run_id)
        entries, stream = connection.call_all(
            self._client,
            ("XRANGE", key, f"({after}", str(upto), "COUNT", count),
            ("XINFO", "STREAM", key),  # afterwards: what was deleted by then is told
        )
        return replies.frames(run_id, connection.checked(entries)), replies.log_info(stream)

    def before_last(self, run_id: str, last_id: EventId, count: int) -> EventId:
        """The cursor after which `count` entries follow up to `last_id`; ZERO if fewer."""
        ids = (EventId.parse(event.id) for event in self._scan(run_id, descending=True))
        upto_last = (event_id for event_id in ids if event_id <= last_id)
        return next(islice(upto_last, count, None), ZERO)

    # The server

    def ping(self) -> None:
        """Raise StoreUnavailable unless Redis answers."""
        connection.call(self._client, "PING")

    def server(self) -> dict[str, str]:
        """What the server says of itself (section `server` of INFO), if it may be asked."""
        [reply] = connection.call_all(self._client, ("INFO", "server"))
        if isinstance(reply, NoPermissionError):
            return {}
        lines = connection.checked(reply).decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def check_server(self) -> str:
        """The server's name and version; raises ServerTooOld below Redis 7.0."""
        fields = self.server()
        version = fields.get("redis_version")
        if version is None:
            return "a server that does not tell its version"
        if tuple(map(int, version.split(".")[:2])) < MINIMUM_SERVER:
            raise ServerTooOld(f"{TOO_OLD}; it is Redis {version}")
        valkey = fields.get("valkey_version")
        return f"Valkey {valkey}" if valkey else f"Redis {version}"

    def connect(self, read_timeout: float) -> redis.connection.Connection:
        """A connection of the caller's own to the same server, not yet connected."""
        return connection.make_connection(self._client, read_timeout)

    def release_idle(self) -> None:
        """Close pooled connections that nobody uses: Redis was away, so they are dead."""
        self._client.connection_pool.disconnect(inuse_connections=False)

    # Inside

    def _info(self, run_id: str) -> LogInfo:
        key = log_key(run_id)
        stream, ttl = self._shared.call_all(("XINFO", "STREAM", key), ("TTL", key))
        return replies.log_info(stream, ttl)

    def _look(self, run_id: str) -> LogInfo:
        return replies.log_info(self._shared.call("XINFO", "STREAM", log_key(run_id)))

    def _is_lost(self, run_id: str, info: LogInfo) -> bool:
        """Whether the run has been ended just now, since its lease has run out."""
        if not self._is_overdue(info):
            return False
        try:
            return self.lose(run_id, info.end_id)
        except StoreUnavailable:  # a full memory, a replica: it can be read nevertheless
            return False

    def _is_overdue(self, info: LogInfo) -> bool:
        """Whether the lease has run out, as far as can be told here."""
        lease = info.lease_seconds
        if lease is None or info.ended or time.time() * 1000 < info.last_id.ms + lease * 1000:
            return False
        return time.monotonic() - self._shared.connected_since >= lease

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
        count = FIRST_COUNT
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
