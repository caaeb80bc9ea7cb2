"""Workloads that append: single events, batches, lines, and the appender in Python."""

import time
from collections.abc import Callable

from app.streaming.event_store import EventStore
from tests.bench import load
from tests.bench.figures import Figures
from tests.bench.following import CONTENT, SETTLE_SECONDS, Viewers, event_data
from tests.bench.servers import Server

BATCH = 100


def posts(
    server: Server,
    seconds: float,
    connections: int = 8,
    batch: int = 1,
    content: str = CONTENT,
) -> Figures:
    """Post events over some connections, each as soon as the last answer has come."""
    event = server.body(event_data(content=content))
    body = server.directory / "body"
    body.write_bytes(event if batch == 1 else b"[%b]" % b",".join([event] * batch))

    def post(seconds: float) -> dict:
        return load.post(server.port, connections, seconds, body)

    post(1)  # warm up
    result, cpu, redis_cpu = _measure(server, lambda: post(seconds))
    events = result["requests"] * batch
    return Figures(
        events=events,
        cpu_us=1e6 * cpu / events,
        redis_us=1e6 * redis_cpu / events,
        append_p50_ms=result["p50_ms"],
        append_p99_ms=result["p99_ms"],
        notes={"events/s": events / seconds},
    )


def ingest(server: Server, connections: int, rate: float, seconds: float, watched: bool) -> Figures:
    """Stream `rate` lines a second over each connection, each to another run, watched or not."""
    with Viewers(server, connections if watched else 0, connections) as audience:
        time.sleep(SETTLE_SECONDS)
        audience.count()
        result, cpu, redis_cpu = _measure(
            server, lambda: load.stream_lines(server.port, connections, seconds, rate)
        )
        time.sleep(0.5)
        counted = audience.count()
    sent = result["sent"]
    notes = {"stored of sent": result["stored"] / sent, "seconds behind": result["behind_s"]}
    if watched:
        notes["delivered of sent"] = counted["events"] / sent
    return Figures(
        events=sent,
        cpu_us=1e6 * cpu / sent,
        redis_us=1e6 * redis_cpu / sent,
        p50_ms=counted["p50_ms"] if watched else None,
        p99_ms=counted["p99_ms"] if watched else None,
        notes=notes,
    )


def appender(server: Server, events: int) -> Figures:
    """Append straight to Redis from one program, with an appender and with `add` in a loop."""
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


def _measure(server: Server, work: Callable[[], dict]) -> tuple[dict, float, float]:
    """Return the result of some work, and the CPU seconds of the server and its Redis."""
    cpu, redis_cpu = server.cpu(), server.redis_cpu()
    result = work()
    return result, server.cpu() - cpu, server.redis_cpu() - redis_cpu


def _seconds(work: Callable[[], None]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began
