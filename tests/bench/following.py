"""Workloads that follow: live events, history, and idle streams."""

import contextlib
import http.client
import json
import subprocess
import time
from collections.abc import Callable

from tests.bench import load
from tests.bench.figures import Figures
from tests.bench.load import follow_command
from tests.bench.servers import Server
from tests.servers import ROOT

SETTLE_SECONDS = 1.5
CONNECTIONS = 16  # of the producers
MAX_STREAMS = 10_000  # of one process of viewers
CONTENT = "some words of an answer"


class Viewers:
    """The processes of the viewers, each of which may open only so many files."""

    def __init__(self, server: Server, viewers: int, runs: int, each: int = 1):
        """Each viewer follows `each` of the runs on one stream."""
        self._processes: list[subprocess.Popen] = []
        for first in range(0, viewers, MAX_STREAMS) or [0]:
            count = min(MAX_STREAMS, viewers - first)
            self._processes.append(
                subprocess.Popen(
                    follow_command(server.port, count, runs, each),
                    cwd=ROOT,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            opened = self._processes[-1].stdout.readline()
            assert opened == "open\n", "the viewers could not open"

    def count(self) -> dict:
        """Return the events and latencies since the last count; the worst of the processes."""
        for process in self._processes:
            process.stdin.write("count\n")
            process.stdin.flush()
        counted = [json.loads(process.stdout.readline()) for process in self._processes]
        worst = {name: max(each[name] for each in counted) for name in ("p50_ms", "p99_ms")}
        return {**worst, "events": sum(each["events"] for each in counted)}

    def __enter__(self) -> "Viewers":
        return self

    def __exit__(self, *exc_info) -> None:
        for process in self._processes:
            process.stdin.close()
            process.kill()
            process.wait()
            process.stdout.close()


class Producer:
    """Appends events at a steady rate straight to Redis, to each run in turn."""

    def __init__(
        self, server: Server, runs: int, rate: float, seconds: float, content: str = CONTENT
    ):
        self._content = content
        self._server = server
        self._runs = runs
        self._interval = 1 / rate
        self._count = int(rate * seconds)
        self.appended = 0

    def append_all(self) -> None:
        due = time.monotonic()
        for number in range(self._count):
            due += self._interval
            time.sleep(max(0.0, due - time.monotonic()))
            self._server.append(number % self._runs, event_data(content=self._content))
            self.appended += 1


def event_data(made: object = None, content: str = CONTENT) -> dict:
    """Return the data of an event, with the time at which it is made."""
    return {"content": content, "t": made or time.monotonic_ns()}


def post(server: Server, connection: http.client.HTTPConnection, run: int) -> float:
    """Append one event by POST, and return the milliseconds until the answer."""
    began = time.monotonic_ns()
    body = server.body(event_data())
    path = f"/runs/bench-{run}/events"
    headers = {"Content-Type": "application/json"}
    try:
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
    except http.client.RemoteDisconnected:  # the server closed the idle connection
        connection.close()
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
    answer.read()
    assert answer.status in (200, 201, 202), answer.status
    return (time.monotonic_ns() - began) / 1e6


def live(
    server: Server, viewers: int, runs: int, rate: float, seconds: float, each: int = 1
) -> Figures:
    """Viewers follow `each` of the runs, to which events are posted at a steady rate."""
    produced: dict = {}
    figures = _followed(
        server,
        viewers,
        runs,
        rate * seconds,
        lambda: produced.update(produce(server, runs, rate, seconds)),
        each,
    )
    figures.append_p50_ms, figures.append_p99_ms = produced["p50_ms"], produced["p99_ms"]
    return figures


def live_by_redis(
    server: Server, viewers: int, runs: int, rate: float, seconds: float, content: str = CONTENT
) -> Figures:
    """Viewers follow runs to which events are appended straight to Redis."""
    append_us = _redis_of_appends_alone(server, runs, rate, seconds, content)
    producer = Producer(server, runs, rate, seconds, content)
    figures = _followed(server, viewers, runs, int(rate * seconds), producer.append_all)
    figures.notes["Redis µs of an append alone"] = append_us
    return figures


def _followed(
    server: Server,
    viewers: int,
    runs: int,
    appended: float,
    append: Callable[[], None],
    each: int = 1,
) -> Figures:
    """Return the figures of viewers while so many events are appended."""
    with Viewers(server, viewers, runs, each) as audience:
        time.sleep(SETTLE_SECONDS)
        audience.count()
        cpu, redis_cpu = server.cpu(), server.redis_cpu()
        append()
        time.sleep(0.5)
        counted = audience.count()
        cpu, redis_cpu = server.cpu() - cpu, server.redis_cpu() - redis_cpu
        notes = _of_shards(server)
    events = max(1, counted["events"])
    return Figures(
        events=counted["events"],
        cpu_us=1e6 * cpu / events,
        redis_us=1e6 * redis_cpu / events,
        p50_ms=counted["p50_ms"],
        p99_ms=counted["p99_ms"],
        notes={
            "delivered of expected": events / (appended * viewers * each / runs),
            **notes,
        },
    )


def _of_shards(server: Server) -> dict[str, float]:
    """Return how many connections a shard has, and its memory, where they are most."""
    memory = max(server.redis_info("used_memory"), default=0)
    return {"connections to Redis": server.redis_connections(), "MB in Redis": memory / 1e6}


def produce(server: Server, runs: int, rate: float, seconds: float) -> dict:
    """Post events at a steady rate to each run in turn, over a few connections."""
    time_of_event = json.dumps("@time@").encode()
    before, _, after = server.body(event_data("@time@")).partition(time_of_event)
    body = before.decode(), after.decode()
    return load.produce(server.port, CONNECTIONS, runs, rate, seconds, body)


def _redis_of_appends_alone(
    server: Server, runs: int, rate: float, seconds: float, content: str
) -> float:
    """Return the CPU µs that an append straight to Redis costs Redis without viewers.

    The first event of a run costs more, and is not counted.
    """
    for run in range(runs):
        server.append(run, event_data(content=content))
    cpu = server.redis_cpu()
    producer = Producer(server, runs, rate, seconds, content)
    producer.append_all()
    return 1e6 * (server.redis_cpu() - cpu) / producer.appended


def replay(server: Server, viewers: int, history: int) -> Figures:
    """Viewers join one run that has a history."""
    with contextlib.closing(
        http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    ) as connection:
        for _ in range(history):
            post(server, connection, 0)
    time.sleep(SETTLE_SECONDS)
    cpu, redis_cpu = server.cpu(), server.redis_cpu()
    with Viewers(server, viewers, 1) as audience:
        events, until = 0, time.monotonic() + 60
        while events < viewers * history and time.monotonic() < until:
            time.sleep(0.2)
            events += audience.count()["events"]
    cpu, redis_cpu = server.cpu() - cpu, server.redis_cpu() - redis_cpu
    expected = viewers * history
    return Figures(
        events=events,
        cpu_us=1e6 * cpu / expected,
        redis_us=1e6 * redis_cpu / expected,
        notes={"delivered of expected": events / expected},
    )


def idle(server: Server, viewers: int, seconds: float, runs: int | None = None) -> Figures:
    """Viewers wait for runs without events, by default each for another one."""
    with Viewers(server, 50, 50):
        time.sleep(SETTLE_SECONDS)
    time.sleep(SETTLE_SECONDS)
    memory, cpu = server.memory(), server.cpu()
    with Viewers(server, viewers, runs or viewers):
        opening = server.cpu() - cpu
        time.sleep(SETTLE_SECONDS)
        taken = server.memory() - memory
        cpu, redis_cpu = server.cpu(), server.redis_cpu()
        time.sleep(seconds)
        waiting, redis_waiting = server.cpu() - cpu, server.redis_cpu() - redis_cpu
        notes = _of_shards(server)
    return Figures(
        notes={
            "KB a stream": taken / viewers / 1024,
            "CPU µs of an opening": 1e6 * opening / viewers,
            "idle CPU %": 100 * waiting / seconds,
            "idle CPU of Redis %": 100 * redis_waiting / seconds,
            **notes,
        }
    )
