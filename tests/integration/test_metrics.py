"""The metrics of a real gateway: all workers in one answer, whichever gives it."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from app.auth.tokens import make_token
from tests.raw_http import read_until
from tests.servers import GatewayServer, RedisServer, free_port, wait_until

EVENT = {"event_category": "llm", "event_action": "token", "data": {"text": "a"}}
TOKEN = "a-token-of-prometheus"


def read(gateway: GatewayServer) -> "Metrics":
    response = requests.get(f"{gateway.url}/metrics", timeout=20)
    response.raise_for_status()
    return Metrics(response.text)


class Metrics:
    """A scrape, by the names of its samples and the values of their labels."""

    def __init__(self, text: str) -> None:
        self.samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def __getitem__(self, name: str) -> float:
        return self.of(name)

    def of(self, name: str, **labels: str) -> float:
        return self.samples[f"tailrace_{name}", frozenset(labels.items())]


def append(gateway: GatewayServer, run_id: str, events: int = 1) -> None:
    for _ in range(events):
        requests.post(f"{gateway.url}/runs/{run_id}/events", json=EVENT, timeout=20)


@contextlib.contextmanager
def stream(
    gateway: GatewayServer, run_id: str, after: str = "earliest", until: bytes = b": open"
) -> Iterator[socket.socket]:
    """Open a stream, and read until something has come; what came with it is read too."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as connection:
        path = f"/runs/{run_id}/events/stream?last_event_id={after}"
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        read_until(connection, until)
        yield connection


def test_what_a_run_leaves_in_the_metrics(start_gateway, run_id):
    gateway = start_gateway()
    with stream(gateway, run_id) as connection:
        for sequence in (1, 2, 3):  # a send of its own for each
            append(gateway, run_id)
            read_until(connection, b'"sequence":%d' % sequence)
        wait_until(lambda: read(gateway)["delivered_events_total"] == 3, "all are counted")
        now = read(gateway)
        assert now.of("streams_open", kind="stream") == 1
        assert now.of("streams_opened_total", kind="stream") == 1
        assert now["delivered_events_total"] == now["delivery_lag_seconds_count"] == 3
        assert 0 < now["delivery_lag_seconds_sum"] < 60
        assert now["delivered_bytes_total"] > 300
        by_way = [now.of("appended_events_total", way=way) for way in ("plain", "view", "lines")]
        assert sum(by_way) == 3
        assert now["append_seconds_count"] == 3
        assert now.of("http_responses_total", status="201") == 3
    wait_until(lambda: read(gateway).of("streams_open", kind="stream") == 0, "it has ended")
    now = read(gateway)
    assert now.of("streams_closed_total", kind="stream", reason="disconnected") == 1
    assert now["stream_seconds_count"] == 1


def test_history_has_no_lag(start_gateway, run_id):
    gateway = start_gateway()
    append(gateway, run_id, 5)
    with stream(gateway, run_id, until=b'"sequence":5'):
        wait_until(lambda: read(gateway)["delivered_events_total"] == 5, "all are counted")
        assert read(gateway)["delivery_lag_seconds_count"] == 0
        assert read(gateway).of("history_pages_total", source="redis") > 0


def test_a_foreign_id_is_no_time(start_gateway, store, run_id):
    gateway = start_gateway()
    with stream(gateway, run_id) as connection:
        store.engine.client.xadd(f"run:{run_id}:events", {"event_category": "x"}, id="5-0")
        read_until(connection, b"id: 5-0")
        wait_until(lambda: read(gateway)["delivered_events_total"] == 1, "it is counted")
        assert read(gateway)["delivery_lag_seconds_count"] == 0


def test_a_notice_is_counted(start_gateway, store, run_id):
    gateway = start_gateway()
    first = store.add(run_id, "llm", "token")
    append(gateway, run_id, 3)
    store.engine.client.xtrim(f"run:{run_id}:events", maxlen=1, approximate=False)
    with stream(gateway, run_id, first, until=b"gateway.gap"):
        wait_until(lambda: read(gateway).of("notices_total", notice="gap") == 1, "it is counted")


def test_all_workers_are_in_every_answer(start_gateway, run_id):
    gateway = start_gateway(WEB_CONCURRENCY=3)
    wait_until(lambda: read(gateway)["workers"] == 3, "all workers serve")
    for _ in range(60):
        append(gateway, run_id)
    answers = {read(gateway).of("http_responses_total", status="201") for _ in range(30)}
    assert answers == {60}
    assert read(gateway)["workers"] == 3
    assert read(gateway)["workers_started_total"] == 3


