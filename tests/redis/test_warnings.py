"""Warnings about settings of Redis: at the start, in readyz, and gone when they are mended."""

import subprocess
import sys
from collections.abc import Callable

import pytest
import requests

from app import create_app
from app.settings import Settings
from app.streaming.errors import ReadOnlyServer
from app.streaming.event_store import EventStore
from app.streaming.readiness import server_readiness as readiness
from app.streaming.redis.server_warnings import parse_info, warnings_of
from tests.redis.acl import acl_of, set_user, url_of
from tests.redis.programs import VALKEY_8, every_program
from tests.servers import DURABLE, ROOT, GatewayServer, RedisServer, ReplicatedServers, wait_until

CONFIGURATION = ROOT / "deploy" / "redis" / "tailrace.conf"


def codes(store: EventStore) -> list[str]:
    return [each.code for each in store.warnings()]


def make_replica(server: RedisServer, master: RedisServer) -> None:
    with server.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", master.port)
        wait_until(lambda: client.info("replication")["master_link_status"] == "up", "in sync")


def check(url: str) -> subprocess.CompletedProcess[str]:
    """Run the command `check`."""
    command = [sys.executable, "-m", "app", "check"]
    environ = {"REDIS_URL": url, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)


@every_program
def test_a_server_that_keeps_what_it_acknowledges_is_not_warned_of(program, start_program):
    assert codes(EventStore(start_program(program, *DURABLE).url)) == []


@every_program
@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_each_setting_is_warned_of(program, start_program, policy):
    """An eviction policy also without maxmemory: it counts as soon as that is set."""
    server = start_program(program, "--maxmemory-policy", policy)
    store = EventStore(server.url)
    warnings = store.warnings()
    assert [each.code for each in warnings] == ["eviction", "no-append-only-file"]
    assert policy in warnings[0].detail


@every_program
def test_a_replica_that_takes_writes_is_warned_of(program, start_program):
    master, replica = start_program(program, *DURABLE), start_program(program, *DURABLE)
    make_replica(replica, master)
    store = EventStore(replica.url)
    with pytest.raises(ReadOnlyServer, match="read-only replica"):
        store.check_ready()
    assert codes(store) == ["replica"]
    with replica.client() as client:
        client.config_set("replica-read-only", "no")
    store.check_ready()
    assert codes(store) == ["replica"]


def test_warnings_go_when_the_setting_is_mended(start_program, monkeypatch):
    server = start_program(VALKEY_8, "--maxmemory-policy", "allkeys-lru")
    store = EventStore(server.url)
    assert codes(store) == ["eviction", "no-append-only-file"]
    with server.client() as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("appendonly", "yes")
    assert codes(store) == ["eviction", "no-append-only-file"], "they are remembered"
    monkeypatch.setattr(readiness, "SECONDS_BETWEEN_WARNINGS", 0)
    assert codes(store) == []


def test_warnings_are_asked_for_once_in_a_while(start_program):
    server = start_program(VALKEY_8)
    store = EventStore(server.url)
    store.warnings()
    with server.client() as client:
        client.config_resetstat()
        for _ in range(100):
            store.warnings()
        assert client.info("commandstats").get("cmdstat_info") is None


@pytest.mark.parametrize("forbidden", ["+info", None])
def test_a_server_that_forbids_info_or_config_is_not_warned_of_what_nobody_knows(
    start_program, forbidden
):
    server = start_program(VALKEY_8, "--maxmemory-policy", "allkeys-lru")
    with server.client() as client:
        rules = [each for each in acl_of("tailrace") if each != forbidden]
        set_user(client, "tailrace", rules)
        store = EventStore(url_of("tailrace", server))
        assert bool(codes(store)) == (forbidden is None)


def test_a_store_on_fakeredis_has_no_warnings(fake_store):
    assert codes(fake_store) == []


@pytest.mark.parametrize(
    "reply",
    [b"", b"# Memory\r\n", b"maxmemory_policy\r\n\xff:\xff\r\nrole:master\r\n", b"x" * 9999],
)
def test_an_odd_reply_to_info_warns_of_nothing(reply):
    assert warnings_of(parse_info(reply)) == []


# In readyz


def ready(store: EventStore) -> tuple[int, dict]:
    response = create_app(Settings(), event_store=store).test_client().get("/readyz")
    return response.status_code, response.json


def test_readyz_names_them_and_is_200(start_program):
    status, body = ready(EventStore(start_program(VALKEY_8).url))
    assert (status, body["status"]) == (200, "ready")
    [warning] = body["warnings"]
    assert warning.keys() == {"code", "detail"}
    assert warning["code"] == "no-append-only-file"


def test_readyz_has_no_warnings_where_there_are_none(start_program):
    assert ready(EventStore(start_program(VALKEY_8, *DURABLE).url)) == (200, {"status": "ready"})


def test_readyz_of_a_read_only_replica_is_503_and_says_so(start_program):
    master, replica = start_program(VALKEY_8, *DURABLE), start_program(VALKEY_8, *DURABLE)
    make_replica(replica, master)
    status, body = ready(EventStore(replica.url))
    assert status == 503
    assert "read-only replica" in body["detail"]


def test_behind_sentinels_the_master_is_asked(tmp_path):
    servers = ReplicatedServers(tmp_path)
    try:
        store = EventStore(servers.url)
        store.check_ready()
        assert codes(store) == ["no-append-only-file"]  # and no replica
    finally:
        servers.stop()


# At the start


def warned(log: str) -> list[str]:
    return [line for line in log.splitlines() if line.startswith("tailrace: warning: ")]


def test_check_prints_a_line_for_each(start_program):
    server = start_program(VALKEY_8, "--maxmemory-policy", "allkeys-lru")
    checked = check(server.url)
    assert checked.returncode == 0
    assert ["maxmemory-policy is allkeys-lru" in each for each in warned(checked.stderr)] == [
        True,
        False,
    ]


def test_check_says_that_a_replica_refuses_writes(start_program):
    master, replica = start_program(VALKEY_8, *DURABLE), start_program(VALKEY_8, *DURABLE)
    make_replica(replica, master)
    checked = check(replica.url)
    assert checked.returncode == 0
    assert "read-only replica" in checked.stderr


def test_a_gateway_of_several_workers_warns_once(
    start_program, start_gateway: Callable[..., GatewayServer]
):
    gateway = start_gateway(start_program(VALKEY_8).url, WEB_CONCURRENCY=3)
    body = requests.get(f"{gateway.url}/readyz", timeout=20).json()
    assert [each["code"] for each in body["warnings"]] == ["no-append-only-file"]
    assert len(warned(gateway.log.read_text())) == 1


# The configuration in the checkout


@every_program
def test_the_configuration_starts_a_server_without_warnings(
    program, start_program, start_gateway, tmp_path
):
    server = start_program(program, configuration=CONFIGURATION)
    gateway = start_gateway(server.url)
    assert requests.get(f"{gateway.url}/readyz", timeout=20).json() == {"status": "ready"}
    assert warned(gateway.log.read_text()) == []
