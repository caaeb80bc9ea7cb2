"""Event stores on clients that somebody else has made, with any settings."""

from collections.abc import Callable

import fakeredis
import pytest
import redis
from redis.backoff import ExponentialBackoff
from redis.cache import CacheConfig
from redis.retry import Retry

from app.streaming.errors import StoreUnavailable
from app.streaming.event_store import EventStore
from tests.servers import RedisServer
from tests.streaming.event_store.logs import data_of

SETTINGS = {
    "as it comes": {},
    "RESP2": {"protocol": 2},
    "RESP3": {"protocol": 3},
    "decoding": {"decode_responses": True},
    "decoding RESP3": {"decode_responses": True, "protocol": 3},
    "another encoding": {"decode_responses": True, "encoding": "ascii"},
    "caching": {"protocol": 3, "cache_config": CacheConfig()},
    "one connection": {"single_connection_client": True},
    "retries": {
        "retry": Retry(ExponentialBackoff(), 5),
        "retry_on_error": [redis.ConnectionError, redis.ResponseError],
    },
    "health checks": {"health_check_interval": 1, "client_name": "somebody"},
}
ON_SERVER = {f"a server, {name}": settings for name, settings in SETTINGS.items()}
FAKED = {
    f"fakeredis, {name}": settings
    for name, settings in SETTINGS.items()
    if name not in ("caching", "health checks")
}


@pytest.fixture(params=[*ON_SERVER, *FAKED])
def client(request: pytest.FixtureRequest, redis_server: RedisServer) -> redis.Redis:
    if request.param in FAKED:
        return fakeredis.FakeRedis(**FAKED[request.param])
    return redis.Redis(port=redis_server.port, **ON_SERVER[request.param])


def test_a_store_works_on_any_client(client, run_id):
    store = EventStore(client=client)
    store.ping()
    first = store.add(run_id, "llm", "stream", "分", {"a": [1, None]})
    for _ in range(2):
        store.add_many(
            run_id, [{"event_category": "llm", "event_action": "stream"}] * 2, idempotency_key="k"
        )
    assert [event.sequence for event in store.get_events(run_id)] == [1, 2, 3]
    assert store.get_events(run_id)[0].data == "分"
    assert len(store.get_events_after(run_id, first)) == 2
    assert store.subscribe(run_id, "0-0", block_ms=10)[0].id == first
    assert store.state(run_id).last_sequence == 3
    assert store.page(run_id, limit=2).next is not None
    with store.appender(run_id) as run:
        run.emit("lifecycle", "completed")
    assert store.state(run_id, ttl=True).ttl > 3600
    assert store.set_expire(run_id)
    assert store.delete(run_id)
    assert data_of(store.get_events(run_id)) == []


def test_entries_that_are_not_utf8_are_read_over_a_client_that_decodes(redis_server, run_id):
    client = redis.Redis(port=redis_server.port, decode_responses=True, protocol=3)
    client.xadd(f"run:{run_id}:events", {"event_category": b"\xff", "data": b"\xff"})
    assert len(EventStore(client=client).get_events(run_id)) == 1


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_late_reply_never_answers_the_next_command(redis_server, run_id, protocol):
    """With RESP3, redis-py does not look for unread replies."""
    client = redis.Redis(port=redis_server.port, protocol=protocol, socket_timeout=0.5)
    store = EventStore(client=client)
    store.add(run_id, "llm", "stream")
    redis_server.pause()
    try:
        for call in (store.get_events, store.state):
            with pytest.raises(StoreUnavailable):
                call(run_id)
    finally:
        redis_server.resume()
    assert len(store.get_events(run_id)) == 1
    assert store.state(run_id).last_sequence == 1


def refusals(call: Callable[[], object]) -> list[str]:
    try:
        call()
    except StoreUnavailable as error:
        return [str(error)]
    return []


def test_ping_refuses_a_server_that_takes_no_writes(tmp_path):
    with RedisServer(tmp_path) as server, server.client() as client:
        store = EventStore(client=client)
        assert refusals(store.ping) == []
        client.config_set("maxmemory", 1)
        assert len(refusals(store.ping)) == 1
