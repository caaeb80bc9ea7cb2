"""/livez: 503 while the loop of some worker stands still; one that is gone does not count."""

import contextlib
import signal

import pytest
import requests

from app.routes import health
from tests.servers import GatewayServer, free_port, wait_until

APPLICATION = "tests.programs.hanging_gateway:app"


@pytest.fixture
def gateway(start_gateway) -> GatewayServer:
    """Start two workers, one of which a test lets hang; it is thought dead after a second."""
    port = free_port()
    gateway = start_gateway(application=APPLICATION, WEB_CONCURRENCY=2, MONITORING_PORT=port)
    gateway.monitoring_port = port
    wait_until(lambda: "\ntailrace_workers 2.0\n" in metrics(gateway), "both workers serve")
    return gateway


def metrics(gateway: GatewayServer) -> str:
    return requests.get(f"{gateway.url}/metrics", timeout=20).text


def statuses(gateway: GatewayServer, path: str = "/livez") -> set[int]:
    """Return what both ports answer. Only the worker that does not hang accepts connections."""
    ports = gateway.port, gateway.monitoring_port
    found = set()
    for port in ports:
        with contextlib.suppress(requests.Timeout):  # the one that hangs had accepted it before
            found.add(requests.get(f"http://127.0.0.1:{port}{path}", timeout=5).status_code)
    return found


def test_a_frozen_worker_is_told_by_the_other_one(gateway):
    assert statuses(gateway) == {200}
    frozen = gateway.workers()[0]
    frozen.send_signal(signal.SIGSTOP)
    wait_until(lambda: statuses(gateway) == {503}, "it is told")
    assert statuses(gateway, "/healthz") == {200}
    answer = requests.get(f"{gateway.url}/livez", timeout=20)
    assert answer.json()["detail"].startswith("a worker has stood still for ")
    frozen.send_signal(signal.SIGCONT)
    wait_until(lambda: statuses(gateway) == {200}, "it is well again")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_frozen_worker_that_is_killed_and_replaced_does_not_count(gateway, number):
    frozen = gateway.workers()[0]
    frozen.send_signal(signal.SIGSTOP)
    wait_until(lambda: statuses(gateway) == {503}, "it is told")
    frozen.send_signal(number)
    frozen.send_signal(signal.SIGCONT)
    wait_until(lambda: statuses(gateway) == {200}, "the one that is gone does not count")
    wait_until(lambda: frozen.pid not in {each.pid for each in gateway.workers()}, "it is gone")
    wait_until(lambda: len(gateway.workers()) == 2, "there is another one")
    assert statuses(gateway) == {200}


def test_a_worker_in_an_endless_loop_is_told_by_the_other_one(gateway):
    with contextlib.suppress(requests.Timeout):
        requests.get(f"{gateway.url}/hang", timeout=1)
    wait_until(lambda: statuses(gateway) == {503}, "it is told")
    max(gateway.workers(), key=lambda worker: worker.cpu_percent(0.5)).kill()
    wait_until(lambda: statuses(gateway) == {200}, "the one that is gone does not count")


def test_a_gateway_that_just_works_lives(gateway, run_id):
    names = {"event_category": "llm", "event_action": "stream"}
    for _ in range(50):
        requests.post(f"{gateway.url}/runs/{run_id}/events", json=names, timeout=20)
        assert statuses(gateway) == {200}


def test_thirty_seconds_are_allowed():
    assert health.MAX_SILENCE_SECONDS == 30.0
