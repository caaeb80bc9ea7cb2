"""The workloads of those who append: one by one, in batches, line by line, and in Python."""

import json
import subprocess
import sys
import time
from collections.abc import Callable

from app.streaming.event_store import EventStore
from tests.bench.figures import Figures, percentile
from tests.bench.following import SETTLE_SECONDS, Viewers, event_data
from tests.bench.servers import Server
from tests.servers import ROOT

CONNECTIONS = 8
BATCH = 100


def posts(server: Server, seconds: float, batch: int = 1) -> Figures:
    """Events posted over 8 connections as soon as they are answered, one by one or in batches."""
    event = server.body(event_data())
    body = server.directory / "body"
    body.write_bytes(event if batch == 1 else b"[%b]" % b",".join([event] * batch))

    def post(seconds: float) -> dict:
        return _produced("post", server.port, CONNECTIONS, seconds, body)

    post(1)  # warms up
    told, cpu, redis_cpu = _measured(server, lambda: post(seconds))
    events = told["requests"] * batch
    return Figures(
        events=events,
        cpu_us=1e6 * cpu / events,
        redis_us=1e6 * redis_cpu / events,
        append_p99_ms=told["p99_ms"],
        notes={"events/s": events / seconds},
    )


def ingest(server: Server, connections: int, rate: float, seconds: float, watched: bool) -> Figures:
    """Each connection streams so many lines a second to a run of its own, with a viewer or none."""
    with Viewers(server, connections if watched else 0, connections) as audience:
        time.sleep(SETTLE_SECONDS)
        audience.count()
        told, cpu, redis_cpu = _measured(
            server, lambda: _produced("ingest", server.port, connections, seconds, rate)
        )
        time.sleep(0.5)
        counted = audience.count()
    sent = told["sent"]
    notes = {"stored of sent": told["stored"] / sent, "seconds behind": told["behind_s"]}
    if watched:
        notes["delivered of sent"] = counted["events"] / sent
    return Figures(
        events=sent,
        cpu_us=1e6 * cpu / sent,
        redis_us=1e6 * redis_cpu / sent,
        p50_ms=percentile(counted["latencies"], 0.5),
        p99_ms=percentile(counted["latencies"], 0.99),
        notes=notes,
    )


def appender(server: Server, events: int) -> Figures:
    """A program's own events, through an appender and by `add` in a loop, straight to Redis."""
    store = EventStore(server.redis.url)
    store.add("bench-warm", "llm", "stream", event_data())

    def emit() -> None:
        with store.appender("bench-appender") as run:
            for _ in range(events):
                run.emit("llm", "stream", event_data())

    def add() -> None:
        for _ in range(events // 10):
            store.add("bench-add", "llm", "stream", event_data())

    emitted, added = events / _seconds(emit), events / 10 / _seconds(add)
    return Figures(
        events=events,
        notes={"events/s": emitted, "by add": added, "times as fast": emitted / added},
    )


def _measured(server: Server, work: Callable[[], dict]) -> tuple[dict, float, float]:
    """What some work tells, and the CPU seconds of the server and its Redis meanwhile."""
    cpu, redis_cpu = server.cpu(), server.redis_cpu()
    told = work()
    return told, server.cpu() - cpu, server.redis_cpu() - redis_cpu


def _produced(*arguments: object) -> dict:
    """What the producers' process tells when it is done."""
    command = [sys.executable, "-m", "tests.bench.producers", *map(str, arguments)]
    return json.loads(subprocess.check_output(command, cwd=ROOT))


def _seconds(work: Callable[[], None]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began
