"""The errors of the event store: wrong arguments, and servers that fail."""

import json
import socket
from collections.abc import Iterator

import pytest
import redis

from app.streaming import event_store
from app.streaming.errors import (
    EventTooLarge,
    InvalidEvent,
    InvalidInput,
    NotALog,
    StoreUnavailable,
)
from app.streaming.event_store import EventStore
from app.streaming.log.redis_keys import redis_keys
from app.streaming.redis import redis_url
from tests.servers import free_port
from tests.streaming.event_store.logs import DAY, InBackground, data_of, key


@pytest.mark.parametrize(
    ("category", "action", "data", "source", "field"),
    [
        ("", "a", None, None, "event_category"),
        ("a.b", "a", None, None, "event_category"),
        ("gateway", "a", None, None, "event_category"),
        ("a", "x" * 65, None, None, "event_action"),
        ("lifecycle", "lost", None, None, "event_action"),
        ("a", "a", float("nan"), None, "data"),
        ("a", "a", None, {"x": [float("inf")]}, "source"),
        ("a", "a", 2**64, None, "data"),
        ("a", "a", None, -(2**63) - 1, "source"),
        ("a", "a", object(), None, "data"),
        ("a", "a", {1: 2}, None, "data"),
        ("a", "a", "\ud800", None, "data"),
    ],
)
def test_an_event_that_cannot_be_stored_is_refused(
    any_store, run_id, category, action, data, source, field
):
    with pytest.raises(InvalidEvent) as refused:
        any_store.add(run_id, category, action, data, source)
    assert refused.value.field == field
    assert not any_store.state(run_id).exists


def test_the_limits_of_depth_and_integers(any_store, run_id):
    deepest = json.loads("[" * 128 + "]" * 128)
    for value in (deepest, 2**64 - 1, -(2**63)):
        any_store.add(run_id, "llm", "stream", value, value)
    with pytest.raises(InvalidEvent):
        any_store.add(run_id, "llm", "stream", [deepest])
    assert data_of(any_store.get_events(run_id)) == [deepest, 2**64 - 1, -(2**63)]


def test_the_limit_of_the_size(any_store, client, run_id):
    store = EventStore(client=client, max_event_bytes=100)
    largest = "x" * (100 - len('""'))
    store.add(run_id, "llm", "stream", largest)
    for data, source, field in [(largest + "x", None, "data"), (None, largest, "source")]:
        with pytest.raises(EventTooLarge) as refused:
            store.add(run_id, "llm", "stream", data, source)
        assert refused.value.field == field
    assert store.state(run_id).length == 1


def test_the_size_counts_bytes_and_is_256_kib_unless_set(any_store, run_id):
    any_store.add(run_id, "llm", "stream", "x" * 262_000)
    with pytest.raises(EventTooLarge):
        any_store.add(run_id, "llm", "stream", "分" * 100_000)
    with pytest.raises(EventTooLarge):
        any_store.add(run_id, "llm", "stream", "x" * 262_144)


CALLS = {
    "add": lambda store, run_id: store.add(run_id, "llm", "stream"),
    "get_events": lambda store, run_id: store.get_events(run_id),
    "get_events_after": lambda store, run_id: store.get_events_after(run_id, "0-0"),
    "page": lambda store, run_id: store.page(run_id),
    "subscribe": lambda store, run_id: store.subscribe(run_id, block_ms=None),
    "subscribe after an id": lambda store, run_id: store.subscribe(run_id, "0-0", block_ms=10),
    "state": lambda store, run_id: store.state(run_id),
    "set_expire": lambda store, run_id: store.set_expire(run_id),
    "delete": lambda store, run_id: store.delete(run_id),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_every_call_refuses_a_run_id_of_another_form(any_store, call):
    with pytest.raises(InvalidInput) as refused:
        call(any_store, "a b")
    assert refused.value.field == "run_id"


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda store: store.get_events_after("r", "abc"), "last_id"),
        (lambda store: store.get_events_after("r", "$"), "last_id"),
        (lambda store: store.get_events_after("r", None), "last_id"),
        (lambda store: store.subscribe("r", "1-"), "last_id"),
        (lambda store: store.subscribe("r", f"{2**64}-0"), "last_id"),
        (lambda store: store.subscribe("r", block_ms=-1), "block_ms"),
        (lambda store: store.set_expire("r", 0), "ttl_seconds"),
        (lambda store: store.set_expire("r", -1), "ttl_seconds"),
        (lambda store: store.set_expire("r", 10**18), "ttl_seconds"),
        (lambda store: store.get_events("r", limit=-1), "limit"),
        (lambda store: store.get_events_after("r", "0-0", limit=-1), "limit"),
    ],
)
def test_a_wrong_argument_is_refused_and_named(any_store, call, field):
    with pytest.raises(InvalidInput) as refused:
        call(any_store)
    assert refused.value.field == field


# Servers that fail


