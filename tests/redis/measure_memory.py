"""`python -m tests.redis.measure_memory`: how much memory runs take in Redis, on each server.

It prints the table of docs/redis.md. Redis is asked twice: how much more memory it uses, and what
MEMORY USAGE says of the keys.
"""

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import redis

from app.streaming.event_store import EventStore
from tests.redis.programs import PROGRAMS, Program
from tests.servers import RedisServer, wait_until

BATCH = 1000  # events in one append without keys

# Of all connections together, when the memory is looked at.
MAX_BUFFER_BYTES = 300_000


@dataclass(frozen=True)
class Shape:
    """Runs that are alike: how many, of how many events, with how many bytes of data in each.

    `data` is the length of the JSON. With `keys`, each event has an idempotency key of 32 bytes.
    """

    name: str
    runs: int
    events: int
    data: int
    keys: bool = False


SHAPES = (
    Shape("1 event", 2000, 1, 20),
    Shape("1 event, with a key", 2000, 1, 20, keys=True),
    Shape("100 small events", 200, 100, 20),
    Shape("10,000 tokens", 3, 10_000, 20),
    Shape("10,000 tokens, each with a key", 1, 10_000, 20, keys=True),
    Shape("1,000 events of 200 bytes", 10, 1000, 200),
    Shape("10,000 events of 1 KB", 1, 10_000, 1024),
    Shape("300 events of 10 KB", 5, 300, 10_240),
    Shape("100 events of 100 KB", 2, 100, 102_400),
)


@dataclass(frozen=True)
class Measured:
    """Bytes for each run: how much more memory Redis uses, and what MEMORY USAGE says."""

    used: float
    by_keys: float


def write(store: EventStore, shape: Shape, run: int) -> None:
    """Append the events of one run."""
    data = "x" * (shape.data - 2)  # JSON adds two quotation marks
    run_id = f"{shape.events}-events-{run:05}"
    event = {"event_category": "llm", "event_action": "stream", "data": data}
    if shape.keys:
        for number in range(shape.events):
            key = f"{run:08}-{number:023}"
            store.append_many(run_id, [event], idempotency_key=key)
        return
    for first in range(0, shape.events, BATCH):
        size = min(BATCH, shape.events - first, max(1, 3_000_000 // shape.data))
        for start in range(first, min(first + BATCH, shape.events), size):
            store.append_many(run_id, [event] * min(size, shape.events - start))


def measure(program: Program, shape: Shape, *options: str) -> Measured:
    """Write the runs of a shape into a new server."""
    with (
        tempfile.TemporaryDirectory(prefix="tailrace-memory-") as directory,
        RedisServer(Path(directory), *options, binary=program.path) as server,
        server.client() as client,
    ):
        store = EventStore(server.url)
        write(store, Shape("", 1, 1, 20, keys=True), 99999)  # connections and scripts
        before = used(client), by_keys(client)
        for run in range(shape.runs):
            write(store, shape, run)
        after = used(client), by_keys(client)
    return Measured(
        *((late - early) / shape.runs for early, late in zip(before, after, strict=True))
    )


def used(client: redis.Redis) -> int:
    """Return how much memory the data take, without buffers of connections.

    The server frees large buffers of silent connections after a while, and counts all of them
    now and then: until then the two figures may not belong together.
    """
    return wait_until(lambda: _used_beside_small_buffers(client), "large buffers are freed")


def _used_beside_small_buffers(client: redis.Redis) -> int | None:
    memory = client.info("memory")
    buffers: int = memory["mem_clients_normal"]
    return memory["used_memory"] - buffers if buffers < MAX_BUFFER_BYTES else None


def by_keys(client: redis.Redis) -> int:
    """Return the sum of MEMORY USAGE of all keys, each looked at as a whole."""
    return sum(client.memory_usage(key, samples=0) for key in client.scan_iter(count=1000))


def rows(programs: list[Program]) -> Iterator[str]:
    for shape in SHAPES:
        figures = [measure(program, shape) for program in programs]
        cells = [f"{each.used:,.0f} / {each.by_keys:,.0f}" for each in figures]
        yield f"| {shape.name} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.redis.measure_memory")
    parser.add_argument("--only", help="a part of the name of a server")
    only = parser.parse_args().only or ""
    programs = [each for each in PROGRAMS if each.path and only in each.name]
    print(f"| a run of | {' | '.join(each.version() for each in programs)} |")
    print(f"|---|{'---|' * len(programs)}")
    for row in rows(programs):
        print(row, flush=True)


if __name__ == "__main__":
    main()