def test_counts_survive_a_worker_that_is_killed_while_it_counts(start_gateway, run_id):
    gateway = start_gateway(WEB_CONCURRENCY=2)
    counted = [0.0]
    for _ in range(3):
        done = threading.Event()

        def post(done: threading.Event = done) -> None:
            while not done.is_set():
                with contextlib.suppress(requests.ConnectionError):
                    append(gateway, run_id)

        posting = [threading.Thread(target=post) for _ in range(4)]
        for thread in posting:
            thread.start()
        try:
            victim = gateway.workers()[0]
            wait_until(lambda: read_or_none(gateway) is not None, "a worker answers")
            victim.kill()
            wait_until(lambda: started(gateway) == len(counted) + 2, "a worker has started")
        finally:
            done.set()
            for thread in posting:
                thread.join()
        counted.append(read(gateway).of("http_responses_total", status="201"))
    assert counted == sorted(counted)
    assert counted[-1] > 0
    assert read(gateway)["workers_started_total"] == 5
    events = requests.get(f"{gateway.url}/runs/{run_id}", timeout=20).json()["last_sequence"]
    # An answer that a killed worker had not counted yet, of at most four that it was giving.
    assert 0 <= events - counted[-1] <= 3 * 4


def read_or_none(gateway: GatewayServer) -> Metrics | None:
    try:
        return read(gateway)
    except requests.RequestException:
        return None


def started(gateway: GatewayServer) -> float | None:
    """Return how many workers have started, once all of them run."""
    found = read_or_none(gateway)
    return found["workers_started_total"] if found and found["workers"] == 2 else None


def test_counts_go_on_after_a_reload(start_gateway, run_id):
    gateway = start_gateway(WEB_CONCURRENCY=2)
    wait_until(lambda: read(gateway)["workers"] == 2, "both run")
    append(gateway, run_id, 5)
    with stream(gateway, run_id) as connection:
        old = {each.pid for each in gateway.workers()}
        gateway.process.send_signal(signal.SIGHUP)
        read_until(connection, b"retry:")
    wait_until(lambda: not old & {each.pid for each in gateway.workers()}, "they are new")
    append(gateway, run_id, 5)
    now = read(gateway)
    assert now.of("http_responses_total", status="201") == 10
    assert now.of("streams_closed_total", kind="stream", reason="draining") == 1
    assert now["workers_started_total"] == 4
    wait_until(lambda: read(gateway)["workers"] == 2, "both run")


def test_only_a_worker_that_was_not_stopped_has_died(start_gateway):
    gateway = start_gateway(WEB_CONCURRENCY=2)
    for died, kill in enumerate((signal.SIGKILL, signal.SIGSEGV), 1):
        wait_until(lambda: read(gateway)["workers"] == 2, "both run")
        gateway.workers()[0].send_signal(kill)
        wait_until(lambda died=died: (deaths(gateway) or 0) == died, "it is counted")
    for reload in range(1, 3):
        wait_until(lambda: read(gateway)["workers"] == 2, "both run")
        old = {each.pid for each in gateway.workers()}
        gateway.process.send_signal(signal.SIGHUP)
        wait_until(
            lambda old=old: not old & {each.pid for each in gateway.workers()}, f"reload {reload}"
        )
    wait_until(lambda: (found := read_or_none(gateway)) and found["workers"] == 2, "both run")
    assert read(gateway)["workers_died_total"] == 2


def deaths(gateway: GatewayServer) -> float | None:
    found = read_or_none(gateway)
    return found["workers_died_total"] if found else None


def test_a_frozen_worker_is_seen_by_the_other(start_gateway):
    gateway = start_gateway(WEB_CONCURRENCY=2)
    wait_until(lambda: read(gateway)["workers"] == 2, "both run")
    victim = gateway.workers()[0]
    os.kill(victim.pid, signal.SIGSTOP)
    try:
        wait_until(lambda: (read_soon(gateway) or 0) > 2, "the silence grows")
    finally:
        os.kill(victim.pid, signal.SIGCONT)
    wait_until(lambda: (read_soon(gateway) or 9) < 1.5, "it is over")


def read_soon(gateway: GatewayServer) -> float | None:
    """Read the silence of the workers, unless the frozen one has got the request."""
    try:
        response = requests.get(f"{gateway.url}/metrics", timeout=1)
    except requests.RequestException:
        return None
    return Metrics(response.text)["hub_silence_seconds"]


def test_redis_that_is_away(start_gateway, start_redis):
    redis: RedisServer = start_redis()
    gateway = start_gateway(redis.url)
    wait_until(lambda: read(gateway)["redis_up"] == 1, "Redis is seen")
    wait_until(lambda: read(gateway)["redis_connections"] > 0, "its connections are counted")
    redis.stop()
    wait_until(lambda: read(gateway)["redis_up"] == 0, "its absence is seen")
    now = read(gateway)
    kinds = ("connection", "timeout", "loading", "other")
    assert sum(now.of("redis_errors_total", kind=kind) for kind in kinds) > 0


def test_a_hundred_scrapes_a_second_cost_the_others_nothing_but_time(start_gateway, run_id):
    gateway = start_gateway(WEB_CONCURRENCY=2)
    with stream(gateway, run_id) as connection, requests.Session() as session:
        for number in range(1, 101):
            assert session.get(f"{gateway.url}/metrics", timeout=20).ok
            append(gateway, run_id)
            read_until(connection, b'"sequence":%d' % number)


