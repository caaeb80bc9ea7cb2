"""The event store: writes and reads the logs of runs, each of which is one Redis stream."""

import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Unpack

import redis

from ..metrics.catalog import RUNS_LOST
from .appender import Appender
from .errors import InvalidInput, StreamingError, UnsupportedServer
from .event import Event, check_run_id
from .event_id import EventId
from .log.archived_log import Archive
from .log.lease import Leases
from .log.position import START
from .log.redis_keys import log_key
from .log.whole_reader import WholeLogReader
from .log.writer import LogWriter
from .new_event import (
    MAX_ACK_REPLICAS,
    MAX_EVENT_BYTES,
    Append,
    Appended,
    AppendOptions,
    NewEvent,
    check_range,
    new_events_from,
)
from .readiness.cluster_readiness import ClusterReadiness, ShardState
from .readiness.server_readiness import Readiness
from .redis.availability import Availability
from .redis.cluster.cluster import Cluster
from .redis.engine import make_engine
from .redis.redis_url import default_url, pinned
from .redis.server import TOO_OLD, Server
from .redis.server_warnings import ServerWarning
from .runs.census import Census
from .runs.run_index import RunIndex
from .runs.runs import Runs
from .tail import Tail, requests_of

MIN_SERVER = (7, 0)


class AppendedEvent(NamedTuple):
    """A stored event. `repeated` says whether an earlier append with the same key stored it."""

    event: Event
    repeated: bool


