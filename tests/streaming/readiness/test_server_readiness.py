"""Readiness on real servers: what they forbid is named, and nothing is left behind."""

import re
from collections.abc import Iterator

import pytest
import redis
from redis.crc import key_slot

from app.streaming.errors import StoreUnavailable, UnsupportedServer
from app.streaming.event_store import EventStore
from app.streaming.log.redis_keys import log_key
from app.streaming.readiness import server_readiness as readiness
from tests.redis.acl import OPTIONAL, acl_of
from tests.servers import ROOT, RedisServer, wait_until

STREAMING = ROOT / "app" / "streaming"
LUA = sorted((STREAMING / "log").glob("*.lua"))
READY = STREAMING / "readiness" / "ready.lua"
RULES = acl_of("tailrace")
NEEDED = [rule for rule in RULES if rule.startswith("+") and rule not in OPTIONAL]


@pytest.fixture
def restrict(redis_server: RedisServer, redis_client: redis.Redis) -> Iterator:
    """Give a user rights, and return an event store that is that user."""

    def restrict(*rules: str, database: int = 0) -> EventStore:
        redis_client.execute_command("ACL", "SETUSER", "tailrace", "reset", *rules)
        return EventStore(f"redis://tailrace:password@127.0.0.1:{redis_server.port}/{database}")

    yield restrict
    redis_client.execute_command("ACL", "DELUSER", "tailrace")


def rules(*without: str) -> list[str]:
    """Return the rules that docs/redis.md names."""
    return [rule for rule in RULES if rule not in without]


def keys_of_probes(client: redis.Redis) -> list[bytes]:
    return client.keys("*~*probe*")  # no run can have the ~


@pytest.mark.parametrize("database", [0, 1])
def test_the_smallest_acl_is_enough(restrict, redis_client, run_id, database):
    store = restrict(*rules(), database=database)
    store.check_ready()
    store.check_server()
    store.ping()
    store.append(run_id, "llm", "stream", 1, idempotency_key="a", lease_seconds=1)
    store.append(run_id, "llm", "stream", 1, idempotency_key="a")
    store.append_many(run_id, [{"event_category": "a", "event_action": "b"}] * 3)
    assert len(store.get_events(run_id, descending=True)) == 4
    assert store.subscribe(run_id, "0-0", block_ms=100)
    assert store.state(run_id, ttl=True).ttl
    assert store.set_expire(run_id)
    assert store.delete(run_id)
    assert keys_of_probes(redis_client) == []


@pytest.mark.parametrize("rule", NEEDED)
def test_a_command_that_is_forbidden_is_named(restrict, redis_client, rule):
    name = rule[1:].partition("|")[0]
    with pytest.raises(UnsupportedServer, match=rf"(?i)forbids .*\b{name}\b"):
        restrict(*rules(rule)).check_ready()
    redis_client.delete(*keys_of_probes(redis_client) or ["none"])


@pytest.mark.parametrize("rule", sorted(OPTIONAL))
def test_a_command_that_may_be_forbidden_is_not_missed(restrict, rule):
    restrict(*rules(rule)).check_ready()


@pytest.mark.parametrize("user", ["keycloak", "monkey"])
def test_the_name_of_the_user_does_not_mislead(redis_server, redis_client, user):
    redis_client.execute_command("ACL", "SETUSER", user, "reset", *rules("+eval"))
    store = EventStore(f"redis://{user}:password@127.0.0.1:{redis_server.port}/0")
    with pytest.raises(UnsupportedServer, match="forbids EVAL "):
        store.check_ready()
    redis_client.execute_command("ACL", "DELUSER", user)


@pytest.mark.parametrize("pattern", ["~run:*", "~{run:*"])
def test_keys_that_are_forbidden_are_named(restrict, pattern):
    with pytest.raises(UnsupportedServer, match=r"forbids keys like run:\* and \{run:\*"):
        restrict(*rules(pattern)).check_ready()


def test_another_stream_that_is_forbidden_is_named(restrict, redis_client):
    store = restrict(*rules("~tailrace:*"))
    store.check_ready()
    with pytest.raises(UnsupportedServer, match="forbids the key tailrace:probed"):
        restrict(*rules("~tailrace:*")).check_ready("tailrace:probed")
    restrict(*rules()).check_ready("tailrace:probed")
    assert not redis_client.exists("tailrace:probed")
    redis_client.xadd("tailrace:probed", {"a": "b"})
    restrict(*rules()).check_ready("tailrace:probed")
    assert redis_client.xlen("tailrace:probed") == 1
    redis_client.delete("tailrace:probed")


