"""Runs every workload on every installed server, and prints a table for each workload."""

import argparse
import contextlib
import platform
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tests.bench.appending import BATCH, appender, ingest, posts
from tests.bench.capacity import capacity
from tests.bench.figures import Figures
from tests.bench.following import idle, live, live_by_redis, replay
from tests.bench.listing import listing
from tests.bench.scraping import scrapes
from tests.bench.servers import (
    ALL,
    COMPARED,
    FourWorkers,
    Payloads,
    Server,
    Tailrace,
    TwoWorkers,
    Uncounted,
)

ROUNDS = 3


@dataclass(frozen=True)
class Workload:
    """A measurement of one server. `alone`: the peers have no such feature.

    `compared`: it is for what --compare names only.

    `scales`: Tailrace is measured with more workers too. With `first`, its capacity is searched
    for: `run` gets a load, of which this is the first.
    """

    run: Callable[..., Figures]
    alone: bool = False
    scales: bool = False
    first: float | None = None
    compared: bool = False

    def is_for(self, kind: type[Server]) -> bool:
        """Whether it is measured on such a server."""
        if issubclass(kind, TwoWorkers):
            return self.scales
        return kind in (Tailrace, Uncounted, Payloads) or not self.alone


def workloads(seconds: float) -> dict[str, Workload]:
    def followed(viewers: int, runs: int, rate: float) -> Workload:
        return Workload(lambda s: live(s, viewers, runs, rate, seconds), scales=runs == 500)

    def merged(viewers: int, runs: int, each: int) -> Workload:
        """Return a workload of viewers that follow one run each, or several, at 100 events/s."""
        return Workload(lambda s: live(s, viewers, runs, 100, seconds, each), alone=True)

    def by_redis(runs: int, *, compared: bool = False) -> Workload:
        return Workload(
            lambda s: live_by_redis(s, runs, runs, 500, seconds), alone=True, compared=compared
        )

    def lines(connections: int, *, watched: bool) -> Workload:
        return Workload(
            lambda server: ingest(server, connections, 50, seconds, watched), alone=True
        )

    return {
        "1,000 viewers of one run, 20 events/s": followed(1000, 1, 20),
        "1,000 viewers of one run, 80 events/s": followed(1000, 1, 80),
        "1,000 viewers of one run, 200 events/s": followed(1000, 1, 200),
        "50 viewers join a run of 2,000 events": Workload(lambda s: replay(s, 50, 2000)),
        "50 runs of one viewer, 500 POSTs/s in all": followed(50, 50, 500),
        "500 runs of one viewer, 500 POSTs/s in all": followed(500, 500, 500),
        "5,000 runs of one viewer, 500 POSTs/s in all": followed(5000, 5000, 500),
        "10 runs of one viewer, 500 events/s by XADD": by_redis(10, compared=True),
        "500 runs of one viewer, 500 events/s by XADD": by_redis(500),
        "5,000 runs of one viewer, 500 events/s by XADD": by_redis(5000, compared=True),
        "1,000 viewers of one run, 100 events/s": merged(1000, 1, 1),
        "1,000 viewers of the same 20 runs, 100 events/s in all": merged(1000, 20, 20),
        "20 viewers of each of 400 runs, 100 events/s in all": merged(8000, 400, 1),
        "400 viewers of 20 of 400 runs each, 100 events/s in all": merged(400, 400, 20),
        "10 idle streams": Workload(lambda s: idle(s, 10, seconds), compared=True),
        "500 idle streams": Workload(lambda s: idle(s, 500, seconds), compared=True),
        "3,000 idle streams": Workload(lambda s: idle(s, 3000, seconds)),
        "5,000 idle streams": Workload(lambda s: idle(s, 5000, seconds), compared=True),
        "20,000 streams of 2,000 runs, 500 POSTs/s in all": Workload(
            lambda s: live(s, 20_000, 2000, 500, seconds), compared=True
        ),
        "single POST, 8 connections": Workload(lambda s: posts(s, seconds, 8)),
        "single POST, 64 connections": Workload(lambda s: posts(s, seconds, 64), scales=True),
        "batches of 100, 8 connections": Workload(
            lambda s: posts(s, seconds, 8, BATCH), alone=True
        ),
        "10 runs by ingest, 50 lines/s each, one viewer each": lines(10, watched=True),
        "100 runs by ingest, 50 lines/s each": lines(100, watched=False),
        "100 runs by ingest, 50 lines/s each, one viewer each": lines(100, watched=True),
        "a page of 100 of 100,000 runs": Workload(lambda s: listing(s, 100_000), alone=True),
        "a scrape of the metrics": Workload(scrapes, alone=True, scales=True),
        "appender in Python": Workload(lambda s: appender(s, 50_000), alone=True),
        "capacity: events/s to 1,000 viewers of one run": Workload(
            lambda s, load: live(s, 1000, 1, load, seconds), first=64
        ),
        "capacity: runs of one viewer and 20 POSTs/s each": Workload(
            lambda s, load: live(s, int(load), int(load), 20 * int(load), seconds), first=64
        ),
        "capacity: runs of one viewer and 50 lines/s each by ingest": Workload(
            lambda s, load: ingest(s, int(load), 50, seconds, watched=True), alone=True, first=32
        ),
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


def measured(workload: Workload, kind: type[Server]) -> Figures:
    def measure(*load: float) -> Figures:
        with started(kind) as server:
            return workload.run(server, *load)

    return measure() if workload.first is None else capacity(measure, workload.first)


def medians(rounds: list[Figures]) -> Figures:
    """Return the medians of what several rounds have measured."""
    middle = replace(rounds[0], notes=dict(rounds[0].notes))
    for name in ("cpu_us", "redis_us", "p50_ms", "p99_ms", "append_p50_ms", "append_p99_ms"):
        values = [getattr(each, name) for each in rounds]
        found = [value for value in values if value is not None]
        setattr(middle, name, statistics.median(found) if found else None)
    for name in middle.notes:
        middle.notes[name] = statistics.median(each.notes.get(name, 0.0) for each in rounds)
    return middle


def cell(value: float | None) -> str:
    return "—" if value is None or value < 0 else f"{value:,.1f}"


def row(kind: type[Server], rounds: list[Figures], base: Figures) -> str:
    """Return the row of a server: medians, and the least and the most of its CPU."""
    figures = medians(rounds)
    cpu = [each.cpu_us for each in rounds if each.cpu_us is not None]
    spread = f" ({min(cpu):,.1f} to {max(cpu):,.1f})" if len(cpu) > 1 else ""
    ratio = base.cpu_us / figures.cpu_us if base.cpu_us and figures.cpu_us else None
    cells = [
        kind.name,
        cell(figures.cpu_us) + spread,
        "—" if ratio is None else f"{ratio:.2f}",
        cell(figures.redis_us),
        f"{cell(figures.p50_ms)} / {cell(figures.p99_ms)}",
        f"{cell(figures.append_p50_ms)} / {cell(figures.append_p99_ms)}",
        ", ".join(f"{name} {value:,.2f}" for name, value in figures.notes.items()),
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("--quick", action="store_true", help="one round of short measurements")
    parser.add_argument("--rounds", type=int, help="how often each server is measured, in turn")
    parser.add_argument(
        "--only",
        default="",
        help="only workloads whose name contains one of these, separated by |",
    )
    parser.add_argument(
        "--servers",
        default="",
        help="only servers whose name contains one of these, separated by |",
    )
    parser.add_argument(
        "--compare", choices=COMPARED, help="only Tailrace, beside itself with something else"
    )
    options = parser.parse_args()
    count = options.rounds or (1 if options.quick else ROUNDS)
    wanted = [
        kind
        for kind in COMPARED.get(
            options.compare, (*ALL, Uncounted, Payloads, TwoWorkers, FourWorkers)
        )
        if any(part in kind.name for part in options.servers.split("|"))
        and (kind not in (Uncounted, Payloads) or options.servers)
    ]
    kinds = [kind for kind in wanted if kind.available()]
    not_installed = [kind.name for kind in wanted if not kind.available()]
    print(f"{platform.platform()}, {platform.processor() or platform.machine()}")
    print(f"not installed: {', '.join(not_installed)}\n" if not_installed else "")
    for title, workload in workloads(3.0 if options.quick else 8.0).items():
        is_wanted = any(part in title for part in options.only.split("|"))
        if not is_wanted or (workload.compared and not options.compare):
            continue
        print(f"### {title}\n")
        print(
            "| server | CPU µs/event | ratio | Redis µs/event "
            "| p50 / p99 ms | append p50 / p99 ms |  |"
        )
        print("|---|---|---|---|---|---|---|", flush=True)
        measures = [kind for kind in kinds if options.compare or workload.is_for(kind)]
        rounds: dict[type[Server], list[Figures]] = {kind: [] for kind in measures}
        for _ in range(count):
            for kind in measures:
                rounds[kind].append(measured(workload, kind))
        base = medians(rounds[measures[0]]) if measures else Figures()
        for kind in measures:
            print(row(kind, rounds[kind], base), flush=True)
        print(flush=True)


if __name__ == "__main__":
    main()
