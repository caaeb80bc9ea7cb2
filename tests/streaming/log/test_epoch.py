"""The epoch of a log: who gives it, where it is kept, and that no other log under the key has it.

The scripts append.lua, mark_lost.lua and read.lua give and keep it.
"""

import pytest
import redis

from app.streaming.errors import StoreUnavailable
from app.streaming.event_id import ZERO, EventId
from app.streaming.event_store import EventStore
from tests.servers import DURABLE, ROOT, RedisServer, wait_until
from tests.streaming.event_store.logs import key

TWO_EVENTS = [{"event_category": "llm", "event_action": action} for action in "ab"]


def epochs(client: redis.Redis, run_id: str) -> list[bytes | None]:
    """The epoch of each entry, None where it has none."""
    return [fields.get(b"epoch") for _, fields in client.xrange(key(run_id))]


def groups(client: redis.Redis, run_id: str) -> list[bytes]:
    return [group["name"] for group in client.xinfo_groups(key(run_id))]


def read_epoch(store: EventStore, run_id: str) -> bytes:
    """The epoch as a read gives it; every way of reading must agree."""
    epoch = store.read(run_id, ZERO, 1)[1].epoch
    [state] = store.states([run_id])
    assert store.state(run_id).epoch == state.epoch == epoch
    return epoch


# Who gives it


def test_the_first_append_gives_a_log_its_epoch_and_all_entries_have_it(any_store, client, run_id):
    any_store.add(run_id, "llm", "stream")
    any_store.add(run_id, "llm", "stream", None, {"a": "source"}, lease_seconds=60)
    any_store.add_many(run_id, TWO_EVENTS)
    [epoch] = set(epochs(client, run_id))
    assert read_epoch(any_store, run_id) == epoch
    assert groups(client, run_id) == [b"tailrace:" + epoch]


def test_the_epoch_is_the_microsecond_of_its_beginning(any_store, client, run_id):
    def now() -> int:
        seconds, microseconds = client.time()
        return seconds * 10**6 + microseconds

    before = now()
    any_store.add(run_id, "llm", "stream")
    assert before <= int(read_epoch(any_store, run_id)) <= now()


@pytest.mark.parametrize(
    "fields",
    [{"epoch": "3"}, {"timestamp": "x", "epoch": "3"}, {"sequence": "1", "epoch": "3"}],
    ids=["alone", "second", "after a sequence"],
)
def test_a_field_of_that_name_of_another_program_is_not_the_epoch(
    any_store, client, run_id, fields
):
    any_store.add(run_id, "llm", "stream")
    [epoch] = epochs(client, run_id)
    client.xadd(key(run_id), {**fields, "lease_seconds": "60"})
    assert read_epoch(any_store, run_id) == epoch
    last = client.xinfo_stream(key(run_id))["last-generated-id"].decode()
    assert any_store.mark_lost(run_id, EventId.parse(last), watched=True)
    assert read_epoch(any_store, run_id) == epoch
    any_store.add(run_id, "lifecycle", "started")
    assert epochs(client, run_id)[-1] == epoch == read_epoch(any_store, run_id)


def test_the_epoch_is_no_part_of_an_event(any_store, run_id):
    any_store.add(run_id, "llm", "stream")
    [event] = any_store.get_events(run_id)
    assert b"epoch" not in event.to_json()


def test_a_run_that_is_lost_keeps_its_epoch(any_store, client, run_id):
    last = any_store.add(run_id, "llm", "stream", lease_seconds=60)
    assert any_store.mark_lost(run_id, EventId.parse(last), watched=True)
    first, lost = epochs(client, run_id)
    assert first == lost == read_epoch(any_store, run_id)


def test_a_run_without_a_log_has_no_epoch_and_a_read_makes_none(any_store, client, run_id):
    assert read_epoch(any_store, run_id) == b""
    assert not client.exists(key(run_id))


# Logs of other programs


def test_a_read_gives_a_log_of_another_program_its_epoch(any_store, client, run_id):
    client.xadd(key(run_id), {"any": "thing"})
    epoch = read_epoch(any_store, run_id)
    assert epoch.isdigit()
    assert groups(client, run_id) == [b"tailrace:" + epoch]
    client.xadd(key(run_id), {"any": "thing"})
    assert read_epoch(any_store, run_id) == epoch
    assert epochs(client, run_id) == [None, None]


def test_an_append_to_a_log_of_another_program_takes_the_epoch_it_was_given(
    any_store, client, run_id
):
    client.xadd(key(run_id), {"any": "thing"})
    epoch = read_epoch(any_store, run_id)
    any_store.add(run_id, "llm", "stream")
    assert epochs(client, run_id) == [None, epoch]
    assert groups(client, run_id) == [b"tailrace:" + epoch]