# fakeredis has another error for an XREAD of a wrong type: see the next test.
@pytest.mark.parametrize("name", [name for name in CALLS if name != "subscribe after an id"])
def test_a_key_of_the_wrong_type_is_refused_and_kept_as_it_is(any_store, client, run_id, name):
    client.set(key(run_id), "a string")
    with pytest.raises(NotALog):
        CALLS[name](any_store, run_id)
    assert client.get(key(run_id)) == b"a string"
    assert client.ttl(key(run_id)) == -1


@pytest.mark.parametrize("name", ["delete", "set_expire"])
@pytest.mark.parametrize("foreign", range(3))
def test_a_foreign_key_in_any_of_the_three_places_leaves_all_as_they_are(
    any_store, client, run_id, name, foreign
):
    any_store.add(run_id, "llm", "stream", idempotency_key="k")
    keys = redis_keys(run_id)
    client.set(keys[foreign], "a string")
    with pytest.raises(NotALog):
        CALLS[name](any_store, run_id)
    others = [each for each in keys if each != keys[foreign]]
    assert client.get(keys[foreign]) == b"a string"
    assert client.exists(*others) == 2
    assert all(client.ttl(each) > DAY for each in others)


def test_subscribe_refuses_a_key_of_the_wrong_type_too(store, redis_client, run_id):
    redis_client.set(key(run_id), "a string")
    with pytest.raises(NotALog):
        store.subscribe(run_id, "0-0", block_ms=10)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_server_that_is_down_raises_store_unavailable(call, run_id):
    with pytest.raises(StoreUnavailable):
        call(EventStore(f"redis://127.0.0.1:{free_port()}"), run_id)


@pytest.mark.parametrize("name", ["maxlen", "ended_ttl_seconds", "idle_ttl_seconds"])
@pytest.mark.parametrize("value", [0, 10**30])
def test_a_limit_that_redis_cannot_hold_is_refused(fake_client, name, value):
    with pytest.raises(InvalidInput, match=name):
        EventStore(client=fake_client, **{name: value})


def test_a_server_that_lost_the_script_gets_it_again(store, redis_client, run_id):
    store.add(run_id, "llm", "stream")
    redis_client.script_flush()
    store.add(run_id, "llm", "stream")
    assert store.state(run_id).last_sequence == 2


def test_the_server_is_named_and_old_ones_are_refused(store, monkeypatch):
    assert store.check_server().split()[0] in ("Redis", "Valkey")
    store.ping()
    monkeypatch.setattr(event_store, "MIN_SERVER", (99, 0))
    with pytest.raises(StoreUnavailable, match=r"too old: Redis 7\.0 or newer"):
        store.check_server()


@pytest.mark.parametrize(
    ("version", "refused"),
    [
        ("v7.2.4", False),
        ("8.0-m02", False),
        ("255.255.255", False),
        ("unstable", False),
        ("v6.2.14", True),
        ("6.9-rc1", True),
    ],
)
def test_a_server_may_state_its_version_in_an_odd_way(fake_store, monkeypatch, version, refused):
    monkeypatch.setattr(fake_store, "server", lambda: {"redis_version": version})
    if refused:
        with pytest.raises(StoreUnavailable, match=version):
            fake_store.check_server()
    else:
        assert fake_store.check_server() == f"Redis {version}"


@pytest.fixture
def lossy_port(redis_server) -> Iterator[int]:
    """Start a proxy that closes the connection instead of forwarding the reply to an append."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        InBackground(lambda: _forward_all(listener, redis_server.port))
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def _forward_all(listener: socket.socket, port: int) -> None:
    while True:
        near, _ = listener.accept()
        with near, socket.create_connection(("127.0.0.1", port)) as far:
            while asked := near.recv(65536):
                far.sendall(asked)
                reply = far.recv(65536)
                if b"EVAL" in asked:
                    break
                near.sendall(reply)


@pytest.mark.parametrize("injected", [False, True])
def test_an_append_whose_reply_is_lost_is_not_repeated(store, lossy_port, run_id, injected):
    store.add(f"{run_id}-other", "llm", "stream")  # so that the server knows the script
    client = redis.Redis(port=lossy_port, protocol=2) if injected else None
    lossy = EventStore(f"redis://127.0.0.1:{lossy_port}", client=client)
    with pytest.raises(StoreUnavailable):
        lossy.add(run_id, "llm", "stream")
    assert len(store.get_events(run_id)) == 1


def test_calls_to_a_paused_server_time_out(redis_server, run_id, monkeypatch):
    monkeypatch.setattr(redis_url, "COMMAND_TIMEOUT_SECONDS", 0.3)
    store = EventStore(redis_server.url)
    store.add(run_id, "llm", "stream")
    redis_server.pause()
    try:
        with pytest.raises(StoreUnavailable):
            store.add(run_id, "llm", "stream", "was it stored?")
        with pytest.raises(StoreUnavailable):
            store.get_events(run_id)
    finally:
        redis_server.resume()
    store.add(run_id, "llm", "stream", "later")
    assert store.get_events(run_id)[-1].data == "later"
