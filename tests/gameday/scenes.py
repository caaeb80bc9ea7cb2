"""What is broken in a game day, one after the other, and how it is mended."""

import contextlib
import itertools
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import requests

from tests.gameday.load import RUNS
from tests.gameday.stage import Stage, token
from tests.servers import wait_until

LAG = "histogram_quantile(0.99, sum by (le) (rate(tailrace_delivery_lag_seconds_bucket[5s])))"

METRICS = {
    "Redis up": "min(tailrace_redis_up)",
    "lag p99 (s)": LAG,
    "delivered/s": "sum(rate(tailrace_delivered_events_total[5s]))",
    "appended/s": "sum(rate(tailrace_appended_events_total[5s]))",
    "appends unavailable/s": (
        'sum(rate(tailrace_appends_total{outcome=~"unavailable|failed"}[5s]))'
    ),
    "Redis errors/s": "sum(rate(tailrace_redis_errors_total[5s]))",
    "reader failures": "sum(tailrace_reader_failures_total)",
    "hub silence (s)": "max(tailrace_hub_silence_seconds)",
    "workers": "sum(tailrace_workers)",
    "workers died": "sum(max_over_time(tailrace_workers_died_total[5s]))",
    "streams": "sum(tailrace_streams_open)",
    "streams revoked": 'sum(tailrace_streams_closed_total{reason="revoked"})',
    "streams stalled": 'sum(tailrace_streams_closed_total{reason="stalled"})',
    "backlog bytes": "sum(tailrace_backlog_bytes)",
    "partial sends": "sum(tailrace_partial_sends_total)",
    "tokens refused/s": (
        'sum(rate(tailrace_auth_refusals_total{reason=~"invalid|forbidden|too_many"}[5s]))'
    ),
    "gaps told": 'sum(tailrace_notices_total{notice="gap"})',
}


@dataclass
class Scene:
    """Something that breaks.

    Attributes:
        title: what broke, in the table.
        run: breaks it, and returns what mends it.
        fires: the alerts that must fire before it is mended.
        seconds: how long it stays broken, if no alert says so.
        metrics: which of METRICS are shown.
        said: what else there is to say, which `run` and what mends it add to.
    """

    title: str
    run: Callable[["Scene", Stage], Callable[[], None]]
    metrics: tuple[str, ...]
    fires: tuple[str, ...] = ()
    seconds: float = 0.0
    said: list[str] = field(default_factory=list)


def redis_killed(scene: Scene, stage: Stage) -> Callable[[], None]:
    stage.redis.stop()
    return lambda: void(stage.redis.start())


def redis_stopped(scene: Scene, stage: Stage) -> Callable[[], None]:
    stage.redis.pause()
    return stage.redis.resume


def worker_stopped(scene: Scene, stage: Stage) -> Callable[[], None]:
    stage.gateways[0].workers()[0].suspend()  # gunicorn kills it
    return lambda: None


def worker_spins(scene: Scene, stage: Stage) -> Callable[[], None]:
    stage.spin_file.touch()
    return lambda: None


def disk_full(scene: Scene, stage: Stage) -> Callable[[], None]:
    filler = stage.disk / "filler"
    descriptor = os.open(filler, os.O_WRONLY | os.O_CREAT)
    for size in (1 << 20, 512):
        with contextlib.suppress(OSError):
            while os.write(descriptor, bytes(size)):
                pass
    os.close(descriptor)
    return filler.unlink


def gateway_cut_off(scene: Scene, stage: Stage) -> Callable[[], None]:
    """Nothing passes between gateway-2 and Redis; all connections stay open."""
    stage.relay.process.send_signal(signal.SIGSTOP)
    return lambda: stage.relay.process.send_signal(signal.SIGCONT)


def nginx_stopped(scene: Scene, stage: Stage) -> Callable[[], None]:
    stage.nginx.process.send_signal(signal.SIGSTOP)
    return lambda: stage.nginx.process.send_signal(signal.SIGCONT)