def test_an_append_to_a_log_of_another_program_gives_the_epoch(any_store, client, run_id):
    client.xadd(key(run_id), {"any": "thing"})
    any_store.add(run_id, "llm", "stream")
    none, epoch = epochs(client, run_id)
    assert none is None
    assert read_epoch(any_store, run_id) == epoch
    assert groups(client, run_id) == [b"tailrace:" + epoch]


def test_a_last_entry_of_another_program_does_not_hide_the_epoch(any_store, client, run_id):
    any_store.add(run_id, "llm", "stream")
    epoch = read_epoch(any_store, run_id)
    client.xadd(key(run_id), {"any": "thing"})
    assert read_epoch(any_store, run_id) == epoch
    any_store.add(run_id, "llm", "stream")
    assert epochs(client, run_id) == [epoch, None, epoch]
    assert groups(client, run_id) == [b"tailrace:" + epoch]


@pytest.mark.parametrize("value", ["", "x", "12x", "-1", "1.5"])
def test_an_epoch_field_of_another_program_that_is_no_number_is_none(
    any_store, client, run_id, value
):
    any_store.add(run_id, "llm", "stream")
    epoch = read_epoch(any_store, run_id)
    client.xadd(key(run_id), {"epoch": value})
    assert read_epoch(any_store, run_id) == epoch
    any_store.add(run_id, "llm", "stream")
    assert epochs(client, run_id)[-1] == epoch


def test_groups_of_other_programs_are_left_alone(any_store, client, run_id):
    client.xadd(key(run_id), {"any": "thing"})
    for name in ("workers", "tailrace", "tailrace:", "tailrace:x", "my-tailrace:1"):
        client.xgroup_create(key(run_id), name, "0")
    before = set(groups(client, run_id))
    epoch = read_epoch(any_store, run_id)
    any_store.add(run_id, "llm", "stream")
    assert set(groups(client, run_id)) == before | {b"tailrace:" + epoch}


# Emptied logs


@pytest.mark.parametrize("way", ["xdel", "xtrim"])
def test_an_emptied_log_keeps_its_epoch(any_store, client, run_id, way):
    entry_id = any_store.add(run_id, "llm", "stream")
    epoch = read_epoch(any_store, run_id)
    if way == "xdel":
        client.xdel(key(run_id), entry_id)
    else:
        client.xtrim(key(run_id), maxlen=0, approximate=False)
    assert read_epoch(any_store, run_id) == epoch
    any_store.add(run_id, "llm", "stream")
    assert epochs(client, run_id) == [epoch]


def test_a_log_that_was_made_by_its_group_alone_has_an_epoch(any_store, client, run_id):
    client.xgroup_create(key(run_id), "workers", "0", mkstream=True)
    entries, state = any_store.read(run_id, ZERO, 10)
    assert (entries, state.length) == ([], 0)
    any_store.add(run_id, "llm", "stream")
    assert epochs(client, run_id) == [state.epoch]


# Other logs under the same key


@pytest.mark.parametrize("way", ["DEL", "expiry", "RENAME"])
def test_a_log_that_was_begun_again_has_another_epoch(any_store, client, run_id, way):
    any_store.add(run_id, "llm", "stream")
    before = read_epoch(any_store, run_id)
    if way == "DEL":
        client.delete(key(run_id))
    elif way == "expiry":
        client.pexpire(key(run_id), 1)
        wait_until(lambda: not client.exists(key(run_id)), "it has expired")
    else:
        any_store.add(f"{run_id}-other", "llm", "stream")
        client.rename(key(f"{run_id}-other"), key(run_id))
    any_store.add(run_id, "llm", "stream")
    assert read_epoch(any_store, run_id) != before


def test_a_log_that_is_renamed_and_comes_back_is_the_same_log(any_store, client, run_id):
    any_store.add(run_id, "llm", "stream")
    epoch = read_epoch(any_store, run_id)
    client.rename(key(run_id), key(f"{run_id}-away"))
    assert read_epoch(any_store, f"{run_id}-away") == epoch
    client.rename(key(f"{run_id}-away"), key(run_id))
    any_store.add(run_id, "llm", "stream")
    assert epochs(client, run_id) == [epoch] * 2


def test_a_log_of_another_program_that_was_begun_again_has_another_epoch(any_store, client, run_id):
    """Its entry has the same id as before."""
    seen = set()
    for _ in range(3):
        client.delete(key(run_id))
        client.xadd(key(run_id), {"any": "thing"}, "5-0")
        seen.add(read_epoch(any_store, run_id))
    assert len(seen) == 3


def append_command(run_id: str) -> list[str | int]:
    """One append as a raw command, for transactions."""
    source = (ROOT / "app" / "streaming" / "log" / "append.lua").read_text()
    keys = [key(run_id), f"{{{key(run_id)}}}:keys", f"{{{key(run_id)}}}:key-order"]
    options = [1000, 60_000, 60_000, "2026-01-01T00:00:00.000Z", "", "", ""]
    return ["EVAL", source, 3, *keys, *options, "llm", "stream", "1", "", ""]