# Who may read them


@pytest.mark.parametrize("path", ["/metrics", "/metrics?x=1"])
def test_without_authentication_or_a_token_they_are_open(start_gateway, path):
    assert requests.get(start_gateway().url + path, timeout=20).ok


def test_the_token_is_needed_once_it_is_set(start_gateway):
    gateway = start_gateway(METRICS_TOKEN=TOKEN)
    url = f"{gateway.url}/metrics"
    missing = requests.get(url, timeout=20)
    assert missing.status_code == 401
    assert "error" not in missing.headers["WWW-Authenticate"]
    for wrong in ("wrong", TOKEN[:-1], TOKEN + "x", "é" * 20):
        headers = {"Authorization": f"Bearer {wrong}".encode()}
        refused = requests.get(url, headers=headers, timeout=20)
        assert refused.status_code == 401
        assert 'error="invalid_token"' in refused.headers["WWW-Authenticate"]
    allowed = requests.get(url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=20)
    now = Metrics(allowed.text)
    assert now.of("auth_refusals_total", reason="missing") == 1
    assert now.of("auth_refusals_total", reason="invalid") == 4
    assert requests.get(f"{gateway.url}/runs", timeout=20).ok  # nothing else needs it


def test_with_authentication_they_need_admin_or_the_token(start_gateway, run_id):
    secret = "s" * 32
    gateway = start_gateway(AUTH_SECRET=secret, METRICS_TOKEN=TOKEN)
    url = f"{gateway.url}/metrics"
    grants = ({"read": ["*"]}, {"admin": ["*"]})
    reader, admin = (make_token(secret, "tailrace", each, 60, aud="tailrace") for each in grants)
    statuses = {
        name: requests.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=20)
        for name, token in {"reader": reader, "admin": admin, "metrics": TOKEN, "no": "x"}.items()
    }
    found = {name: response.status_code for name, response in statuses.items()}
    assert found == {"reader": 403, "admin": 200, "metrics": 200, "no": 401}
    assert requests.get(url, timeout=20).status_code == 401
    # The token of metrics is no other token.
    headers = {"Authorization": f"Bearer {TOKEN}"}
    assert requests.get(f"{gateway.url}/runs", headers=headers, timeout=20).status_code == 401


def test_the_port_for_metrics_needs_no_token(start_gateway, run_id):
    port = free_port()
    gateway = start_gateway(AUTH_SECRET="s" * 32, METRICS_PORT=port)
    own = f"http://127.0.0.1:{port}"
    assert requests.get(f"{own}/metrics", timeout=20).ok
    assert requests.get(f"{own}/readyz", timeout=20).ok
    assert requests.get(f"{own}/runs/{run_id}/events", timeout=20).status_code == 404
    assert requests.get(f"{gateway.url}/metrics", timeout=20).status_code == 401


class SocketGateway(GatewayServer):
    """A gateway that listens on a socket in a file system too."""

    def __init__(self, directory: Path, redis: RedisServer, **settings: object):
        super().__init__(redis.url, directory / "log", **settings)
        self.path = directory / "socket"
        binds = f"--bind 127.0.0.1:{self.port} --bind unix:{self.path}"
        self._environ["GUNICORN_CMD_ARGS"] = binds


@pytest.mark.parametrize("port", [None, "9100"])
def test_no_header_makes_a_socket_in_a_file_system_the_port_for_metrics(
    tmp_path, redis_server, port
):
    """There gunicorn takes SERVER_PORT from the header Host."""
    settings = {} if port is None else {"METRICS_PORT": port}
    with (
        SocketGateway(tmp_path, redis_server, METRICS_TOKEN=TOKEN, **settings) as gateway,
        socket.socket(socket.AF_UNIX) as connection,
    ):
        connection.settimeout(20)
        connection.connect(str(gateway.path))
        connection.sendall(f"GET /metrics HTTP/1.1\r\nHost: a:{port}\r\n\r\n".encode())
        assert b" 401 " in read_until(connection, b"\r\n")


def test_the_monitoring_port_has_no_metrics_unless_it_is_that_port_too(start_gateway):
    port, other = free_port(), free_port()
    start_gateway(MONITORING_PORT=port, METRICS_PORT=other)
    assert requests.get(f"http://127.0.0.1:{port}/metrics", timeout=20).status_code == 404
    both = free_port()
    start_gateway(MONITORING_PORT=both, METRICS_PORT=both)
    assert requests.get(f"http://127.0.0.1:{both}/metrics", timeout=20).ok


def test_openmetrics_if_it_is_asked_for(start_gateway):
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    response = requests.get(f"{start_gateway().url}/metrics", headers=accept, timeout=20)
    assert response.headers["Content-Type"].startswith("application/openmetrics-text")
    assert response.text.endswith("# EOF\n")
