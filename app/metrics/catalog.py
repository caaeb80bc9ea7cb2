"""Every metric that there is. docs/observing.md explains them, and a test compares the two.

A label has a fixed list of values, and never the id of a run.
"""

from array import array

from .values import Aggregate, Counter, Gauge, Histogram, Layout, Metric, use

STREAM_KINDS = ("stream", "history", "long_poll", "ingest")
END_REASONS = (
    *("ended", "disconnected", "draining", "stalled", "refused", "failed", "expired", "revoked"),
    *("changed", "closed"),
)
# What a request is answered with, as far as it is worth a series of its own.
STATUSES = (
    *("200", "201", "204", "304", "400", "401", "403", "404", "405", "408", "409", "411", "413"),
    *("415", "421", "422", "429", "500", "503", "other"),
)
WAYS = ("plain", "view", "lines")
_OUTCOMES = ("stored", "repeated", "refused", "unavailable", "failed")

# From half a millisecond to ten seconds: what a person notices lies between 0.1 and 1 s.
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_LONG_SECONDS = (1, 5, 15, 60, 300, 900, 3600, 14_400, 86_400)

_all: list[Metric] = []


def _counter(name: str, help: str, **labels: tuple[str, ...]) -> Counter:
    _all.append(counter := Counter(f"tailrace_{name}_total", help, **labels))
    return counter


def _gauge(name: str, help: str, aggregate: Aggregate = "sum", **labels: tuple[str, ...]) -> Gauge:
    _all.append(gauge := Gauge(f"tailrace_{name}", help, aggregate, **labels))
    return gauge


def _histogram(name: str, help: str, bounds: tuple[float, ...]) -> Histogram:
    _all.append(histogram := Histogram(f"tailrace_{name}", help, bounds))
    return histogram


# Streams

STREAMS_OPEN = _gauge("streams_open", "Open streams", kind=STREAM_KINDS)
STREAMS_LIMIT = _gauge("streams_limit", "How many streams may be open")
STREAMS_OPENED = _counter("streams_opened", "Streams that were admitted", kind=STREAM_KINDS)
STREAMS_CLOSED = _counter(
    "streams_closed", "Streams that have ended, and why", kind=STREAM_KINDS, reason=END_REASONS
)
STREAMS_REFUSED = _counter(
    "streams_refused",
    "Streams that were refused, for want of a place, for the subject's limit, or in a drain",
    reason=("full", "subject", "draining"),
)
STREAM_SECONDS = _histogram("stream_seconds", "How long a stream was open", _LONG_SECONDS)

# Delivery

DELIVERED_EVENTS = _counter("delivered_events", "Events that were sent to clients of streams")
DELIVERED_BYTES = _counter("delivered_bytes", "Bytes that were sent to clients of streams")
DELIVERY_LAG = _histogram(
    "delivery_lag_seconds",
    "From the id of a live event to its send; of a batch, that of its oldest event",
    _SECONDS,
)
NOTICES = _counter("notices", "Gaps and resets that clients were told", notice=("gap", "reset"))
PARTIAL_SENDS = _counter(
    "partial_sends", "Sends of live events that a client's socket did not take whole"
)
BACKLOG_BYTES = _gauge("backlog_bytes", "Bytes that wait for slow clients")

# Appends

APPENDS = _counter(
    "appends",
    "Appends, by the way they took and how they ended; one of many lines counts once a batch",
    way=WAYS,
    outcome=_OUTCOMES,
)
APPENDED_EVENTS = _counter("appended_events", "Events that were stored", way=WAYS)
APPEND_SECONDS = _histogram(
    "append_seconds", "How long a round trip of appends to Redis took", _SECONDS
)
ROUND_TRIP_COMMANDS = _histogram(
    "round_trip_commands",
    "How many commands shared a round trip to Redis",
    (1, 2, 4, 8, 16, 32, 64, 128, 256),
)
HELD_BODY_BYTES = _gauge("held_body_bytes", "Bytes of bodies that are not stored yet")

# Runs

RUNS = _gauge("runs", "Runs that the index knows", "max", state=("active", "ended"))
RUNS_LOST = _counter("runs_lost", "Runs that ended because their lease was over")

# Reading

FEEDS = _gauge("feeds", "Runs that are followed")
READERS = _gauge("readers", "Readers, each of which follows up to 64 runs over one connection")
READER_FAILURES = _counter("reader_failures", "How often a reader has lost Redis")
HISTORY_BYTES = _gauge("history_bytes", "Memory of the pages of history that are kept")
HISTORY_PAGES = _counter(
    "history_pages", "Pages of history, from memory or read from Redis", source=("memory", "redis")
)

# Redis

REDIS_UP = _gauge("redis_up", "Whether Redis responds and accepts writes: 1, or 0", "min")
REDIS_NODES_AWAY = _gauge(
    "redis_nodes_away", "Nodes of a cluster that do not respond or accept no writes", "max"
)
REDIS_PROBE_SECONDS = _gauge("redis_probe_seconds", "How long the last probe of it took", "max")
REDIS_WARNINGS = _gauge(
    "redis_warnings", "How many of its settings may lose events, as readyz names them", "max"
)
REDIS_CONNECTIONS = _gauge("redis_connections", "Open connections to Redis")
REDIS_ERRORS = _counter(
    "redis_errors",
    "Failures of Redis: it cannot be reached, or it refuses",
    kind=(
        *("connection", "timeout", "full", "read_only", "loading", "forbidden", "replicas"),
        "other",
    ),
)

# HTTP

RESPONSES = _counter("http_responses", "Answers to requests", status=STATUSES)
CONNECTIONS = _gauge("connections", "Connections of clients", state=("waiting", "busy", "stream"))
AUTH_REFUSALS = _counter(
    "auth_refusals",
    "Requests without a token, with one that is not accepted, without the right, or too many",
    reason=("missing", "invalid", "forbidden", "too_many"),
)

# Workers

WORKERS = _gauge("workers", "Workers that run")
WORKERS_STARTED = _counter("workers_started", "Workers that have started")
WORKERS_DIED = _counter("workers_died", "Workers that have ended without having been stopped")
DRAINING = _gauge("draining", "Workers that are ending their streams")
HUB_LAG = _histogram(
    "hub_lag_seconds",
    "How late a worker's loop runs what is due, measured four times a second",
    _SECONDS,
)
CPU_SECONDS = _counter("cpu_seconds", "CPU time of workers", mode=("user", "system"))
RESIDENT_BYTES = _gauge("resident_memory_bytes", "Resident memory of workers")
OPEN_FILES = _gauge("open_files", "Open file descriptors of workers")
FILES_LIMIT = _gauge("open_files_limit", "How many file descriptors one worker may open", "min")

LAYOUT = Layout(_all)
# Until a worker gets its own, and in every other process.
use(array("d", bytes(8 * LAYOUT.size)))