def test_logs_that_are_begun_again_within_a_millisecond_have_different_epochs(redis_client, run_id):
    """Their ids can be the same."""
    with redis_client.pipeline(transaction=False) as pipeline:
        for _ in range(100):
            pipeline.execute_command(*append_command(run_id))
            pipeline.xrange(key(run_id))
            pipeline.delete(key(run_id))
        logs = pipeline.execute()[1::3]
    seen = {fields[b"epoch"] for [(_, fields)] in logs}
    ids = {entry_id for [(entry_id, _)] in logs}
    assert len(ids) < 100
    assert len(seen) == 100


# Where the group cannot be made


@pytest.fixture
def guest(breakable: RedisServer) -> redis.Redis:
    """A client that may do all but XGROUP; the owner's client is `breakable.client()`."""
    with breakable.client() as owner:
        owner.execute_command("ACL", "SETUSER", "guest", "on", ">word", "~*", "+@all", "-xgroup")
    return redis.Redis(port=breakable.port, username="guest", password="word", protocol=2)


def test_where_xgroup_is_forbidden_the_entries_still_have_the_epoch(guest, run_id):
    store = EventStore(client=guest)
    for _ in range(2):
        store.add(run_id, "llm", "stream")
    store.add_many(run_id, TWO_EVENTS)
    [epoch] = set(epochs(guest, run_id))
    assert read_epoch(store, run_id) == epoch
    assert groups(guest, run_id) == []


def test_where_xgroup_is_forbidden_a_log_of_another_program_has_no_epoch(guest, run_id):
    store = EventStore(client=guest)
    guest.xadd(key(run_id), {"any": "thing"})
    entries, state = store.read(run_id, ZERO, 10)
    assert (len(entries), state.epoch, state.last_sequence) == (1, b"", 1)
    assert store.state(run_id).epoch == b""
    assert not state.has_no_epoch


def test_in_full_memory_a_log_without_an_epoch_is_read_without_one(tmp_path, run_id):
    with (
        RedisServer(tmp_path, "--maxmemory-policy", "noeviction") as server,
        server.client() as client,
    ):
        store = EventStore(server.url)
        client.xadd(key(run_id), {"any": "thing"})
        store.add(f"{run_id}-ours", "llm", "stream")
        ours = read_epoch(store, f"{run_id}-ours")
        client.config_set("maxmemory", 1)
        assert read_epoch(store, run_id) == b""
        assert store.state(run_id).has_no_epoch
        assert read_epoch(store, f"{run_id}-ours") == ours
        assert not store.state(f"{run_id}-ours").has_no_epoch
        with pytest.raises(StoreUnavailable):
            store.add(run_id, "llm", "stream")
        assert client.xlen(key(run_id)) == 1
        client.config_set("maxmemory", 0)
        epoch = read_epoch(store, run_id)
        store.add(run_id, "llm", "stream")
        assert epochs(client, run_id) == [None, epoch]


def test_a_replica_has_the_epochs_of_its_master_and_gives_none(tmp_path, run_id):
    for name in ("master", "replica"):
        (tmp_path / name).mkdir()
    at_once = "--repl-diskless-sync-delay", "0"
    with RedisServer(tmp_path / "master", *at_once) as master, master.client() as client:
        store = EventStore(master.url)
        store.add(f"{run_id}-ours", "llm", "stream")
        entry_id = store.add(f"{run_id}-emptied", "llm", "stream")
        client.xdel(key(f"{run_id}-emptied"), entry_id)
        client.xadd(key(run_id), {"any": "thing"})
        source = f"127.0.0.1 {master.port}"
        with (
            RedisServer(tmp_path / "replica", "--replicaof", source) as server,
            server.client() as on_replica,
        ):
            wait_until(lambda: on_replica.exists(key(run_id)), "the replica is in sync", 50)
            replica = EventStore(server.url)
            for name in ("ours", "emptied"):
                epoch = read_epoch(store, f"{run_id}-{name}")
                assert epoch
                assert read_epoch(replica, f"{run_id}-{name}") == epoch
            assert read_epoch(replica, run_id) == b""
            # Promoted, it gives one.
            on_replica.replicaof("no", "one")
            assert read_epoch(replica, run_id).isdigit()


def test_an_emptied_log_keeps_its_epoch_over_a_restart(tmp_path, run_id):
    with RedisServer(tmp_path, *DURABLE) as server, server.client() as client:
        store = EventStore(server.url)
        entry_id = store.add(run_id, "llm", "stream")
        client.xdel(key(run_id), entry_id)
        epoch = read_epoch(store, run_id)
        assert epoch
        server.stop()
        server.start()
        assert read_epoch(EventStore(server.url), run_id) == epoch
