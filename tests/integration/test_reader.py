"""The shared reader on a real server: logs of other writers, replaced logs, lost connections."""

import time

import pytest
import redis

from app.streaming.event_store import EventStore
from tests.clients import Stream
from tests.servers import GatewayServer, wait_until


def stream_url(gateway: GatewayServer, run_id: str, query: str = "") -> str:
    return f"{gateway.url}/runs/{run_id}/events/stream?{query}"


def add_as_another_writer(client: redis.Redis, run_id: str, data: object, **fields: object) -> None:
    names = {"event_category": "llm", "event_action": "stream"}
    client.xadd(f"run:{run_id}:events", {**names, "data": str(data), **fields})


@pytest.mark.parametrize("rules", ["-client", "-client|unblock", "-@dangerous"])
def test_new_feeds_are_followed_on_a_server_that_forbids_client_unblock(
    start_redis, start_gateway, run_id, rules
):
    server = start_redis()
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "guest", "on", ">word", "~*", "+@all", rules)
    guest = server.url.replace("redis://", "redis://guest:word@")
    gateway = start_gateway(guest)
    store = EventStore(server.url)
    with (
        Stream(stream_url(gateway, run_id)) as first,
        Stream(stream_url(gateway, f"{run_id}-2")) as second,
    ):
        for stream in (first, second):
            stream.wait_for_control("caught_up")
        store.add(run_id, "llm", "stream")
        store.add(f"{run_id}-2", "llm", "stream")
        first.wait_for_events(1)
        second.wait_for_events(1)


def test_a_log_replaced_within_one_millisecond_is_a_reset(gateway, redis_client, run_id):
    key = f"run:{run_id}:events"

    def begin(pipeline: redis.client.Pipeline, *ids: str) -> None:
        for number, event_id in enumerate(ids, 1):
            pipeline.xadd(key, {"sequence": number, "data": f'"{event_id}"'}, id=event_id)

    with redis_client.pipeline() as pipeline:
        begin(pipeline, "1000-0", "1000-1")
        pipeline.execute()
    with Stream(stream_url(gateway, run_id)) as stream:
        stream.wait_for_control("caught_up")
        with redis_client.pipeline() as pipeline:
            pipeline.delete(key)
            begin(pipeline, "1000-0", "1001-0")
            pipeline.execute()
        stream.wait_for_control("reset")
        stream.wait_for_events(4)
    assert [event.json["id"] for event in stream.events[2:]] == ["1000-0", "1001-0"]


def test_a_gap_in_a_log_without_sequences_is_reported(gateway, redis_client, run_id):
    add_as_another_writer(redis_client, run_id, 0)
    with Stream(stream_url(gateway, run_id)) as stream:
        stream.wait_for_control("caught_up")
        with redis_client.pipeline() as pipeline:
            for number in range(1, 51):
                add_as_another_writer(pipeline, run_id, number)
            pipeline.xtrim(f"run:{run_id}:events", maxlen=5, approximate=False)
            pipeline.execute()
        stream.wait_for_control("gap")
        stream.wait_for_events(6)
    assert [event.json["data"] for event in stream.events] == [0, 46, 47, 48, 49, 50]


def test_sequences_of_another_writer_cause_no_gap(gateway, redis_client, run_id):
    """Every sequence is 1, as in a tutorial's producer, and the log is trimmed meanwhile."""
    key = f"run:{run_id}:events"
    for number in range(300):
        add_as_another_writer(redis_client, run_id, number, sequence=1)
    with Stream(stream_url(gateway, run_id)) as stream:
        stream.wait_for_control("caught_up")
        first = stream.events[0].json["id"]
        redis_client.xtrim(key, maxlen=100, approximate=False)
        with Stream(stream_url(gateway, run_id), {"Last-Event-ID": first}) as late:
            assert late.wait_for_control("gap").json["data"]["requested"] == first
            for number in range(300, 600):
                add_as_another_writer(redis_client, run_id, number, sequence=1)
            stream.wait_for_events(600)
            late.wait_for_events(400)
    assert [event.json["data"] for event in stream.events] == list(range(600))
    assert [event.json["data"] for event in late.events] == list(range(200, 600))
    assert [control.event for control in stream.controls] == ["gateway.caught_up"]


