"""Runs every workload on every installed server, and prints a table for each workload."""

import argparse
import contextlib
import platform
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench.appending import BATCH, appender, ingest, posts
from tests.bench.figures import Figures
from tests.bench.following import idle, live, replay
from tests.bench.servers import ALL, Server, Tailrace


@dataclass(frozen=True)
class Workload:
    """A measurement of one server. `alone`: the peers have no such feature."""

    run: Callable[[Server], Figures]
    alone: bool = False


def workloads(quick: bool) -> dict[str, Workload]:
    seconds = 3.0 if quick else 8.0
    return {
        "1,000 viewers of one run, 20 events/s": Workload(lambda s: live(s, 1000, 1, 20, seconds)),
        "1,000 viewers of one run, 80 events/s": Workload(lambda s: live(s, 1000, 1, 80, seconds)),
        "1,000 viewers of one run, 200 events/s": Workload(
            lambda s: live(s, 1000, 1, 200, seconds)
        ),
        "50 viewers join a run of 2,000 events": Workload(lambda s: replay(s, 50, 2000)),
        "500 runs of one viewer, 500 events/s in all": Workload(
            lambda s: live(s, 500, 500, 500, seconds, s.needs_redis)
        ),
        "3,000 idle streams": Workload(lambda s: idle(s, 3000, seconds)),
        "single POST, 8 connections": Workload(lambda s: posts(s, seconds)),
        "batches of 100, 8 connections": Workload(lambda s: posts(s, seconds, BATCH), alone=True),
        "ingest, 50 lines/s on each of 100 connections": Workload(
            lambda s: ingest(s, 100, 50, seconds, watched=False), alone=True
        ),
        "100 runs by ingest, 50 lines/s each, one viewer each": Workload(
            lambda s: ingest(s, 100, 50, seconds, watched=True), alone=True
        ),
        "appender in Python": Workload(lambda s: appender(s, 50_000), alone=True),
    }


@contextlib.contextmanager
def started(kind: type[Server]) -> Iterator[Server]:
    """Start a server in a temporary directory, and stop it when the block ends."""
    with tempfile.TemporaryDirectory() as directory:
        server = kind(Path(directory))
        try:
            yield server
        finally:
            server.stop()


def cell(value: float | None) -> str:
    return "—" if value is None else f"{value:,.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("--quick", action="store_true", help="shorter measurements")
    parser.add_argument("--only", default="", help="only workloads whose name contains this")
    parser.add_argument(
        "--servers",
        default="",
        help="only servers whose name contains one of these, separated by |",
    )
    options = parser.parse_args()
    kinds = [
        kind
        for kind in ALL
        if kind.available() and any(part in kind.name for part in options.servers.split("|"))
    ]
    not_installed = [kind.name for kind in ALL if not kind.available()]
    print(f"{platform.platform()}, {platform.processor() or platform.machine()}")
    print(f"not installed: {', '.join(not_installed)}\n" if not_installed else "")
    for title, workload in workloads(options.quick).items():
        if options.only not in title:
            continue
        print(f"### {title}\n")
        print(
            "| server | CPU µs/event | ratio | Redis µs/event "
            "| p50 ms | p99 ms | append p99 ms |  |"
        )
        print("|---|---|---|---|---|---|---|---|")
        base = None
        for kind in kinds:
            if workload.alone and kind is not Tailrace:
                continue
            with started(kind) as server:
                figures = workload.run(server)
            if kind is Tailrace:
                base = figures.cpu_us
            ratio = base / figures.cpu_us if base and figures.cpu_us else None
            cells = [
                kind.name,
                cell(figures.cpu_us),
                "—" if ratio is None else f"{ratio:.2f}",
                cell(figures.redis_us),
                cell(figures.p50_ms),
                cell(figures.p99_ms),
                cell(figures.append_p99_ms),
                ", ".join(f"{name} {value:,.2f}" for name, value in figures.notes.items()),
            ]
            print(f"| {' | '.join(cells)} |", flush=True)
        print(flush=True)


if __name__ == "__main__":
    main()
