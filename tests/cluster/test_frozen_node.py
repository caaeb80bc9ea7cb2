"""A node that stands still, while more is to be appended to its runs than a worker may hold."""

import json
import select
import socket

import pytest
import requests

from app.capacity import Capacity
from tests.cluster_servers import ClusterServers
from tests.servers import GatewayServer

FILES = 400
STREAMS = 50
APPENDS = Capacity.of(STREAMS, FILES).appends

EVENT = json.dumps({"event_category": "llm", "event_action": "stream"}).encode()


@pytest.fixture
def cluster(start_cluster) -> ClusterServers:
    return start_cluster(3, 0)


@pytest.fixture
def gateway(cluster, start_gateway) -> GatewayServer:
    """Start a gateway whose worker holds no more than APPENDS appends."""
    gateway = start_gateway(cluster.url, MAX_STREAMS=STREAMS)
    gateway.limit_files(FILES)
    return gateway


def begin_append(gateway: GatewayServer, run_id: str) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", gateway.port), timeout=30)
    head = (
        f"POST /runs/{run_id}/events HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(EVENT)}\r\n\r\n"
    )
    connection.sendall(head.encode() + EVENT)
    return connection


def is_answered(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def status_of(connection: socket.socket) -> int:
    with connection:
        return int(connection.recv(12)[-3:])


def test_its_appends_leave_room_for_those_of_others(cluster, gateway, run_id):
    frozen, other = cluster.masters[:2]
    [stuck], [well] = (cluster.runs_on(each, 1, run_id) for each in (frozen, other))

    def append() -> int:
        headers = {"Content-Type": "application/json"}
        url = f"{gateway.url}/runs/{well}/events"
        return requests.post(url, EVENT, headers=headers, timeout=30).status_code

    assert append() == 201
    frozen.pause()
    try:
        begun = [begin_append(gateway, stuck) for _ in range(2 * APPENDS)]
        statuses = []
        while not any(map(is_answered, begun)):
            statuses.append(append())
        statuses += [append() for _ in range(100)]
    finally:
        frozen.resume()
    assert set(statuses) == {201}
    assert 429 in [status_of(each) for each in begun], "its own are bounded"
