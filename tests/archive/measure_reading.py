"""Measures reading an archived run through a gateway: `python -m tests.archive.measure_reading`.

It writes a run of the given size into an archive, which Redis knows nothing of. The archive is a
directory, or with --s3 a bucket of moto's server. It prints, as JSON:

- how long the first event takes, from the request on, of a run of which the worker knows nothing:
  from the beginning, from an id and from a sequence in the middle, and of the last ten events
- how fast the whole run is read, as a stream and as lines, and the memory of the worker then
- the memory of the worker while a slow client reads, and how long an event of another, live run
  takes meanwhile, and while nothing is read
"""

import argparse
import contextlib
import json
import os
import random
import statistics
import string
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import requests

from app.archive.archive import Archive
from app.archive.manifest import Manifest, Part
from app.archive.names import LogName
from app.archive.parts import PartWriter
from app.archive.storage import Storage, storage_of
from app.streaming.event import timestamp_now
from app.streaming.event_id import EventId
from app.streaming.event_store import EventStore
from app.streaming.log.log_state import LogState
from app.streaming.log.replies import parse_event
from tests.integration.archive.buckets import S3Server
from tests.servers import GatewayServer, RedisServer

RUN = "archived"
EPOCH = b"1700000000000000"
BEGAN_MS = 1_700_000_000_000
REPEATS = 7


def entry_of(number: int, count: int, data: bytes) -> list[object]:
    names = (b"lifecycle", b"completed") if number == count else (b"llm", b"stream")
    fields = [
        *(b"timestamp", b"2023-11-14T22:13:20.000Z"),
        *(b"sequence", b"%d" % number, b"epoch", EPOCH),
        *(b"event_category", names[0], b"event_action", names[1], b"data", data),
    ]
    return [str(id_of(number)).encode(), fields]


def id_of(number: int) -> EventId:
    return EventId(BEGAN_MS + number, 0)


def write_archive(storage: Storage, size: int, event_bytes: int) -> int:
    """Archive a run of about so many bytes, and return how many events it has."""
    count = size // (event_bytes + 200)
    letters = random.Random(1).choices(string.ascii_letters + " ", k=event_bytes + 1000)
    texts = [json.dumps("".join(letters[n : n + event_bytes])).encode() for n in range(1000)]
    archive, log_name = Archive(storage), LogName(RUN, EPOCH)
    writer, parts = PartWriter(log_name), []

    def finish() -> None:
        part, data = writer.finish()
        archive.put_part(part, data)
        parts.append(part)

    for number in range(1, count + 1):
        writer.add(entry_of(number, count, texts[number % 1000]))
        if writer.is_full:
            finish()
    if writer.count:
        finish()
    assert archive.commit(manifest_of(parts, count, texts), None)
    return count


def manifest_of(parts: list[Part], count: int, texts: list[bytes]) -> Manifest:
    state = LogState(
        length=count,
        first_id=id_of(1),
        first_sequence=1,
        last_id=id_of(count),
        last_sequence=count,
        ended=True,
        end_id=id_of(count),
        epoch=EPOCH,
        end_sequence=count,
    )
    first, last = (parse_event(RUN, entry_of(n, count, texts[n % 1000])) for n in (1, count))
    return Manifest(LogName(RUN, EPOCH), state, tuple(parts), first, last, timestamp_now())


@contextlib.contextmanager
def archive_at(folder: Path, on_s3: bool) -> Iterator[str]:
    """Yield the URL of an empty archive; what a gateway needs for it is in the environment."""
    if not on_s3:
        yield f"file://{folder / 'archive'}"
        return
    with S3Server() as server:
        os.environ |= server.environ
        yield server.url


def first_event(gateway: GatewayServer, sequence: int, **query: object) -> float:
    """Return after how many milliseconds the first event of a stream is here."""
    began = time.perf_counter()
    url = f"{gateway.url}/runs/{RUN}/events/stream"
    with requests.get(url, params=query, stream=True, timeout=60) as response:
        for line in response.iter_lines(chunk_size=1):
            if line.startswith(b'data: {"id":"'):
                assert json.loads(line.removeprefix(b"data: "))["sequence"] == sequence
                return 1000 * (time.perf_counter() - began)
    raise AssertionError("no event has come")


