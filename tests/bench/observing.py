"""What observing costs: the CPU time of the worker for an append, beside that of a bare one.

`python -m tests.bench.observing` measures each kind of request in turn, several times, and prints
the medians. With `--beside DIRECTORY` a gateway of another checkout is measured in the same turns.
"""

import argparse
import contextlib
import itertools
import socket
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.bench.collector import Collector
from tests.servers import ROOT, GatewayServer, RedisServer

CONNECTIONS = 50
BODY = b'{"event_category":"llm","event_action":"stream","data":{"token":"hello"}}'

_numbers = itertools.count(1)


def _bare() -> str:
    return ""


def _request_id() -> str:
    return f"X-Request-Id: bench-{next(_numbers)}\r\n"


def _traceparent() -> str:
    return f"traceparent: 00-{'4' * 32}-{next(_numbers):016x}-01\r\n"


class Kind(NamedTuple):
    """A kind of append: to which gateway, and with which headers."""

    name: str
    gateway: GatewayServer
    headers: Callable[[], str]


class Load:
    """Fifty connections, each of which appends, and then waits for the answer."""

    def __init__(self, gateway: GatewayServer) -> None:
        self._gateway = gateway
        address = "127.0.0.1", gateway.port
        self._connections = [socket.create_connection(address) for _ in range(CONNECTIONS)]

    def run(self, rounds: int, headers: Callable[[], str]) -> float:
        """Append in so many rounds, and return the CPU time of the worker for each in µs."""
        before = self._cpu_seconds()
        for _ in range(rounds):
            for number, each in enumerate(self._connections):
                head = f"POST /runs/{number}/events HTTP/1.1\r\nHost: localhost\r\n{headers()}"
                head += f"Content-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n"
                each.sendall(head.encode() + BODY)
            for each in self._connections:
                assert each.recv(65536).startswith(b"HTTP/1.1 201")
        return (self._cpu_seconds() - before) / rounds / CONNECTIONS * 1e6

    def close(self) -> None:
        for each in self._connections:
            each.close()

    def _cpu_seconds(self) -> float:
        """Return the CPU time so far; that of psutil counts in steps of 10 ms."""
        stats = [Path(f"/proc/{each.pid}/schedstat") for each in self._gateway.workers()]
        return sum(int(each.read_text().split()[0]) for each in stats) / 1e9


@contextlib.contextmanager
def kinds(directory: Path, beside: Path | None) -> Iterator[list[Kind]]:
    with contextlib.ExitStack() as stack:

        def start(name: str, checkout: Path = ROOT, **settings: object) -> GatewayServer:
            (directory / name).mkdir()
            redis = stack.enter_context(RedisServer(directory / name))
            log = directory / name / "log"
            return stack.enter_context(
                GatewayServer(redis.url, log, directory=checkout, LOG_LEVEL="error", **settings)
            )

        collector = stack.enter_context(contextlib.closing(Collector()))
        own = start("own")
        traced = start("traced", OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
        found = [
            Kind("bare", own, _bare),
            Kind("X-Request-Id", own, _request_id),
            Kind("traceparent", own, _traceparent),
            Kind("both", own, lambda: _request_id() + _traceparent()),
            Kind("both, spans on", traced, lambda: _request_id() + _traceparent()),
        ]
        if beside is not None:
            found.append(Kind(f"bare, {beside}", start("beside", beside), _bare))
        yield found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.observing", description=__doc__)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=40, help="of 50 appends, in each turn")
    parser.add_argument("--beside", type=Path)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="tailrace-bench-") as directory,
        kinds(Path(directory), options.beside) as found,
    ):
        loads = {id(each.gateway): Load(each.gateway) for each in found}
        measured: dict[str, list[float]] = {each.name: [] for each in found}
        for turn in range(options.turns + 1):
            for each in found if turn % 2 else reversed(found):
                cost = loads[id(each.gateway)].run(options.rounds, each.headers)
                if turn:  # the first one warms up
                    measured[each.name].append(cost)
        for load in loads.values():
            load.close()
    bare = statistics.median(measured["bare"])
    for name, costs in measured.items():
        median = statistics.median(costs)
        print(f"{name:40} {median:7.1f} µs {median / bare:6.2f}")


if __name__ == "__main__":
    main()