def slow_viewers(scene: Scene, stage: Stage) -> Callable[[], None]:
    """Forty viewers read a byte a second of a run with much data, from gateway-1 itself."""
    over = threading.Event()
    bearer = token(append="day.*", read="day.*")
    sockets = [_open_slow(stage.gateways[0].port, bearer) for _ in range(40)]
    ended_after: list[float] = []
    began = time.monotonic()

    def read(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while not over.wait(1) and connection.recv(1):
                pass
        ended_after.append(time.monotonic() - began)

    def write() -> None:
        event = {"event_category": "log", "event_action": "blob", "data": "x" * 20_000}
        headers = {"Authorization": f"Bearer {bearer}"}
        while not over.wait(0.1):
            with contextlib.suppress(requests.RequestException):
                url = f"{stage.gateways[0].url}/runs/day.large/events"
                requests.post(url, json=event, headers=headers, timeout=5)

    for each in sockets:
        threading.Thread(target=read, args=(each,), daemon=True).start()
    threading.Thread(target=write, daemon=True).start()

    def mend() -> None:
        over.set()
        for each in sockets:
            each.close()
        cut = stage.prometheus.value('sum(tailrace_streams_closed_total{reason="stalled"})')
        scene.said.append(f"{cut:.0f} of 40 were disconnected as stalled")

    return mend


def _open_slow(port: int, bearer: str) -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(30)
    connection.connect(("127.0.0.1", port))
    connection.sendall(
        b"GET /runs/day.large/events/stream HTTP/1.1\r\nHost: localhost\r\n"
        b"Authorization: Bearer %s\r\n\r\n" % bearer.encode()
    )
    return connection


def token_leaked(scene: Scene, stage: Stage) -> Callable[[], None]:
    """A thief reads with a stolen token, on both gateways, and others guess; then it is revoked."""
    over = threading.Event()
    stolen = token(jti="stolen", sub="ci", read="day.*", append="day.*")
    ended: list[float] = []
    answers: Counter[str] = Counter()

    def steal(number: int) -> None:
        url = stage.gateways[number % 2].url
        headers = {"Authorization": f"Bearer {stolen}"}
        path = f"/runs/{RUNS[number % len(RUNS)]}/events/stream?last_event_id=latest"
        with requests.get(url + path, headers=headers, stream=True, timeout=60) as answer:
            with contextlib.suppress(requests.RequestException):
                for _ in answer.iter_content(1024):
                    pass
            ended.append(time.monotonic())

    def guess() -> None:
        for number in itertools.count():
            if over.wait(0.02):
                return
            headers = {"Authorization": f"Bearer guess-{number}"}
            with contextlib.suppress(requests.RequestException):
                answer = requests.get(f"{stage.url}/runs/{RUNS[0]}", headers=headers, timeout=5)
                answers[f"{answer.status_code}"] += 1

    for number in range(20):
        threading.Thread(target=steal, args=(number,), daemon=True).start()
    threading.Thread(target=guess, daemon=True).start()

    def mend() -> None:
        over.set()
        scene.said.append(f"the guesses were answered with {dict(answers)}")
        headers = {"Authorization": f"Bearer {token(admin='*')}"}
        revoked = time.monotonic()
        answer = requests.post(
            f"{stage.url}/revocations", json={"jti": "stolen"}, headers=headers, timeout=10
        )
        assert answer.status_code == 204, answer.text
        wait_until(lambda: len(ended) == 20, "the streams of the thief end")
        scene.said.append(
            f"all 20 stolen streams ended {max(ended) - revoked:.2f} s after POST /revocations"
        )
        headers = {"Authorization": f"Bearer {stolen}"}
        found = [
            requests.get(f"{each.url}/runs/{RUNS[0]}", headers=headers, timeout=5).status_code
            for each in stage.gateways
        ]
        scene.said.append(f"then the gateways answer the stolen token with {found}")

    return mend


def trim_storm(scene: Scene, stage: Stage) -> Callable[[], None]:
    """Another program appends to the runs, and trims them in the same transaction."""
    over = threading.Event()

    def trim() -> None:
        with stage.redis.client() as client:
            while not over.wait(0.5):
                for run_id in RUNS:
                    key = f"run:{run_id}:events"
                    with client.pipeline(transaction=True) as pipe:
                        for _ in range(20):
                            pipe.xadd(key, {"event_category": "log", "event_action": "foreign"})
                        pipe.xtrim(key, maxlen=1, approximate=False)
                        pipe.execute()

    threading.Thread(target=trim, daemon=True).start()
    return over.set


def void(_: object) -> None:
    """Return nothing of something."""


SCENES = [
    Scene(
        "Redis killed",
        redis_killed,
        ("Redis up", "Redis errors/s", "appends unavailable/s", "delivered/s", "reader failures"),
        ("TailraceRedisDown",),
    ),
    Scene(
        "Redis frozen (SIGSTOP)",
        redis_stopped,
        ("Redis up", "Redis errors/s", "appends unavailable/s", "delivered/s"),
        ("TailraceRedisDown",),
    ),
    Scene(
        "the disk of Redis full",
        disk_full,
        ("Redis up", "Redis errors/s", "appends unavailable/s", "delivered/s"),
        ("TailraceRedisDown",),
    ),
    Scene(
        "one gateway cut off from Redis",
        gateway_cut_off,
        ("Redis up", "Redis errors/s", "appends unavailable/s", "delivered/s", "streams"),
        ("TailraceRedisDown",),
    ),
    Scene(
        "a worker frozen (SIGSTOP)",
        worker_stopped,
        ("hub silence (s)", "workers", "workers died", "delivered/s", "streams"),
        ("TailraceWorkerDied",),
    ),
    Scene(
        "a worker in a busy loop",
        worker_spins,
        ("hub silence (s)", "workers", "workers died", "delivered/s", "streams"),
        ("TailraceWorkerDied",),
    ),
    Scene(
        "40 viewers that read 1 byte/s",
        slow_viewers,
        ("partial sends", "backlog bytes", "streams stalled", "streams", "lag p99 (s)"),
        seconds=75,
    ),
    Scene(
        "a stolen token, and 50 guesses/s",
        token_leaked,
        ("tokens refused/s", "streams", "streams revoked"),
        ("TailraceTokensRefused",),
    ),
    Scene("a trim storm", trim_storm, ("gaps told", "lag p99 (s)"), ("TailraceGaps",)),
    Scene(
        "nginx frozen (SIGSTOP)",
        nginx_stopped,
        ("appended/s", "delivered/s", "streams", "partial sends"),
        seconds=30,
    ),
]
