"""The workload that reads the metrics."""

import contextlib
import http.client
import time

from tests.bench.figures import Figures, percentile
from tests.bench.servers import Server

SCRAPES = 300


def scrapes(server: Server) -> Figures:
    """Read the metrics again and again; the figures are those of one answer."""
    times, size = [], 0
    with contextlib.closing(
        http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    ) as connection:
        cpu = server.cpu()
        for _ in range(SCRAPES):
            began = time.monotonic()
            connection.request("GET", "/metrics")
            size = len(connection.getresponse().read())
            times.append(1000 * (time.monotonic() - began))
        cpu = server.cpu() - cpu
    return Figures(
        events=SCRAPES,
        cpu_us=1e6 * cpu / SCRAPES,
        p50_ms=percentile(times, 0.5),
        p99_ms=percentile(times, 0.99),
        notes={"KB": size / 1000},
    )
