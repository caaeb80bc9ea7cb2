"""What a load needs: workers, cores, memory, shards and network, from measured costs.

docs/capacity.md says how the costs were measured, and what the model leaves out.
"""

import math
from dataclasses import dataclass, field

from .costs import CLUSTER, ONE_REDIS, Costs, Unusable

# A worker, or a Redis, is planned to use this share of a core: the rest is for bursts.
MAX_LOAD = 0.5
# What is planned for each byte of memory that is measured: fragmentation, bursts, a rewrite of
# Redis's append-only file, which copies pages.
GATEWAY_MEMORY_FACTOR = 1.5
REDIS_MEMORY_FACTOR = 2.0
# Four fifths of the default of MAX_STREAMS: an alert tells of more. And the most runs that one
# worker followed in the measurements.
PLANNED_STREAMS = 8_000
MAX_FOLLOWED_RUNS = 5_000
# The most data that a shard is planned to hold: a replica must copy it, and a restart read it.
MAX_SHARD_BYTES = 16e9
# A worker's connections to each shard of a cluster, at most (docs/redis.md). On one Redis it has
# some more, and readers, of which each follows so many runs.
CONNECTIONS_TO_SHARD = 18
CONNECTIONS_TO_ONE = 21
RUNS_PER_READER = 64
MAX_CLIENTS = 10_000  # the default of Redis's maxclients
# With two masters no replica takes the place of one that died: no majority is left to promote it.
FEWEST_MASTERS = 3
# The most servers for which Redis Cluster is made, and its slots: a master needs one.
MAX_NODES = 1000
SLOTS = 16_384

KB = 1000  # bytes
_MICRO = 1e-6


@dataclass(frozen=True)
class Load:
    """What is to be carried.

    Attributes:
        runs: runs whose logs are in Redis and that get events.
        viewers: open streams.
        events: events a second of all runs together.
        event_bytes: the data of an event, as JSON.
        viewers_per_run: followers of each run that is followed; by default the viewers are spread
            over all runs.
        merged: the runs that each stream follows.
        kept: the events in the log of a run; STREAM_MAXLEN bounds them.
    """

    runs: int
    viewers: int
    events: float
    event_bytes: int = 500
    viewers_per_run: float | None = None
    merged: int = 1
    kept: int = 1000

    def __post_init__(self) -> None:
        """Raises Unusable for a load that cannot be."""
        if self.viewers and not self.runs:
            raise Unusable("viewers follow runs; without runs there can be none")
        if self.events and not self.runs:
            raise Unusable("events belong to runs; without runs there can be none")
        if self.merged > max(1, self.runs):
            raise Unusable(f"a stream cannot follow {self.merged:,} of {self.runs:,} runs")
        if self.viewers_per_run is None:
            return
        if self.viewers_per_run > self.viewers:
            raise Unusable(
                f"a run cannot have {self.viewers_per_run:,g} viewers of {self.viewers:,}"
            )
        if self.viewers * self.merged / self.viewers_per_run > self.runs:
            least = math.ceil(self.viewers * self.merged / self.runs)
            raise Unusable(
                f"{self.viewers:,} viewers of {self.merged:,} of {self.runs:,} runs each "
                f"are at least {least:,} viewers per run"
            )

    @property
    def followers(self) -> float:
        """How many streams follow each run that is followed: at least 1."""
        return self.viewers_per_run or max(1.0, self.viewers * self.merged / max(1, self.runs))

    @property
    def followed(self) -> float:
        """How many runs somebody follows."""
        return self.viewers * self.merged / self.followers

    @property
    def rate(self) -> float:
        """Events a second of one run."""
        return self.events / max(1, self.runs)

    @property
    def delivered(self) -> float:
        """Events a second that are delivered to all viewers together."""
        return self.viewers * self.merged * self.rate

    def followed_by(self, workers: int) -> float:
        """Return how many runs the workers follow, each counted once for each worker.

        The viewers are spread at random over the workers.
        """
        if workers == 1:
            return self.followed
        has_none = self.followers * math.log1p(-1 / workers)
        return self.followed * workers * -math.expm1(has_none)