def test_a_new_client_of_a_deleted_log_gets_no_reset(gateway, store, run_id):
    store.add(run_id, "llm", "stream")
    with Stream(stream_url(gateway, run_id)) as old:
        old.wait_for_control("caught_up")
        store.delete(run_id)
        with Stream(stream_url(gateway, run_id)) as new:
            assert new.wait_for_control("caught_up").last_event_id == "0-0"
            store.add(run_id, "llm", "stream")
            new.wait_for_events(1)
            old.wait_for_events(2)
    assert [message.event for message in new.messages] == ["gateway.caught_up", "llm.stream"]
    assert [control.event for control in old.controls] == ["gateway.caught_up", "gateway.reset"]


def reader_ids(client: redis.Redis, gateway: GatewayServer) -> list[str]:
    """Return the ids of the connections on which the gateway's readers wait in XREAD.

    A connection of the test process can have XREAD as its last command too.
    """
    [worker] = gateway.workers()
    ports = {each.laddr.port for each in worker.net_connections(kind="tcp")}
    return [
        each["id"]
        for each in client.client_list()
        if each["cmd"] == "xread" and int(each["addr"].rpartition(":")[2]) in ports
    ]


def test_a_reader_whose_connection_is_killed_goes_on(gateway, store, redis_client, run_id):
    with Stream(stream_url(gateway, run_id)) as stream:
        stream.wait_for_control("caught_up")
        for number in range(1, 6):
            for each in reader_ids(redis_client, gateway):
                redis_client.client_kill_filter(_id=each)
            store.add(run_id, "llm", "stream")
            stream.wait_for_events(number)
    assert stream.sequences == [1, 2, 3, 4, 5]


def test_readers_end_with_their_feeds(gateway, store, redis_client, run_id):
    streams = [Stream(stream_url(gateway, f"{run_id}-{number}")) for number in range(130)]
    for stream in streams:
        stream.wait_for_control("caught_up")
    wait_until(lambda: len(reader_ids(redis_client, gateway)) >= 3, "three readers for 130 runs")
    for stream in streams[5:]:
        stream.close()
    wait_until(lambda: len(reader_ids(redis_client, gateway)) == 1, "one reader is left")
    for stream, number in zip(streams[:5], range(5), strict=True):
        store.add(f"{run_id}-{number}", "llm", "stream")
        stream.wait_for_events(1)
        stream.close()
    wait_until(lambda: not reader_ids(redis_client, gateway), "no reader is left")


# Deleted entries


def test_a_cursor_before_a_deleted_entry_gets_a_gap_and_the_rest(
    gateway, redis_client, store, run_id
):
    ids = [store.add(run_id, "llm", "stream", number) for number in range(5)]
    redis_client.xdel(f"run:{run_id}:events", ids[2])
    with Stream(stream_url(gateway, run_id, f"last_event_id={ids[0]}")) as stream:
        gap = stream.wait_for_control("gap").json["data"]
        assert gap == {"requested": ids[0], "earliest": ids[0], "latest": ids[4]}
        stream.wait_for_control("caught_up")
        assert stream.sequences == [2, 4, 5]
    for passed in (ids[2], ids[3]):
        with Stream(stream_url(gateway, run_id, f"last_event_id={passed}")) as stream:
            caught_up = stream.wait_for_control("caught_up")
            assert len(stream.controls) == 1
            assert caught_up.last_event_id == ids[4]


def test_a_deleted_last_entry_is_reported_once(gateway, redis_client, store, run_id):
    ids = [store.add(run_id, "llm", "stream", number) for number in range(3)]
    redis_client.xdel(f"run:{run_id}:events", ids[2])
    with Stream(stream_url(gateway, run_id, f"last_event_id={ids[1]}")) as stream:
        stream.wait_for_control("gap")
        reached = stream.wait_for_control("caught_up").last_event_id
    with Stream(stream_url(gateway, run_id, f"last_event_id={reached}")) as stream:
        stream.wait_for_control("caught_up")
        assert len(stream.controls) == 1


@pytest.mark.parametrize("before", [0, 3])
def test_a_live_follower_gets_a_gap_for_an_entry_deleted_before_it_was_read(
    gateway, redis_client, store, run_id, before
):
    for number in range(before):
        store.add(run_id, "llm", "stream", number)
    key = f"run:{run_id}:events"
    with Stream(stream_url(gateway, run_id)) as stream:
        stream.wait_for_control("caught_up")
        with redis_client.pipeline() as pipeline:
            for number in range(1, 4):
                pipeline.xadd(key, {"sequence": before + number}, id=f"9999999999999-{number}")
            pipeline.xdel(key, "9999999999999-2")
            pipeline.execute()
        stream.wait_for_events(before + 2)
        assert stream.sequences[-2:] == [before + 1, before + 3]
        assert len([each for each in stream.controls if each.event == "gateway.gap"]) == 1


