"""ACK_REPLICAS over HTTP: what clients get while the replica is away, and afterwards."""

import json
import subprocess
import threading

import pytest
import requests

from app.client import Client
from app.streaming.event_store import EventStore
from tests.integration.ack_replicas.conftest import freeze
from tests.servers import GatewayServer, ReplicatedServers, wait_until

EVENT = {"event_category": "llm", "event_action": "stream", "data": 1}
DETAIL = "only 0 of 1 replicas have it after 1 s"


@pytest.fixture
def gateway(replicated, start_gateway) -> GatewayServer:
    return start_gateway(replicated.url, ACK_REPLICAS=1, WEB_CONCURRENCY=2)


def logged(servers: ReplicatedServers, run_id: str = "a") -> list[object]:
    return [each.data for each in EventStore(servers.master.url).get_events(run_id)]


def test_curl_gets_503_with_stored_unknown_and_retry_after(replicated, gateway):
    url = f"{gateway.url}/runs/a/events"
    command = ["curl", "-si", "-H", "Content-Type: application/json", "-d", json.dumps(EVENT), url]
    stored = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert stored.startswith("HTTP/1.1 201 ")
    freeze(replicated)
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    head, _, body = answer.partition("\n\n")
    assert head.startswith("HTTP/1.1 503 ")
    assert "\nRetry-After: 1\n" in f"{head}\n"
    problem = json.loads(body)
    assert (problem["stored"], problem["detail"]) == ("unknown", DETAIL)
    assert logged(replicated) == [1, 1]
    assert DETAIL in gateway.log.read_text()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("events", EVENT),
        ("events", [EVENT] * 3),
        ("events?expected_sequence=1", EVENT),
        ("requests", {"action": "cancel"}),
    ],
)
def test_each_way_to_append_is_unknown_without_the_replica(replicated, gateway, path, body):
    if path == "requests":  # only for a run that there is
        requests.post(f"{gateway.url}/runs/a/events", json=EVENT).raise_for_status()
    freeze(replicated)
    answer = requests.post(f"{gateway.url}/runs/a/{path}", json=body)
    assert (answer.status_code, answer.json()["stored"]) == (503, "unknown")
    assert answer.headers["Retry-After"] == "1"


def test_a_stream_of_lines_says_how_many_are_unknown(replicated, gateway):
    url, headers = f"{gateway.url}/runs/a/events", {"Content-Type": "application/x-ndjson"}
    line = json.dumps(EVENT).encode() + b"\n"

    def lines():
        yield line * 2
        wait_until(lambda: len(logged(replicated)) == 2, "two lines are stored")
        freeze(replicated)
        yield line * 3

    answer = requests.post(url, data=lines(), headers=headers)
    assert answer.status_code == 503
    problem = answer.json()
    assert (problem["stored"], problem["unknown"], problem["line"]) == (2, 3, 3)
    assert len(logged(replicated)) == 5


def test_a_deletion_is_503_until_it_is_acknowledged(replicated, gateway):
    url = f"{gateway.url}/runs/a/events"
    requests.post(url, json=EVENT).raise_for_status()
    freeze(replicated)
    assert requests.delete(url).status_code == 503
    assert requests.delete(url).status_code == 503
    replicated.bring_replica_back()
    assert requests.delete(url).status_code == 204
    with replicated.replica.client() as replica:
        assert not replica.exists("run:a:events")


def test_the_client_repeats_until_the_replica_is_back_and_stores_once(replicated, gateway):
    client, done = Client(gateway.url), threading.Event()
    freeze(replicated)

    def add() -> None:
        client.add("a", "llm", "stream", "once")
        done.set()

    adding = threading.Thread(target=add)
    adding.start()
    wait_until(lambda: gateway.log.read_text().count(DETAIL) > 2, "it was refused, and repeated")
    assert not done.is_set()
    replicated.bring_replica_back()
    adding.join(30)
    assert done.is_set()
    assert logged(replicated) == ["once"]
    with replicated.replica.client() as replica:
        assert replica.xlen("run:a:events") == 1


def test_a_repeat_over_the_other_worker_is_unknown_too(replicated, gateway):
    """Each connection goes to one of two workers."""
    url, headers = f"{gateway.url}/runs/a/events", {"Idempotency-Key": "k"}
    for _ in range(5):
        requests.post(url, json=EVENT).raise_for_status()
    freeze(replicated)
    for _ in range(5):
        answer = requests.post(url, json=EVENT, headers=headers)
        assert (answer.status_code, answer.json()["stored"]) == (503, "unknown")
    replicated.bring_replica_back()
    answer = requests.post(url, json=EVENT, headers=headers)
    assert answer.status_code == 200
    assert len(logged(replicated)) == 6


def test_what_was_refused_is_refused_without_the_replica(replicated, gateway):
    url = f"{gateway.url}/runs/a/events"
    requests.post(url, json=EVENT).raise_for_status()
    freeze(replicated)
    answer = requests.post(f"{url}?expected_sequence=7", json=EVENT)
    assert (answer.status_code, answer.json()["last_sequence"]) == (409, 1)


def test_readyz_warns_of_too_few_replicas(replicated, gateway, start_gateway):
    def codes(of: GatewayServer) -> list[str]:
        answer = requests.get(f"{of.url}/readyz")
        assert answer.status_code == 200
        return [each["code"] for each in answer.json()["warnings"]]

    assert codes(gateway) == ["no-append-only-file"]
    replicated.replica.stop()
    other = start_gateway(replicated.url, ACK_REPLICAS=1)
    assert codes(other) == ["no-append-only-file", "too-few-replicas"]
    assert (
        "warning: ACK_REPLICAS is 1, but the number of connected replicas is 0"
        in other.log.read_text()
    )
