"""What things cost on this machine, for `python -m app capacity --costs`; docs/capacity.md says it.

Run it by hand: `python -m tests.bench.costs > costs.json`, on an idle machine.

With `--cluster` it measures a gateway on three masters, as few as a cluster has that outlives one.
A cost of Redis is then the sum over the three: of their CPU, and of the bytes that they receive
and send, for each event. The runs are spread over them by their names. A workload of one run is
on one of them. What the masters do without events is not of the followed runs: those are measured
as the difference between many of them and one.
"""

import argparse
import contextlib
import json
import re
import statistics
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from app.costs import ONE_REDIS
from app.sizing import KB
from app.streaming.event_store import EventStore
from tests.bench.appending import posts
from tests.bench.figures import Figures
from tests.bench.following import (
    SETTLE_SECONDS,
    Viewers,
    event_data,
    idle,
    live_by_redis,
    produce,
)
from tests.bench.servers import Server, Tailrace, ThreeMasters, close

# The data of an event has about so many characters.
SMALL, LARGE = 100, 4000

# Where each event costs a worker a read, and where one read is for many.
RUNS, RUN_RATE = 500, 500
FOLLOWERS, FOLLOWED_RATE = 1000, 20
STREAMS = 3000
# Linux counts CPU in steps of 10 ms, and idle streams take little of it.
IDLE_SECONDS = 30
KEYED_RUNS, KEYED_THREADS = 50, 4


@dataclass(frozen=True)
class Cost:
    """What an event of a small size costs, and what each further 1,000 bytes cost."""

    small: float
    large: float

    @property
    def per_kb(self) -> float:
        return max(0.0, (self.large - self.small) * KB / (size(LARGE) - size(SMALL)))

    @property
    def base(self) -> float:
        """What an event without data costs."""
        return max(0.0, self.small - self.per_kb * size(SMALL) / KB)


@dataclass(frozen=True)
class Live:
    """What an event costs a worker and Redis, in µs; the size of its data is `size(length)`."""

    append: float
    read: float
    send: float
    redis_append: float
    redis_read: float


def size(length: int) -> int:
    """Return the bytes of the data whose content has so many characters."""
    return len(orjson.dumps(event_data(content="x" * length)))


@contextlib.contextmanager
def started(kind: type[Server]) -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as directory:
        server = kind(Path(directory))
        try:
            yield server
        finally:
            server.stop()


def live_costs(
    kind: type[Server], seconds: float, length: int = SMALL, connections: int = 8
) -> Live:
    """Measure what appends and delivered events cost."""
    content = "x" * length
    with started(kind) as server:
        append = posts(server, seconds, connections, content=content)
    with started(kind) as server:
        many = live_by_redis(server, RUNS, RUNS, RUN_RATE, seconds, content)
    with started(kind) as server:
        one = live_by_redis(server, FOLLOWERS, 1, FOLLOWED_RATE, seconds, content)
    # An event of `many` costs a read and a send; one of `one` a send and a part of a read.
    read = max(0.0, (many.cpu_us - one.cpu_us) / (1 - 1 / FOLLOWERS))
    return Live(
        append=append.cpu_us,
        read=read,
        send=max(0.0, many.cpu_us - read),
        redis_append=append.redis_us,
        redis_read=max(0.0, many.redis_us - many.notes["Redis µs of an append alone"]),
    )


def of_live(small: Live, large: Live) -> dict[str, float]:
    """Return the costs of events of any size, from those of two sizes."""
    costs = {}
    for name in ("append", "read", "send", "redis_append", "redis_read"):
        cost = Cost(getattr(small, name), getattr(large, name))
        costs |= {f"{name}_us": cost.base, f"{name}_us_per_kb": cost.per_kb}
    return costs