def test_the_probe_tries_every_command_of_every_script():
    called = {
        name for path in LUA for name in re.findall(r"redis\.p?call\('([A-Z]+)'", path.read_text())
    }
    tried = set(re.findall(r"try\('([A-Z]+)'", READY.read_text()))
    assert called - {"DEL"} <= tried


def test_the_acl_names_what_the_probe_tries():
    tried = re.findall(r"try\('([A-Z]+)'", READY.read_text())
    named = {rule[1:].partition("|")[0].upper() for rule in NEEDED}
    assert named == {*tried, "EVAL", "EVALSHA", "XREAD"}


def test_the_probe_leaves_nothing_and_has_no_run_s_keys(store, redis_client):
    before = set(redis_client.scan_iter())
    store.check_ready()
    assert set(redis_client.scan_iter()) <= before, "keys of other tests may expire meanwhile"
    assert keys_of_probes(redis_client) == []
    assert "~" in readiness._PROBE, "no run has such an id"


def test_a_full_server_is_unavailable_for_now(breakable, redis_client):
    store = EventStore(breakable.url)
    store.check_ready()
    with breakable.client() as client:
        client.config_set("maxmemory", 1)
        with pytest.raises(StoreUnavailable, match="memory") as raised:
            store.check_ready()
        assert not isinstance(raised.value, UnsupportedServer)
        client.config_set("maxmemory", 0)
        store.check_ready()


def test_a_replica_is_unavailable_until_it_is_promoted(breakable, redis_server):
    store = EventStore(breakable.url)
    with breakable.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", redis_server.port)
        wait_until(lambda: client.info("replication")["master_link_status"] == "up", "in sync")
        with pytest.raises(StoreUnavailable, match=r"(?i)read.?only"):
            store.check_ready()
        client.execute_command("REPLICAOF", "NO", "ONE")
    store.check_ready()


def test_a_server_that_numbers_no_events_is_too_old(breakable, tmp_path, monkeypatch):
    script = (readiness.HERE / "ready.lua").read_text()
    (tmp_path / "ready.lua").write_text(script.replace("entries-added", "not yet known"))
    monkeypatch.setattr(readiness, "HERE", tmp_path)
    with pytest.raises(UnsupportedServer, match=r"too old: Redis 7\.0 or newer"):
        EventStore(breakable.url).check_ready()


def test_a_former_master_is_left_for_the_new_one(breakable, redis_server):
    """As with a managed service: the name leads to another server, and the old one replicates."""
    pool = redis.BlockingConnectionPool(host="127.0.0.1", port=breakable.port, protocol=2)
    store = EventStore(client=redis.Redis(connection_pool=pool))
    store.check_ready()
    with breakable.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", redis_server.port)
    store.engine.client.connection_pool.connection_kwargs["port"] = redis_server.port
    with pytest.raises(StoreUnavailable):
        store.check_ready()
    store.check_ready()


def test_a_probe_that_is_repeated_at_once_writes_nothing(store, redis_client):
    store.check_ready()
    before = redis_client.info("persistence")["rdb_changes_since_last_save"]
    for _ in range(100):
        store.check_ready()
    assert redis_client.info("persistence")["rdb_changes_since_last_save"] == before


# A cluster


def test_a_cluster_is_refused_by_name_though_one_log_would_work(cluster):
    store = EventStore(cluster.url)
    assert store.add("a", "llm", "stream")
    with pytest.raises(UnsupportedServer, match="cluster mode"):
        store.check_ready()


def test_a_cluster_that_lost_a_slot_is_refused_by_name(cluster):
    with cluster.client() as client:
        client.execute_command("CLUSTER", "DELSLOTS", key_slot(log_key("a").encode()))
    with pytest.raises(UnsupportedServer, match="cluster mode"):
        EventStore(cluster.url).check_ready()


@pytest.mark.parametrize("call", ["check_ready", "check_server", "ping"])
def test_a_database_that_the_server_does_not_have_is_refused_by_name(redis_server, call):
    store = EventStore(f"redis://127.0.0.1:{redis_server.port}/1000000")
    with pytest.raises(UnsupportedServer, match=r"refuses the database in REDIS_URL: .*range"):
        getattr(store, call)()


def test_a_database_that_the_user_may_not_use_is_refused_by_name(restrict):
    with pytest.raises(UnsupportedServer, match=r"refuses the database in REDIS_URL: .*select"):
        restrict(*rules("+select"), database=1).check_ready()


def test_the_two_logs_of_the_probe_are_in_different_slots():
    slots = {
        key_slot(log_key(each).encode()) for each in (readiness._PROBE, readiness._OTHER_PROBE)
    }
    assert len(slots) == 2
