"""What ACK_REPLICAS=1 costs an append: CPU and latency, beside those of one that asks no replica.

`python -m tests.bench.acknowledging` posts to two gateways on one master with a replica, in turns,
and prints the medians.
"""

import argparse
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path

from tests.bench import load
from tests.servers import GatewayServer, ReplicatedServers

CONNECTIONS = 1, 8, 64
BODY = b'{"event_category":"llm","event_action":"stream","data":{"token":"hello"}}'


class Measured:
    """The gateways with and without the setting, and what was measured of each."""

    def __init__(self, directory: Path):
        self.servers = ReplicatedServers(directory)
        self.body = directory / "body"
        self.body.write_bytes(BODY)
        self.gateways = [
            GatewayServer(
                self.servers.master.url,
                directory / f"log-{replicas}",
                ACK_REPLICAS=replicas,
                LOG_LEVEL="error",
            ).start()
            for replicas in (0, 1)
        ]
        self.figures: defaultdict[tuple[int, int], list[tuple[float, ...]]] = defaultdict(list)

    def post(self, replicas: int, connections: int, seconds: float) -> tuple[float, ...]:
        """Return the CPU of worker, master and replica for an append in µs, and p50, p99 in ms."""
        gateway = self.gateways[replicas]
        redis = [self.servers.master.process.pid, self.servers.replica.process.pid]
        processes = [gateway.workers()[0].pid, *redis]
        before = [_cpu_seconds(each) for each in processes]
        result = load.post(gateway.port, connections, seconds, self.body)
        costs = [
            1e6 * (_cpu_seconds(each) - was) / result["requests"]
            for each, was in zip(processes, before, strict=True)
        ]
        return *costs, result["p50_ms"], result["p99_ms"]

    def stop(self) -> None:
        for gateway in self.gateways:
            gateway.stop()
        self.servers.stop()


def _cpu_seconds(pid: int) -> float:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.acknowledging", description=__doc__
    )
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each measurement")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tailrace-bench-") as directory:
        measured = Measured(Path(directory))
        try:
            for turn in range(options.turns + 1):
                for connections in CONNECTIONS:
                    for replicas in (0, 1) if turn % 2 else (1, 0):
                        found = measured.post(replicas, connections, options.seconds)
                        if turn:  # the first one warms up
                            measured.figures[connections, replicas].append(found)
        finally:
            measured.stop()
    print("connections  replicas   worker   master  replica (µs)   p50   p99 (ms)")
    for connections in CONNECTIONS:
        medians = [
            [statistics.median(column) for column in zip(*measured.figures[key], strict=True)]
            for key in ((connections, 0), (connections, 1))
        ]
        for replicas, figures in enumerate(medians):
            print(f"{connections:11} {replicas:9}", *(f"{each:8.2f}" for each in figures))
        ratios = [with_it / without for without, with_it in zip(*medians, strict=True)]
        print(" " * 16 + "ratio", *(f"{each:8.2f}" for each in ratios))


if __name__ == "__main__":
    main()
