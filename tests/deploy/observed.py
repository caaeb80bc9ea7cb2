"""Gateways with real load, which a real Prometheus scrapes: what the dashboard shows."""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import requests

from app.archive.writing.metrics import Metrics
from app.auth.tokens import make_token
from app.client import Client
from app.streaming.errors import StreamingError
from tests.prometheus import Prometheus
from tests.servers import GatewayServer, RedisServer, free_port, wait_until

SECRET = "the-secret-of-observed-gateways-is-long"
RUNS = [f"observed-{number}" for number in range(5)]
TOKEN = make_token(
    SECRET, "tailrace", {"read": ["*"], "append": ["*"]}, 3600, aud="tailrace", sub="load"
)
BEARER = {"Authorization": f"Bearer {TOKEN}"}


class Observed(NamedTuple):
    """What runs."""

    prometheus: Prometheus
    gateways: list[GatewayServer]
    redis: RedisServer


@contextlib.contextmanager
def observed(directory: Path) -> Iterator[Observed]:
    """Run all servers, and load on them, until the block ends."""
    with contextlib.ExitStack() as stack:
        (directory / "redis").mkdir()
        redis = stack.enter_context(RedisServer(directory / "redis", "--appendonly", "yes"))
        gateways, targets = [], {}
        for number in (1, 2):
            port = free_port()
            gateway = GatewayServer(
                redis.url,
                directory / f"gateway-{number}.log",
                WEB_CONCURRENCY=2,
                METRICS_PORT=port,
                AUTH_SECRET=SECRET,
                MAX_STREAMS=60,
            )
            gateways.append(stack.enter_context(gateway))
            targets[f"gateway-{number}:9100"] = f"127.0.0.1:{port}"
        archiver = stack.enter_context(archiver_answers())
        prometheus = Prometheus(directory, targets, archiver)
        stack.enter_context(prometheus)
        # Else requests looks at all variables for proxies, while pytest changes one of them.
        os.environ["NO_PROXY"] = "127.0.0.1"
        stack.callback(os.environ.pop, "NO_PROXY")
        over = threading.Event()
        threads = [
            threading.Thread(target=step, args=(gateways[number % 2], over, number))
            for number in range(6)
            for step in (produce, view, misuse)
        ]
        for thread in threads:
            thread.start()
        try:
            yield Observed(prometheus, gateways, redis)
        finally:
            over.set()
            for thread in threads:
                thread.join()


def produce(gateway: GatewayServer, over: threading.Event, number: int) -> None:
    """Append by POST, of one event and of many, and as lines."""
    run_id = RUNS[number % len(RUNS)]
    event = {"event_category": "llm", "event_action": "token", "data": {"text": "a" * 60}}
    with Client(gateway.url, token=TOKEN, retry_seconds=1) as client:
        while not over.wait(0.05):
            with contextlib.suppress(StreamingError):
                client.add(run_id, **event)
                if number % 3 == 0:
                    client.add_many(run_id, [event] * 20)
                if number % 3 == 1:
                    client.stream(f"{run_id}-lines", [event] * 50)
                client.add(f"{run_id}-short-{time.monotonic()}", "lifecycle", "completed")


def view(gateway: GatewayServer, over: threading.Event, number: int) -> None:
    """Open streams, read them for a while, and go; and read pages."""
    while not over.is_set():
        with contextlib.suppress(requests.RequestException, OSError):
            url = f"{gateway.url}/runs/{RUNS[number % len(RUNS)]}/events"
            requests.get(url, headers=BEARER, params={"limit": 50}, timeout=5)
            after = "earliest" if number % 2 else "latest"
            path = {"last_event_id": after}
            with requests.get(
                f"{url}/stream", headers=BEARER, params=path, stream=True, timeout=5
            ) as stream:
                until = time.monotonic() + 1 + number
                for _ in stream.iter_content(4096):
                    if over.is_set() or time.monotonic() > until:
                        break


def misuse(gateway: GatewayServer, over: threading.Event, number: int) -> None:
    """Send requests that are refused."""
    headers = [{}, {"Authorization": "Bearer wrong"}, BEARER]
    paths = ["/runs/observed-0", "/runs/observed-0", "/nothing"]
    while not over.wait(0.5):
        with contextlib.suppress(requests.RequestException):
            requests.get(gateway.url + paths[number % 3], headers=headers[number % 3], timeout=5)


def cause_gaps(redis: RedisServer) -> None:
    """Append events and trim them in one transaction, so that no viewer can have read them."""
    with redis.client() as client:
        for run_id in RUNS:
            key = f"run:{run_id}:events"
            with client.pipeline(transaction=True) as pipe:
                for _ in range(10):
                    pipe.xadd(key, {"event_category": "log", "event_action": "foreign"})
                pipe.xtrim(key, maxlen=1, approximate=False)
                pipe.execute()


def kill_a_worker(gateway: GatewayServer) -> None:
    """Kill a worker, and wait for the next one."""
    victim = gateway.workers()[0]
    victim.send_signal(signal.SIGKILL)
    wait_until(
        lambda: (
            victim.pid not in (found := [each.pid for each in gateway.workers()])
            and len(found) == 2
        ),
        "another one has started",
    )


@contextlib.contextmanager
def archiver_answers() -> Iterator[str]:
    """Answer to scrapes with the metrics of an archiver that has work; yield the address."""
    metrics, port, over = Metrics(), free_port(), threading.Event()
    metrics.due.set(3)
    metrics.next_expiry.set(80_000)
    server, thread = metrics.serve(port, "127.0.0.1")

    def work() -> None:
        while not over.wait(0.2):
            metrics.events.inc(8)
            metrics.passes.inc()

    working = threading.Thread(target=work)
    working.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        over.set()
        working.join()
        server.shutdown()
        server.server_close()
        thread.join()


def slow_reader(gateway: GatewayServer) -> socket.socket:
    """Open a stream of a run with all its history, and read nothing of it."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", gateway.port))
    path = f"/runs/{RUNS[0]}/events/stream?last_event_id=earliest"
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
    connection.sendall(head.encode())
    return connection
