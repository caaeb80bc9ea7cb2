"""The monitoring port answers health checks and nothing else, also while the other one is full."""

import contextlib
import http.client
import signal
import socket

import psutil
import requests

from tests.raw_http import read_until
from tests.servers import GatewayServer, free_port, wait_until

STREAM = b"GET /runs/%s/events/stream HTTP/1.1\r\nHost: localhost\r\n\r\n"


def monitoring_url(gateway: GatewayServer) -> str:
    return f"http://127.0.0.1:{gateway.monitoring_port}"


def start(start_gateway, **settings: object) -> GatewayServer:
    port = free_port()
    gateway = start_gateway(MONITORING_PORT=port, **settings)
    gateway.monitoring_port = port
    return gateway


def test_the_monitoring_port_answers_health_checks_and_nothing_else(start_gateway, run_id):
    gateway = start(start_gateway, WEB_CONCURRENCY=2)
    for path in ("/healthz", "/livez", "/readyz"):
        assert requests.get(monitoring_url(gateway) + path, timeout=20).json()["status"]
        assert requests.get(gateway.url + path, timeout=20).ok
    url = f"{monitoring_url(gateway)}/runs/{run_id}/events"
    refused = requests.post(url, json={"event_category": "llm", "event_action": "x"}, timeout=20)
    assert refused.status_code == 404
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert refused.json()["detail"] == "there is no such path on this port"
    assert requests.get(f"{gateway.url}/runs/{run_id}", timeout=20).status_code == 404


def test_a_connection_to_the_monitoring_port_can_be_kept(start_gateway):
    gateway = start(start_gateway)
    connection = http.client.HTTPConnection("127.0.0.1", gateway.monitoring_port, timeout=20)
    with contextlib.closing(connection):
        for _ in range(20):
            connection.request("GET", "/healthz")
            assert connection.getresponse().read() == b'{"status":"ok"}'


def test_more_connections_than_the_port_has_places_take_none_of_the_others(start_gateway):
    gateway = start(start_gateway)
    with contextlib.ExitStack() as stack:
        address = "127.0.0.1", gateway.monitoring_port
        for _ in range(100):
            stack.enter_context(socket.create_connection(address, timeout=20))
        for url in (monitoring_url(gateway), gateway.url):
            assert requests.get(f"{url}/healthz", timeout=20).ok


def test_the_monitoring_port_answers_while_the_other_one_is_full(start_gateway, run_id):
    gateway = start(start_gateway)
    [former] = gateway.workers()
    psutil.Process(gateway.process.pid).rlimit(psutil.RLIMIT_NOFILE, (256, 256))
    gateway.process.send_signal(signal.SIGHUP)
    former.wait(20)
    with contextlib.ExitStack() as stack:
        address = "127.0.0.1", gateway.port
        for number in range(400):
            connection = stack.enter_context(socket.create_connection(address, timeout=20))
            if number % 2:
                connection.sendall(STREAM % run_id.encode())
            if number % 20 == 0:
                for path in ("/healthz", "/readyz"):
                    assert requests.get(monitoring_url(gateway) + path, timeout=20).ok


def test_the_monitoring_port_is_closed_while_the_worker_drains(start_gateway, run_id):
    """As the other one, so that a balancer sends nobody here."""
    gateway = start(start_gateway, DRAIN_SECONDS=30)
    with contextlib.ExitStack() as stack:
        for number in range(20):
            address = "127.0.0.1", gateway.port
            connection = stack.enter_context(socket.create_connection(address, timeout=20))
            connection.sendall(STREAM % f"{run_id}-{number}".encode())
            read_until(connection, b"caught_up")
        gateway.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not _answers(gateway), "it refuses connections")
        assert gateway.process.poll() is None


def _answers(gateway: GatewayServer) -> bool:
    try:
        return requests.get(f"{monitoring_url(gateway)}/readyz", timeout=20).ok
    except requests.ConnectionError:
        return False
