"""The log in Redis: one stream a run, written by one atomic script and read by cursor."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import redis
from redis.exceptions import NoPermissionError

from .appender import Appender
from .errors import ServerTooOld, StreamingError
from .event import Event, check_run_id
from .event_id import EventId
from .log import connection
from .log.reader import LogReader
from .log.redis_keys import redis_keys
from .log.redis_url import default_url, make_client
from .log.shared_connection import SharedConnection
from .log.writer import TOO_OLD, LogWriter
from .new_event import (
    MAX_EVENT_BYTES,
    Append,
    Appended,
    NewEvent,
    check_range,
    new_events_from,
)

MIN_SERVER = (7, 0)


class AppendedEvent(NamedTuple):
    """An event in the log, and whether an earlier append with its key had put it there."""

    event: Event
    repeated: bool


class EventStore(LogReader):
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
            client = make_client(url or default_url())
        connect = partial(connection.make_connection, client)
        make_writer = partial(
            LogWriter,
            maxlen=maxlen,
            ended_ttl_seconds=ended_ttl_seconds,
            idle_ttl_seconds=idle_ttl_seconds,
        )
        self.max_event_bytes = max_event_bytes
        shared = SharedConnection(connect)
        super().__init__(client, shared, make_writer(shared))
        # A signal handler may wait for appenders, while the call that it has interrupted leads
        # on the other connection and cannot go on.
        self._appenders_writer = make_writer(SharedConnection(connect))

    @property
    def last_refusal(self) -> float:
        """When Redis last did not take a write of this process: a monotonic time, or -inf."""
        return max(self._writer.last_refusal, self._appenders_writer.last_refusal)

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
        new_event = NewEvent.of(
            event_category, event_action, data, source, max_bytes=self.max_event_bytes
        )
        appended = self._writer.append(
            Append(run_id, [new_event], idempotency_key, expected_sequence, lease_seconds)
        )
        return AppendedEvent(new_event.as_stored(run_id, appended), appended.repeated)

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
        new_events, own_lease = new_events_from(events, self.max_event_bytes)
        return self.append_new(
            run_id,
            new_events,
            idempotency_key=idempotency_key,
            expected_sequence=expected_sequence,
            lease_seconds=lease_seconds if own_lease is None else own_lease,
        )

    def append_new(
        self,
        run_id: int | str,
        new_events: list[NewEvent],
        *,
        idempotency_key: str | None = None,
        expected_sequence: int | None = None,
        lease_seconds: int | None = None,
    ) -> Appended:
        """Append 1 to 1,000 new_events as `append_many` does events."""
        run_id = check_run_id(run_id)
        return self._writer.append(
            Append(run_id, new_events, idempotency_key, expected_sequence, lease_seconds)
        )

    def append_each(self, appends: Sequence[Append]) -> list[Appended | StreamingError]:
        """Carry out some appends in one round trip; each has a result of its own, or its error.

        For who has checked them. Two of one run may be carried out in another order. Raises
        StoreUnavailable where the round trip came to nothing.
        """
        return self._writer.append_each(appends)

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
        run_id = check_run_id(run_id)
        return Appender(
            lambda new_events, **how: self._appenders_writer.append(
                Append(run_id, new_events, **how)
            ),
            max_event_bytes=self.max_event_bytes,
            expected_sequence=expected_sequence,
            retry_seconds=retry_seconds,
        )

    def mark_lost(self, run_id: str, last_id: EventId, *, watched: bool = False) -> bool:
        """End a run whose lease has run out since its last event; False when it goes on.

        For who has been connected for the whole lease: producers that could not reach Redis
        either must first have their turn. Who has `watched` all the time needs no clock;
        else Redis's decides.
        """
        return self._writer.mark_lost(run_id, last_id, watched)

    def set_expire(self, run_id: int | str, ttl_seconds: int = 86_400) -> bool:
        """Keep the run's log for `ttl_seconds` from now; False when there is no log."""
        check_range("ttl_seconds", ttl_seconds)
        commands = [("EXPIRE", key, ttl_seconds) for key in redis_keys(check_run_id(run_id))]
        return bool(connection.checked(connection.call_all(self._client, *commands)[0]))

    def delete(self, run_id: int | str) -> bool:
        """Remove the run's log; False when there was none."""
        log, *others = redis_keys(check_run_id(run_id))
        commands = ("DEL", log), ("DEL", *others)
        return bool(connection.checked(connection.call_all(self._client, *commands)[0]))

    # The server

    def ping(self) -> None:
        """Raise StoreUnavailable unless Redis answers, and takes what is written.

        A script that says what it is may write, so a server that is full, or no master, refuses
        it before it runs; this one writes nothing.
        """
        connection.call(self._client, "EVAL", "#!lua\nreturn 1", 0)

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
        if tuple(map(int, version.split(".")[:2])) < MIN_SERVER:
            raise ServerTooOld(f"{TOO_OLD}; it is Redis {version}")
        valkey = fields.get("valkey_version")
        return f"Valkey {valkey}" if valkey else f"Redis {version}"

    def connect(self, read_timeout: float) -> connection.RedisConnection:
        """A connection of the caller's own to the same server, not yet connected."""
        return connection.make_connection(self._client, read_timeout)

    def release_idle(self) -> None:
        """Close pooled connections that nobody uses: Redis was away, so they are dead."""
        self._client.connection_pool.disconnect(inuse_connections=False)