@dataclass(frozen=True)
class Needs:
    """What a load needs.

    Attributes:
        workers: of all gateways together, each with a core for itself.
        cores: what these workers use, in cores, without what is planned for bursts.
        memory_bytes: of all workers.
        shards: Redis servers that have logs: 1 is a standalone one, more are a cluster.
        redis_cores: what all shards use, in cores, without what is planned for bursts.
        redis_memory_bytes: of all shards, without replicas.
        redis_connections: to each shard, at most.
        delivered: events a second.
        followed_per_worker: the runs that a worker follows.
        in_bytes, out_bytes: of the gateways' network with clients, in a second.
        redis_bytes: between gateways and Redis, in a second, both ways.
        reopening_seconds: the CPU time of each worker if all streams are opened anew.
        notes: what the figures do not say.
    """

    workers: int
    cores: float
    memory_bytes: float
    shards: int
    redis_cores: float
    redis_memory_bytes: float
    redis_connections: int
    delivered: float
    followed_per_worker: float
    in_bytes: float
    out_bytes: float
    redis_bytes: float
    reopening_seconds: float
    notes: list[str] = field(default_factory=list)


def needs(load: Load, one_redis: Costs = ONE_REDIS, cluster: Costs = CLUSTER) -> Needs:
    """Return the least that a load needs: with one Redis, or with a cluster if one is too few."""
    workers = _fewest_workers(load, one_redis)
    if _fewest_shards(load, one_redis, workers) == 1:
        return planned(load, one_redis, workers, 1)
    workers = _fewest_workers(load, cluster)
    shards = max(FEWEST_MASTERS, _fewest_shards(load, cluster, workers))
    return planned(load, cluster, workers, shards)


def planned(load: Load, costs: Costs, workers: int, shards: int) -> Needs:
    """Return what a load takes of so many workers and shards, even if they are too few."""
    followed = load.followed_by(workers)
    reads = followed * load.rate
    connections = _connections(load, workers, shards)
    size = load.event_bytes
    return Needs(
        workers=workers,
        cores=gateway_cpu(load, costs, workers),
        memory_bytes=gateway_memory(load, costs, workers) * GATEWAY_MEMORY_FACTOR,
        shards=shards,
        redis_cores=redis_cpu(load, costs, workers),
        redis_memory_bytes=redis_memory(load, costs) * REDIS_MEMORY_FACTOR,
        redis_connections=connections,
        delivered=load.delivered,
        followed_per_worker=followed / workers,
        in_bytes=load.events * (costs.request_bytes + size),
        out_bytes=load.delivered * (costs.frame_bytes + size) + load.events * costs.answer_bytes,
        redis_bytes=load.events * (costs.redis_append_bytes + size)
        + reads * (costs.redis_read_bytes + size),
        reopening_seconds=load.viewers * costs.open_us * _MICRO / workers,
        notes=_notes(load, costs, workers, shards, connections),
    )


def gateway_cpu(load: Load, costs: Costs, workers: int) -> float:
    """Return how many cores the workers use in all."""
    kb = load.event_bytes / KB
    followed = load.followed_by(workers)
    send = costs.send_us + kb * costs.send_us_per_kb
    if load.merged > 1:
        send *= costs.merged_factor
    return _MICRO * (
        load.events * (costs.append_us + kb * costs.append_us_per_kb)
        + followed * load.rate * (costs.read_us + kb * costs.read_us_per_kb)
        + load.delivered * send
        + load.viewers * costs.idle_stream_us
        + followed * costs.idle_run_us
    )


def redis_cpu(load: Load, costs: Costs, workers: int) -> float:
    """Return how many cores all shards use together."""
    append, read = _redis_cpu_of_run(load, costs)
    return load.runs * append + load.followed_by(workers) * read


