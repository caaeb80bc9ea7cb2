"""Measures the archiver, and the first read of an archive: `python -m tests.archive.measure`.

It archives one large run by `python -m app archive --once`. It prints the events per second, the
most memory that the process took, and how long the first page of the archive takes. The argument is
how many MB of data the run has, by default 1,000.
"""

import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import psutil
import redis

from app.archive.archive import Archive
from app.archive.storage import storage_of
from app.streaming.event_id import ZERO
from app.streaming.event_store import EventStore
from tests.servers import ROOT, RedisServer

EVENT_BYTES = 1000
BATCH = 1000
PAGE = 100


def fill(client: redis.Redis, store: EventStore, events: int) -> None:
    """Append so many events of 1,000 bytes, which compress to a third as text does."""
    dice = random.Random(1)
    words = [*(f"{dice.getrandbits(32):x}" for _ in range(2000)), *["brown", "fox"] * 600]
    texts = [" ".join(dice.choices(words, k=190))[: EVENT_BYTES - 40] for _ in range(BATCH)]
    for first in range(0, events, BATCH):
        batch = []
        for number in range(first, min(first + BATCH, events)):
            start = dice.randrange(400)
            text = texts[number % BATCH][start:] + texts[dice.randrange(BATCH)][:start]
            data = {"content": text, "number": number}
            batch.append({"event_category": "llm", "event_action": "stream", "data": data})
        store.append_many("large", batch)
    store.add("large", "lifecycle", "completed")


class Cost(NamedTuple):
    """What a process took: seconds, seconds of a processor, and the most bytes of memory."""

    seconds: float
    cpu_seconds: float
    memory: int


def archive(environ: dict[str, str]) -> Cost:
    """Archive everything, and return what it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    process = psutil.Popen(
        [sys.executable, "-m", "app", "archive", "--once"], env=environ, cwd=ROOT
    )
    most = 0
    while process.poll() is None:
        try:
            most = max(most, process.memory_info().rss)
        except psutil.Error:
            break
        time.sleep(0.02)
    assert process.wait() == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(time.monotonic() - began, cpu, most)


def main() -> None:
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    events = megabytes * 1_000_000 // EVENT_BYTES
    with tempfile.TemporaryDirectory() as folder, RedisServer(Path(folder)) as server:
        store = EventStore(server.url, maxlen=10**9)
        fill(server.client(), store, events)
        url = f"file://{folder}/archive"
        environ = {**os.environ, "REDIS_URL": server.url, "ARCHIVE_URL": url}
        empty = {**environ, "REDIS_URL": server.url.replace("/0", "/1")}
        idle, cost = archive(empty), archive(environ)
        size = sum(each.stat().st_size for each in Path(folder, "archive").rglob("*.gz"))
        print(f"{events} events, {megabytes} MB of data, {size / 1e6:.0f} MB in the archive")
        rate = events / (cost.seconds - idle.seconds)
        cpu_rate = events / (cost.cpu_seconds - idle.cpu_seconds)
        print(f"{rate:,.0f} events/s; {cpu_rate:,.0f} events in a second of one processor")
        print(f"memory: {cost.memory / 1e6:.0f} MB; with nothing to do {idle.memory / 1e6:.0f} MB")
        began = time.monotonic()
        reader = Archive(storage_of(url))
        manifest = reader.find("large")
        found = reader.entries(manifest, ZERO, manifest.state.last_id, PAGE)
        print(f"first page of {len(found)} events: {1000 * (time.monotonic() - began):.0f} ms")
        assert manifest.state.last_sequence == events + 1
        began = time.monotonic()
        environ["STREAM_TTL_SECONDS"] = "1000"
        server.client().delete("run:large:events")
        subprocess.run(
            [sys.executable, "-m", "app", "restore", "large"], env=environ, cwd=ROOT, check=True
        )
        print(f"restored in {time.monotonic() - began:.1f} s")
        assert store.state("large").length == events + 1


if __name__ == "__main__":
    main()