def of_idle(kind: type[Server]) -> dict[str, float]:
    """Measure what streams and followed runs cost that get no events."""

    def measure(runs: int) -> tuple[Figures, int]:
        with started(kind) as server:
            memory = server.memory()
            return idle(server, STREAMS, IDLE_SECONDS, runs), memory

    (one, memory), (many, _) = measure(1), measure(STREAMS)

    def more(name: str, factor: float) -> float:
        return max(0.0, many.notes[name] - one.notes[name]) * factor

    per_second = 1e4 / STREAMS  # of 1 % of a core, in µs of each
    return {
        "open_us": many.notes["CPU µs of an opening"],
        "idle_stream_us": one.notes["idle CPU %"] * per_second,
        "idle_run_us": more("idle CPU %", per_second),
        "redis_idle_run_us": more("idle CPU of Redis %", per_second),
        "worker_bytes": memory,
        "stream_bytes": one.notes["KB a stream"] * 1024,
        "run_bytes": more("KB a stream", 1024),
    }


def of_keys(kind: type[Server], seconds: float) -> dict[str, float]:
    """Measure what it costs Redis that an event has an idempotency key."""
    each = int(500 * seconds)

    with started(kind) as server, contextlib.ExitStack() as stack:
        store = EventStore(server.redis.url)
        stack.callback(close, store)

        def append(*, keys: bool) -> float:
            """Return what Redis needs for an event, in µs."""

            def of_thread(_: int) -> None:
                for number in range(each):
                    key = uuid.uuid4().hex if keys else None
                    run = f"bench-{number % KEYED_RUNS}"
                    store.add(run, "llm", "stream", event_data(), idempotency_key=key)

            cpu = server.redis_cpu()
            with ThreadPoolExecutor(KEYED_THREADS) as pool:
                list(pool.map(of_thread, range(KEYED_THREADS)))
            return 1e6 * (server.redis_cpu() - cpu) / (each * KEYED_THREADS)

        append(keys=True)  # the first events of the runs cost more
        without = append(keys=False)
        return {"redis_key_us": max(0.0, append(keys=True) - without)}


def of_network(kind: type[Server], seconds: float) -> dict[str, float]:
    """Measure how many bytes an event takes on its way, beside its data."""
    data = len(orjson.dumps(event_data()))
    with started(kind) as server:
        before = redis_bytes(server)
        events = posts(server, seconds).events * (1 + 1 / seconds)  # a second to warm up
        append = (redis_bytes(server) - before) / events
    with started(kind) as server, Viewers(server, RUNS, RUNS) as audience:
        time.sleep(SETTLE_SECONDS)
        audience.count()
        before, sent_before = redis_bytes(server), delivered_bytes(server)
        produce(server, RUNS, RUN_RATE, seconds)
        time.sleep(SETTLE_SECONDS)
        events = audience.count()["events"]
        moved = (redis_bytes(server) - before) / events
        frame = (delivered_bytes(server) - sent_before) / events
    return {
        "redis_append_bytes": max(0.0, append - data),
        "redis_read_bytes": max(0.0, moved - append - data),
        "frame_bytes": max(0.0, frame - data),
    }


def redis_bytes(server: Server) -> int:
    """Return the bytes that all shards have received and sent."""
    names = "total_net_input_bytes", "total_net_output_bytes"
    return sum(sum(server.redis_info(name)) for name in names)


def delivered_bytes(server: Server) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    return float(re.search(r"^tailrace_delivered_bytes_total ([0-9.e+]+)$", text, re.M)[1])


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of each figure over several rounds, which have the same names."""
    return {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}


def measured(kind: type[Server], seconds: float, rounds: int) -> dict[str, float]:
    """Measure all costs that a run of the bench can tell, as medians of several rounds."""
    small, large, others = [], [], []
    for _ in range(rounds):
        small.append(asdict(live_costs(kind, seconds)))
        large.append(asdict(live_costs(kind, seconds, LARGE)))
        others.append(of_idle(kind) | of_keys(kind, seconds) | of_network(kind, seconds))
    costs = of_live(Live(**medians(small)), Live(**medians(large))) | medians(others)
    ONE_REDIS.with_measured(costs)
    return {name: round(value, 2) for name, value in costs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.costs", description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="of a measurement with events")
    parser.add_argument("--rounds", type=int, default=3, help="whose medians are the costs")
    parser.add_argument("--cluster", action="store_true", help="on a cluster of three masters")
    options = parser.parse_args()
    kind = ThreeMasters if options.cluster else Tailrace
    print(json.dumps(measured(kind, options.seconds, options.rounds)))


if __name__ == "__main__":
    main()