def busiest_run_cpu(load: Load, costs: Costs, workers: int) -> float:
    """Return how many cores a run takes of its shard, if somebody follows it."""
    append, read = _redis_cpu_of_run(load, costs)
    if not load.followed:
        return append
    return append + load.followed_by(workers) / load.followed * read


def _redis_cpu_of_run(load: Load, costs: Costs) -> tuple[float, float]:
    """Return how many cores of Redis a run takes: for its appends, and for each worker's reads."""
    kb = load.event_bytes / KB
    append = costs.redis_append_us + kb * costs.redis_append_us_per_kb + costs.redis_key_us
    read = costs.redis_read_us + kb * costs.redis_read_us_per_kb
    return _MICRO * load.rate * append, _MICRO * (load.rate * read + costs.redis_idle_run_us)


def gateway_memory(load: Load, costs: Costs, workers: int) -> float:
    """Return the bytes that all workers take, without what is planned for bursts."""
    stream = costs.stream_bytes + (load.merged - 1) * costs.merged_run_bytes
    followed = load.followed_by(workers)
    return workers * costs.worker_bytes + load.viewers * stream + followed * costs.run_bytes


def redis_memory(load: Load, costs: Costs) -> float:
    """Return the bytes of all logs together, each with an idempotency key for each event."""
    data = costs.redis_data_factor * load.event_bytes
    event = costs.redis_event_bytes + data + costs.redis_key_bytes
    return load.runs * (costs.redis_run_bytes + load.kept * event)


def _connections(load: Load, workers: int, shards: int) -> int:
    """Return how many connections a shard has at most."""
    if shards > 1:
        return CONNECTIONS_TO_SHARD * workers
    readers = math.ceil(load.followed_by(workers) / workers / RUNS_PER_READER)
    return (CONNECTIONS_TO_ONE + readers) * workers


def _fewest_workers(load: Load, costs: Costs) -> int:
    """Return the fewest workers none of which has too much to do.

    With more workers, each has less.
    """

    def suffice(workers: int) -> bool:
        return (
            gateway_cpu(load, costs, workers) <= MAX_LOAD * workers
            and load.viewers <= PLANNED_STREAMS * workers
            and load.followed_by(workers) <= MAX_FOLLOWED_RUNS * workers
        )

    most = 1
    while not suffice(most):
        most *= 2
    fewest = most // 2 + 1
    while fewest < most:
        middle = (fewest + most) // 2
        if suffice(middle):
            most = middle
        else:
            fewest = middle + 1
    return most


def _fewest_shards(load: Load, costs: Costs, workers: int) -> int:
    """Return the fewest shards none of which has too much, if runs could be divided."""
    return max(
        1,
        math.ceil(redis_cpu(load, costs, workers) / MAX_LOAD),
        math.ceil(redis_memory(load, costs) / MAX_SHARD_BYTES),
    )


def _notes(load: Load, costs: Costs, workers: int, shards: int, connections: int) -> list[str]:
    notes = []
    if connections > MAX_CLIENTS:
        notes.append(
            f"each shard has up to {connections:,} connections: raise Redis's maxclients, "
            "run fewer workers, or send all viewers of a run to one gateway"
        )
    if load.runs and busiest_run_cpu(load, costs, workers) > MAX_LOAD:
        notes.append(
            "one run has more events, or workers that read it, than one Redis can serve: "
            "a run is on one shard, so more shards do not help"
        )
    if load.runs and redis_memory(load, costs) / load.runs > MAX_SHARD_BYTES:
        notes.append(
            "one run has more data than is planned for a shard: a run is on one shard, "
            "so more shards do not help"
        )
    if shards > MAX_NODES:
        notes.append(
            f"a cluster should have at most {MAX_NODES:,} servers with its replicas, and cannot "
            f"have more than {SLOTS:,} masters: divide the runs among several clusters"
        )
    return notes
