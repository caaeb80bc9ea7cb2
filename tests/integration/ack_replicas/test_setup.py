"""Readiness and warnings: WAIT is allowed, and there are enough replicas, on every server."""

import subprocess
import sys

import pytest

from app.streaming.errors import UnsupportedServer
from app.streaming.event_store import EventStore
from app.streaming.readiness import server_readiness as readiness
from tests.redis.acl import acl_of, set_user, url_of
from tests.redis.programs import every_program
from tests.servers import ROOT, RedisServer, wait_until


def codes(store: EventStore) -> list[str]:
    return [each.code for each in store.warnings()]


@every_program
def test_too_few_replicas_are_warned_of_until_they_are_there(
    program, start_replicated, monkeypatch
):
    monkeypatch.setattr(readiness, "SECONDS_BETWEEN_WARNINGS", 0)
    servers = start_replicated(program)
    url = servers.master.url
    enough, too_many = EventStore(url, ack_replicas=1), EventStore(url, ack_replicas=2)
    for store in (enough, too_many):
        store.check_ready()
    assert codes(enough) == codes(EventStore(url)) == ["no-append-only-file"]
    assert codes(too_many) == ["no-append-only-file", "too-few-replicas"]
    assert (
        "ACK_REPLICAS is 2, but the number of connected replicas is 1"
        in too_many.warnings()[1].detail
    )
    servers.replica.stop()
    wait_until(lambda: "too-few-replicas" in codes(enough), "the master has noticed")
    servers.bring_replica_back()
    wait_until(lambda: "too-few-replicas" not in codes(enough), "it is warned of no more")


@every_program
def test_the_acl_of_the_document_is_enough_and_wait_is_named_if_it_is_forbidden(
    program, start_replicated
):
    servers = start_replicated(program)
    with servers.master.client() as client:
        set_user(client, "tailrace", acl_of("tailrace"))
        store = EventStore(url_of("tailrace", servers.master), ack_replicas=1)
        store.check_ready()
        store.append("a", "llm", "stream", 1, idempotency_key="k")
        assert store.append("a", "llm", "stream", 1, idempotency_key="k").repeated
        assert store.delete("a")
        assert not store.delete("a")
        set_user(client, "tailrace", [each for each in acl_of("tailrace") if each != "+wait"])
    url = url_of("tailrace", servers.master)
    EventStore(url).check_ready()
    with pytest.raises(UnsupportedServer, match="Redis forbids WAIT to this user"):
        EventStore(url, ack_replicas=1).check_ready()


def test_readiness_waits_for_no_replica(replicated):
    store = EventStore(replicated.master.url, ack_replicas=1)
    replicated.replica.pause()
    with replicated.master.client() as client:
        store.check_ready()
        assert client.info("commandstats")["cmdstat_wait"]["usec"] < 100_000


def test_check_warns_of_too_few_replicas_and_exits_if_wait_is_forbidden(
    redis_server: RedisServer, redis_client
):
    def check(url: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "app", "check"]
        environ = {"REDIS_URL": url, "ACK_REPLICAS": "2", "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)

    checked = check(redis_server.url)
    assert checked.returncode == 0
    assert "warning: ACK_REPLICAS is 2, but the number of connected replicas is 0" in checked.stderr
    set_user(redis_client, "waitless", [*acl_of("tailrace"), "-wait"])
    checked = check(url_of("waitless", redis_server))
    assert checked.returncode == 2
    assert "forbids WAIT" in checked.stderr
    redis_client.execute_command("ACL", "DELUSER", "waitless")