class EventStore(WholeLogReader):
    """The event store of all runs on one Redis or Valkey server, 7.0 or newer.

    A run id is an integer, or 1 to 128 of A-Z a-z 0-9 _ . and -. Every method raises
    InvalidInput for a wrong argument, NotALog if the key of the run holds something else, and
    StoreUnavailable if Redis cannot serve. In a signal handler that interrupted a call, every
    method raises ReentrantCall; only `Appender.emit` may be called there.

    Args:
        url: `redis://`, `rediss://` or `unix://`; without it REDIS_URL, or the local server.
        client: a `redis.Redis` whose server to use instead, over connections of the store's own.
        maxlen: about how many entries a log retains.
        ended_ttl_seconds: how long a log is kept after a terminal event.
        idle_ttl_seconds: how long a log is kept after the last append to a run that goes on.
        max_event_bytes: the largest event, as the JSON of its data and source.
        archive: where the logs of ended runs are kept, to read from what Redis no longer has.
        ack_replicas: how many replicas must have an append, an expiry or a deletion before it is
            acknowledged. If fewer have it within a second, it raises NotReplicated, and is in the
            log all the same.
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
        archive: Archive | None = None,
        ack_replicas: int = 0,
    ):
        check_range("ack_replicas", ack_replicas, MAX_ACK_REPLICAS, minimum=0)
        engine = (
            make_engine(url or default_url(), ack_replicas)
            if client is None
            else Server(pinned(client), ack_replicas)
        )
        self._readiness = (
            ClusterReadiness(engine) if isinstance(engine, Cluster) else Readiness(engine)
        )
        make_writer = partial(
            LogWriter,
            engine,
            maxlen=maxlen,
            ended_ttl_seconds=ended_ttl_seconds,
            idle_ttl_seconds=idle_ttl_seconds,
        )
        self._writer = make_writer(engine.writes)
        super().__init__(engine, Leases(self._availability_of, self._mark_lost), archive)
        self.runs = Runs(
            self,
            make_writer(engine.shared),
            RunIndex(engine.shared),
            is_apart=isinstance(engine, Cluster),
        )
        self.max_event_bytes = max_event_bytes
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
        traceparent: str | None = None,
        **options: Unpack[AppendOptions],
    ) -> str:
        """Append an event and return its id; see `append` for the arguments and the errors."""
        new_event = NewEvent.of(
            *(event_category, event_action, data, source, traceparent),
            max_bytes=self.max_event_bytes,
        )
        return self.append_new(run_id, [new_event], **options).last_id

    def append(
        self,
        run_id: int | str,
        event_category: str,
        event_action: str,
        data: Any = None,
        source: Any = None,
        *,
        traceparent: str | None = None,
        **options: Unpack[AppendOptions],
    ) -> AppendedEvent:
        """Append an event and return it as it is stored.

        `data` and `source` are any JSON values; a source of None is not stored. `traceparent`
        (W3C Trace Context) names the producer's trace; one that is not valid is ignored. For the
        other keywords see AppendOptions.

        Raises InvalidEvent, EventTooLarge, KeyReused, UnexpectedSequence, and RunEnded after
        a terminal event, unless this event is `lifecycle.started`, which reopens the run.
        """
        run_id = check_run_id(run_id)
        new_event = NewEvent.of(
            *(event_category, event_action, data, source, traceparent),
            max_bytes=self.max_event_bytes,
        )
        appended = self._append(Append(run_id, [new_event], **options))
        return AppendedEvent(new_event.as_stored(run_id, appended), appended.repeated)

    def add_many(
        self,
        run_id: int | str,
        events: Iterable[Mapping[str, Any]],
        **options: Unpack[AppendOptions],
    ) -> list[str]:
        """Append 1 to 1,000 events, all or none, and return their ids; see `append_many`."""
        return self.append_many(run_id, events, **options).ids()

    def append_many(
        self,
        run_id: int | str,
        events: Iterable[Mapping[str, Any]],
        **options: Unpack[AppendOptions],
    ) -> Appended:
        """Append 1 to 1,000 events, all or none, whose sequences follow one another.

        Each event is a mapping with `event_category`, `event_action`, and optionally `data`,
        `source`, `traceparent` and `lease_seconds`; the last lease counts. The keywords are for
        all events together; see AppendOptions.

        Raises as `append` does. The field of an InvalidInput is `<index>` or `<index>.<key>`
        for one event, and `events` if there are none or too many.
        """
        new_events, lease_seconds = new_events_from(events, self.max_event_bytes)
        if lease_seconds is not None:
            options["lease_seconds"] = lease_seconds
        return self.append_new(run_id, new_events, **options)

    def append_new(
        self, run_id: int | str, new_events: list[NewEvent], **options: Unpack[AppendOptions]
    ) -> Appended:
        """Append 1 to 1,000 new events, as `append_many` appends mappings."""
        return self._append(Append(check_run_id(run_id), new_events, **options))

    @property
    def has_lanes(self) -> bool:
        """Whether the logs are on several servers."""
        return isinstance(self.engine, Cluster)

    def lane_of(self, run_id: str) -> str:
        """Return a name for the server that has a run's log; it does not wait for Redis.

        An append waits for no other server.
        """
        return self.engine.lane_of(log_key(run_id))

    def append_each(self, appends: Sequence[Append]) -> list[Appended | StreamingError]:
        """Carry out appends in one round trip, and return the result or the error of each.

        Their events and options must have been checked. Two appends to the same run may be
        carried out in another order. Raises StoreUnavailable if the round trip failed, on a
        cluster for all of them in the same way.
        """
        outcomes = self._writer.append_each(appends)
        pairs = zip(appends, outcomes, strict=True)
        self.runs.appended((one, each) for one, each in pairs if isinstance(each, Appended))
        return outcomes

    def census(self) -> Census:
        """Return a census, which keeps the index of runs true once it is started."""
        return Census(self, self.runs, self.engine.shared)

    def appender(
        self,
        run_id: int | str,
        *,
        expected_sequence: int | None = None,
        retry_seconds: float = 30.0,
    ) -> Appender:
        """Return an Appender, which appends events of the run in the background.

        Use it as a context. The first event must get the `expected_sequence`, if one is given.
        A batch that Redis cannot take is repeated for `retry_seconds`.
        """
        run_id = check_run_id(run_id)
        return Appender(
            partial(self.append_new, run_id),
            name=f"run {run_id}",
            max_event_bytes=self.max_event_bytes,
            expected_sequence=expected_sequence,
            retry_seconds=retry_seconds,
        )

    def mark_lost(self, run_id: str, last_id: EventId, *, watched: bool = False) -> bool:
        """Append `lifecycle.lost` if `last_id` is still the last event and its lease is over.

        Call it only after a connection to Redis has lasted for the whole lease: producers that
        could not reach Redis must get their turn first. With `watched` the caller has seen that
        no event came for that long; without it the clock of Redis decides. Returns False if
        nothing was appended.
        """
        return self._mark_lost(run_id, last_id, watched)

    def set_expire(self, run_id: int | str, ttl_seconds: int = 86_400) -> bool:
        """Keep the run's log for `ttl_seconds` from now. Return whether there is a log."""
        check_range("ttl_seconds", ttl_seconds)
        return self._writer.set_expire(check_run_id(run_id), ttl_seconds)

    def delete(self, run_id: int | str) -> bool:
        """Delete the run's log and its idempotency keys. Return whether there was a log.

        What the archive has of the run is deleted first. If the archive raises ArchiveUnavailable,
        the log in Redis is still there.
        """
        run_id = check_run_id(run_id)
        was_archived = self._delete_archived(run_id)
        existed = self._writer.delete(run_id) or was_archived
        if existed:
            self.runs.deleted(run_id)
        return existed

    def _append(self, append: Append) -> Appended:
        appended = self._writer.append(append)
        self.runs.appended([(append, appended)])
        return appended

    def _mark_lost(self, run_id: str, last_id: EventId, watched: bool) -> bool:
        marked = self._writer.mark_lost(run_id, last_id, watched)
        if marked:
            RUNS_LOST.add()
            self.runs.lost(run_id)
        return marked

    # Waiting

    def subscribe(
        self, run_id: int | str, last_id: str | None = None, block_ms: int | None = 5000
    ) -> list[Event]:
        """Wait for events and return them, or [] if none came within `block_ms` milliseconds.

        With `last_id` these are the events after that id. Without it, the first call begins at
        the end of the log, and each later one goes on where the last one stopped: this object
        keeps a position for each run and thread.

        As on a stream, an event `gateway.gap` stands where events are missing, and
        `gateway.reset` before the events of another log. Their id is None.

        As in Redis, a `block_ms` of 0 waits for ever. None does not wait.
        """
        run_id = check_run_id(run_id)
        if block_ms is not None and block_ms < 0:
            raise InvalidInput("block_ms", "must be 0 or more, or None")
        deadline = None if block_ms == 0 else time.monotonic() + (block_ms or 0) / 1000
        if last_id is not None:
            return Tail(self, run_id, START).wait_after(EventId.parse(last_id, "last_id"), deadline)
        tails: dict[str, Tail] = self._tails.__dict__
        if run_id not in tails:
            tails[run_id] = Tail(self, run_id, self.state(run_id).end)
        return tails[run_id].wait(deadline)

    def requests(self, run_id: int | str, last_id: str = "earliest") -> Iterator[Event]:
        """Yield what viewers request of the run's producer, until the run has ended.

        These are the events of the category `request` after the id `last_id`, each once, as they
        come: wait for them in a thread of their own. After an outage of Redis it goes on.
        """
        run_id = check_run_id(run_id)
        after = None if last_id == "earliest" else EventId.parse(last_id, "last_id")
        return requests_of(self, run_id, after)

    # The server

    def ping(self) -> None:
        """Raise StoreUnavailable unless Redis responds and accepts writes."""
        self._readiness.ping()

    def check_ready(self, *streams: str) -> None:
        """Try out all that Tailrace needs of the server, which keeps nothing of it.

        `streams` are keys that are no run's, to which the caller appends too.

        Raises UnsupportedServer, which names what is missing, and StoreUnavailable. In a cluster
        it is raised if no node can serve; `shards` then says how each of them is.
        """
        self._readiness.check(*streams)

    def shards(self) -> Sequence[ShardState]:
        """Return how the nodes of a cluster were at the last `check_ready`; none else."""
        return self._readiness.shards

    def silent_nodes(self) -> Mapping[str, str]:
        """Return the nodes that the URL of a cluster names, and that are no use yet, with why.

        They have not answered, or have joined no cluster, as the last `check_ready` found it.
        """
        return self._readiness.silent

    def warnings(self) -> list[ServerWarning]:
        """Return which settings of the server may lose events, as they were 15 seconds ago or less.

        A server that does not allow INFO has none. Raises StoreUnavailable.
        """
        return self._readiness.warnings()

    def server(self, section: str = "server") -> dict[str, str]:
        """Return a section of INFO, or {} if this user may not read it.

        In a cluster it is that of one of the nodes.
        """
        return self.engine.info(section)

    def check_server(self) -> str:
        """Return the server's name and version. Raises UnsupportedServer below Redis 7.0.

        In a cluster these are those of one of the nodes.
        """
        fields = self.server()
        version = fields.get("redis_version")
        if version is None:
            return "a server of unknown version"
        # Forks and release candidates write `v7.2.4` or `8.0-m02`.
        numbers = re.search(r"(\d+)\.(\d+)", version)
        if numbers and (int(numbers[1]), int(numbers[2])) < MIN_SERVER:
            raise UnsupportedServer(f"{TOO_OLD}; it is Redis {version}")
        valkey = fields.get("valkey_version")
        return f"Valkey {valkey}" if valkey else f"Redis {version}"

    def _availability_of(self, run_id: str) -> Availability:
        return self.engine.server_of(log_key(run_id)).availability