def whole(gateway: GatewayServer, path: str, pause: float = 0.0, **query: object) -> dict:
    """Read a whole answer, and return how fast, and how much memory the worker took."""
    worker, most = gateway.workers()[0], 0
    began, size, events = time.perf_counter(), 0, 0
    url = f"{gateway.url}/runs/{RUN}/events{path}"
    with requests.get(url, params=query, stream=True, timeout=60) as response:
        for number, piece in enumerate(response.iter_content(256 * 1024)):
            size += len(piece)
            events += piece.count(b'"sequence":')
            if number % 16 == 0:
                most = max(most, worker.memory_info().rss)
            time.sleep(pause)
    seconds = time.perf_counter() - began
    return {
        "seconds": round(seconds, 1),
        "MB/s": round(size / seconds / 1e6, 1),
        "events": events,
        "worker MB": round(most / 1e6),
    }


class LiveRun:
    """A run that goes on while others are read: how long its events take to its follower."""

    def __init__(self, gateway: GatewayServer, store: EventStore):
        self._gateway, self._store = gateway, store
        self._over = threading.Event()
        self.delays: list[float] = []
        store.add("live", "lifecycle", "started")
        self._threads = [threading.Thread(target=each) for each in (self._follow, self._append)]

    def __enter__(self) -> "LiveRun":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._store.delete("live")

    def _append(self) -> None:
        while not self._over.wait(0.02):
            self._store.add("live", "llm", "stream", time.perf_counter())
        self._store.add("live", "lifecycle", "completed")

    def _follow(self) -> None:
        url = f"{self._gateway.url}/runs/live/events/stream?last_event_id=latest"
        with requests.get(url, stream=True, timeout=60) as response:
            for line in response.iter_lines(chunk_size=1):
                if line.startswith(b'data: {"id":"'):
                    sent = json.loads(line.removeprefix(b"data: "))["data"]
                    if sent is not None:
                        self.delays.append(1000 * (time.perf_counter() - sent))

    @property
    def figures(self) -> dict:
        delays = sorted(self.delays)
        return {
            "median ms": round(statistics.median(delays), 1),
            "p99 ms": round(delays[int(len(delays) * 0.99)], 1),
            "longest ms": round(delays[-1], 1),
            "events": len(delays),
        }


def measure(size: int, event_bytes: int, on_s3: bool) -> dict:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp")))
        url = stack.enter_context(archive_at(folder, on_s3))
        began = time.perf_counter()
        count = write_archive(storage_of(url), size, event_bytes)
        wrote = time.perf_counter() - began
        (folder / "redis").mkdir()
        redis_server = stack.enter_context(RedisServer(folder / "redis"))
        log, middle = folder / "log", count // 2

        def gateway() -> contextlib.AbstractContextManager[GatewayServer]:
            return GatewayServer(redis_server.url, log, ARCHIVE_URL=url)

        starts = {
            "the beginning": (1, {}),
            "an id": (middle + 1, {"last_event_id": str(id_of(middle))}),
            "a sequence": (middle, {"from_sequence": middle}),
            "the last ten": (count - 9, {"tail": 10}),
        }
        times: dict[str, list[float]] = {name: [] for name in starts}
        for _ in range(REPEATS):
            for name, (sequence, query) in starts.items():
                with gateway() as fresh:  # which has read nothing yet
                    requests.get(f"{fresh.url}/runs/another", timeout=10)
                    times[name].append(first_event(fresh, sequence, **query))
        figures = {
            "events": count,
            "written in s": round(wrote, 1),
            "first event ms (median, longest)": {
                name: [round(statistics.median(each), 1), round(max(each), 1)]
                for name, each in times.items()
            },
        }
        with gateway() as here:
            figures["worker MB before"] = round(here.workers()[0].memory_info().rss / 1e6)
            figures["as a stream"] = whole(here, "/stream")
            figures["as lines"] = whole(here, "", download="true")
        with gateway() as here:
            store = EventStore(redis_server.url)
            with LiveRun(here, store) as quiet:
                time.sleep(20)
            figures["live, nothing read"] = quiet.figures
            with LiveRun(here, store) as busy:
                figures["as a stream, slowly"] = whole(here, "/stream", pause=0.005)
            figures["live, while it is read"] = busy.figures
        return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--event-bytes", type=int, default=1000)
    parser.add_argument("--s3", action="store_true")
    given = parser.parse_args()
    figures = measure(given.megabytes * 1_000_000, given.event_bytes, given.s3)
    print(json.dumps({"machine": f"{psutil.cpu_count()} cores", **figures}, indent=1))


if __name__ == "__main__":
    main()
