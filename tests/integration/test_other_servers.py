"""Redis with Sentinel, with failovers that lose the end of a log, and Redis over TLS."""

import contextlib
import itertools
import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator

import pytest
import requests
import trustme

from app.streaming.errors import StoreUnavailable
from app.streaming.event_store import EventStore
from tests.clients import Stream
from tests.servers import GatewayServer, ReplicatedServers, free_port, wait_until

EVENT = {"event_category": "llm", "event_action": "stream"}


@pytest.fixture
def replicated(tmp_path) -> Iterator[ReplicatedServers]:
    servers = ReplicatedServers(tmp_path)
    yield servers
    servers.stop()


@pytest.fixture
def gateway(replicated, start_gateway) -> GatewayServer:
    return start_gateway(replicated.url, HEARTBEAT_SECONDS=1)


def append_until_accepted(gateway: GatewayServer, run_id: str, number: int) -> dict:
    """Repeat an append with one key until it succeeds. Each refusal must come in time."""
    url = f"{gateway.url}/runs/{run_id}/events"

    def accepted() -> dict | None:
        began = time.monotonic()
        answer = requests.post(
            url,
            json={**EVENT, "data": number},
            headers={"Idempotency-Key": f"k{number}"},
            timeout=20,
        )
        assert time.monotonic() - began < 10
        assert answer.status_code in (200, 201, 503), answer.text
        assert answer.ok or answer.json()["stored"] in (False, "unknown")
        return answer.json() if answer.ok else None

    return wait_until(accepted, "an append is accepted", 60)


def test_followers_and_producers_survive_a_failover(replicated, gateway, run_id):
    append_until_accepted(gateway, run_id, 1)
    with Stream(f"{gateway.url}/runs/{run_id}/events/stream") as stream:
        stream.wait_for_events(1)
        with replicated.replica.client() as client:
            wait_until(lambda: client.xlen(f"run:{run_id}:events") == 1, "it is replicated")
        replicated.fail_over()
        append_until_accepted(gateway, run_id, 2)
        stream.wait_for_events(2)
        assert stream.sequences == [1, 2]
        assert len(stream.controls) == 1
    assert requests.get(f"{gateway.url}/readyz", timeout=20).status_code == 200


def test_a_requested_failover_is_noticed_before_the_former_master_is_demoted(
    replicated, gateway, run_id
):
    append_until_accepted(gateway, run_id, 0)
    former = replicated.master.port
    with Stream(f"{gateway.url}/runs/{run_id}/events/stream") as stream:
        stream.wait_for_events(1)
        replicated.switch()
        numbers, acknowledged = itertools.count(1), []

        def another_is_named() -> bool:
            acknowledged.append(append_until_accepted(gateway, run_id, next(numbers))["id"])
            return replicated.master_port() != former

        wait_until(another_is_named, "Sentinel names another master")
        afterwards = [
            append_until_accepted(gateway, run_id, next(numbers))["id"] for _ in range(200)
        ]
        with replicated.master.client() as client:
            assert client.role()[0] == b"master", "too late: the former master is demoted already"
        log = EventStore(f"redis://127.0.0.1:{replicated.replica.port}").get_events(run_id)
        ids = [event.id for event in log]
        assert ids[-200:] == afterwards
        assert len({*acknowledged} - {*ids}) <= len(acknowledged) // 4
        wait_until(lambda: stream.last_event_id == afterwards[-1], "the follower has them all")


def test_a_follower_gets_a_reset_when_the_promoted_replica_lacks_events(
    replicated, gateway, run_id
):
    append_until_accepted(gateway, run_id, 1)
    with Stream(f"{gateway.url}/runs/{run_id}/events/stream") as stream:
        stream.wait_for_events(1)
        with replicated.replica.client() as client:
            wait_until(lambda: client.xlen(f"run:{run_id}:events") == 1, "it is replicated")
        replicated.cut_replica_off()
        lost = append_until_accepted(gateway, run_id, 2)
        stream.wait_for_events(2)
        replicated.fail_over()
        reset = stream.wait_for_control("reset", seconds=60).json["data"]
        assert reset["requested"] == lost["id"]
        append_until_accepted(gateway, run_id, 3)
        stream.wait_for_events(4)
        assert stream.sequences == [1, 2, 1, 2]


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://",
        "redis+sentinel://host:26379",
        "redis+sentinel://host:port/mymaster",
        "redis+sentinel://host/mymaster/x",
        "redis+sentinel://host/mymaster/0?nonsense=1",
    ],
)
def test_a_malformed_sentinel_url_is_refused(url):
    with pytest.raises(ValueError, match="REDIS_URL"):
        EventStore(url)


def test_an_append_fails_as_not_stored_while_all_sentinels_are_away(run_id):
    store = EventStore(f"redis+sentinel://u:p@127.0.0.1:{free_port()},127.0.0.1/mymaster")
    with pytest.raises(StoreUnavailable) as failed:
        store.add(run_id, "llm", "stream")
    assert failed.value.stored is False


# TLS


@pytest.fixture
def tls_url(redis_server, tmp_path) -> Iterator[str]:
    """Serve the shared Redis over TLS, with a certificate of a new authority."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    listener = socket.create_server(("127.0.0.1", 0))

    def relay(client: ssl.SSLSocket, server: socket.socket) -> None:
        """Copy both ways in one thread: a TLS read in one thread would block writes of another."""
        poll = select.poll()
        for each in (client, server):
            poll.register(each, select.POLLIN)
        while True:
            ready = {number for number, _ in poll.poll()}
            for source, target in ((client, server), (server, client)):
                if source.fileno() in ready:
                    data = source.recv(65536)
                    if not data:
                        return
                    target.sendall(data)

    def serve(plain: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),
            plain,
            context.wrap_socket(plain, server_side=True) as client,
            socket.create_connection(("127.0.0.1", redis_server.port)) as server,
        ):
            relay(client, server)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    port = listener.getsockname()[1]
    yield f"rediss://localhost:{port}/0?ssl_ca_certs={tmp_path / 'ca.pem'}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def test_appending_and_following_work_over_tls(tls_url, start_gateway, run_id):
    gateway = start_gateway(tls_url)
    with Stream(f"{gateway.url}/runs/{run_id}/events/stream") as stream:
        stream.wait_for_control("caught_up")
        for number in range(20):
            append_until_accepted(gateway, run_id, number)
        stream.wait_for_events(20)
        assert stream.sequences == list(range(1, 21))
    assert "lost Redis" not in gateway.log.read_text()  # session tickets are not late replies


def test_a_certificate_of_an_unknown_authority_is_refused(tls_url, run_id):
    with pytest.raises(StoreUnavailable):
        EventStore(tls_url.partition("?")[0]).add(run_id, "llm", "stream")