def test_an_entry_deleted_before_it_was_read_is_a_gap_and_the_run_can_still_be_lost(
    gateway, redis_client, store, run_id
):
    store.add(run_id, "llm", "stream", lease_seconds=2)
    key = f"run:{run_id}:events"
    with Stream(stream_url(gateway, run_id)) as stream:
        stream.wait_for_control("caught_up")
        with redis_client.pipeline() as pipeline:
            pipeline.xadd(key, {"sequence": 2}, id="9999999999999-1")
            pipeline.xdel(key, "9999999999999-1")
            pipeline.execute()
        stream.wait_for_control("gap")
        stream.wait_for_end(30)
        assert stream.sequences == [1, 3]


def rebuild_without_its_last_entry(client: redis.Redis, run_id: str, more: int) -> None:
    """Change a log as a failover does: its last entry is missing, and others follow."""
    key = f"run:{run_id}:events"
    entries = client.xrange(key)
    time.sleep(0.002)  # a failover takes too long to reuse the lost entry's id
    with client.pipeline() as pipeline:
        pipeline.delete(key)
        for entry_id, fields in entries[:-1]:
            pipeline.xadd(key, fields, id=entry_id)
        for number in range(more):
            pipeline.xadd(key, {"sequence": len(entries) + number, "event_action": "new"})
        pipeline.execute()


def test_a_cursor_whose_event_is_missing_from_the_log_gets_a_reset(
    gateway, redis_client, store, run_id
):
    ids = [store.add(run_id, "llm", "stream", number) for number in range(3)]
    rebuild_without_its_last_entry(redis_client, run_id, 2)
    with Stream(stream_url(gateway, run_id, f"last_event_id={ids[-1]}")) as stream:
        assert stream.wait_for_control("reset").json["data"]["requested"] == ids[-1]
        stream.wait_for_control("caught_up")
        assert stream.sequences == [1, 2, 3, 4]


@pytest.mark.parametrize("more", [1, 2, 600])
def test_a_live_follower_gets_a_reset_when_the_last_entry_is_replaced(
    gateway, redis_client, store, run_id, more
):
    ids = [store.add(run_id, "llm", "stream", number) for number in range(3)]
    with Stream(stream_url(gateway, run_id)) as stream:
        stream.wait_for_control("caught_up")
        rebuild_without_its_last_entry(redis_client, run_id, more)
        assert stream.wait_for_control("reset").json["data"]["requested"] == ids[-1]
        stream.wait_for_events(3 + 2 + more)
        assert stream.sequences == [1, 2, 3, *range(1, 3 + more)]


def test_a_log_that_expires_is_a_reset_and_its_successor_is_followed(
    gateway, redis_client, store, run_id
):
    store.add(run_id, "llm", "stream", "before")
    with Stream(f"{gateway.url}/runs/{run_id}/events/stream") as stream:
        stream.wait_for_events(1)
        stream.wait_for_control("caught_up")
        redis_client.pexpire(f"run:{run_id}:events", 50)
        data = stream.wait_for_control("reset").json["data"]
        assert (data["earliest"], data["latest"]) == (None, None)
        store.add(run_id, "llm", "stream", "after")
        assert stream.wait_for_events(2)[-1].json["data"] == "after"


def test_a_key_of_another_type_is_a_reset_and_the_next_log_is_followed(
    gateway, redis_client, store, run_id
):
    key = f"run:{run_id}:events"
    store.add(run_id, "llm", "stream", "before")
    with Stream(f"{gateway.url}/runs/{run_id}/events/stream") as stream:
        stream.wait_for_control("caught_up")
        redis_client.set(key, "something else")
        data = stream.wait_for_control("reset").json["data"]
        assert (data["earliest"], data["latest"]) == (None, None)
        redis_client.delete(key)
        store.add(run_id, "llm", "stream", "after")
        assert stream.wait_for_events(2)[-1].json["data"] == "after"
        assert len(stream.controls) == 2
