"""The shared reader on a real server: foreign logs, new logs, a server that forbids, a cut."""

import time

import pytest
import redis

from app.streaming.event_store import EventStore
from tests.clients import Stream
from tests.servers import GatewayServer, wait_until


def url(gateway: GatewayServer, run_id: str, query: str = "") -> str:
    return f"{gateway.url}/runs/{run_id}/events/stream?{query}"


def add_as_others_do(client: redis.Redis, run_id: str, data: object, **fields: object) -> None:
    names = {"event_category": "llm", "event_action": "stream"}
    client.xadd(f"run:{run_id}:events", {**names, "data": str(data), **fields})


@pytest.mark.parametrize("rules", ["-client", "-client|unblock", "-@dangerous"])
def test_where_the_server_forbids_waking_new_feeds_are_followed_all_the_same(
    start_redis, start_gateway, run_id, rules
):
    server = start_redis()
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "guest", "on", ">word", "~*", "+@all", rules)
    guest = server.url.replace("redis://", "redis://guest:word@")
    gateway = start_gateway(guest)
    store = EventStore(server.url)
    with (
        Stream(url(gateway, run_id)) as first,
        Stream(url(gateway, f"{run_id}-2")) as second,
    ):
        for stream in (first, second):
            stream.wait_for_control("caught_up")
        store.add(run_id, "llm", "stream")
        store.add(f"{run_id}-2", "llm", "stream")
        first.wait_for_events(1)
        second.wait_for_events(1)


def test_a_log_begun_anew_within_the_same_millisecond_is_told(gateway, redis_client, run_id):
    key = f"run:{run_id}:events"

    def begin(pipeline: redis.client.Pipeline, *ids: str) -> None:
        for number, event_id in enumerate(ids, 1):
            pipeline.xadd(key, {"sequence": number, "data": f'"{event_id}"'}, id=event_id)

    with redis_client.pipeline() as pipeline:
        begin(pipeline, "1000-0", "1000-1")
        pipeline.execute()
    with Stream(url(gateway, run_id)) as stream:
        stream.wait_for_control("caught_up")
        with redis_client.pipeline() as pipeline:
            pipeline.delete(key)
            begin(pipeline, "1000-0", "1001-0")
            pipeline.execute()
        stream.wait_for_control("reset")
        stream.wait_for_events(4)
    assert [event.json["id"] for event in stream.events[2:]] == ["1000-0", "1001-0"]


def test_a_gap_in_a_log_without_sequences_is_told(gateway, redis_client, run_id):
    add_as_others_do(redis_client, run_id, 0)
    with Stream(url(gateway, run_id)) as stream:
        stream.wait_for_control("caught_up")
        with redis_client.pipeline() as pipeline:
            for number in range(1, 51):
                add_as_others_do(pipeline, run_id, number)
            pipeline.xtrim(f"run:{run_id}:events", maxlen=5, approximate=False)
            pipeline.execute()
        stream.wait_for_control("gap")
        stream.wait_for_events(6)
    assert [event.json["data"] for event in stream.events] == [0, 46, 47, 48, 49, 50]


def test_foreign_sequences_disturb_nobody(gateway, redis_client, run_id):
    """Each `1`, as in a producer copied from a tutorial, and trimmed all the while."""
    key = f"run:{run_id}:events"
    for number in range(300):
        add_as_others_do(redis_client, run_id, number, sequence=1)
    with Stream(url(gateway, run_id)) as stream:
        stream.wait_for_control("caught_up")
        first = stream.events[0].json["id"]
        redis_client.xtrim(key, maxlen=100, approximate=False)
        with Stream(url(gateway, run_id), {"Last-Event-ID": first}) as late:
            assert late.wait_for_control("gap").json["data"]["requested"] == first
            for number in range(300, 600):
                add_as_others_do(redis_client, run_id, number, sequence=1)
            stream.wait_for_events(600)
            late.wait_for_events(400)
    assert [event.json["data"] for event in stream.events] == list(range(600))
    assert [event.json["data"] for event in late.events] == list(range(200, 600))
    assert [control.event for control in stream.controls] == ["gateway.caught_up"]


def test_a_new_client_of_a_deleted_log_is_told_nothing_of_the_dead(gateway, store, run_id):
    store.add(run_id, "llm", "stream")
    with Stream(url(gateway, run_id)) as old:
        old.wait_for_control("caught_up")
        store.delete(run_id)
        with Stream(url(gateway, run_id)) as new:
            assert new.wait_for_control("caught_up").last_event_id == "0-0"
            store.add(run_id, "llm", "stream")
            new.wait_for_events(1)
            old.wait_for_events(2)
    assert [message.event for message in new.messages] == ["gateway.caught_up", "llm.stream"]
    assert [control.event for control in old.controls] == ["gateway.caught_up", "gateway.reset"]


def test_a_reader_whose_connection_is_cut_goes_on(gateway, store, redis_client, run_id):
    with Stream(url(gateway, run_id)) as stream:
        stream.wait_for_control("caught_up")
        for number in range(1, 6):
            blocked = [each for each in redis_client.client_list() if each["cmd"] == "xread"]
            for each in blocked:
                redis_client.client_kill_filter(_id=each["id"])
            store.add(run_id, "llm", "stream")
            stream.wait_for_events(number)
    assert stream.sequences == [1, 2, 3, 4, 5]


def test_readers_are_given_up_with_their_feeds(gateway, store, redis_client, run_id):
    def readers() -> int:
        return sum(each["cmd"] == "xread" for each in redis_client.client_list())

    streams = [Stream(url(gateway, f"{run_id}-{number}")) for number in range(130)]
    for stream in streams:
        stream.wait_for_control("caught_up")
    wait_until(lambda: readers() >= 3, "three readers for 130 runs")
    for stream in streams[5:]:
        stream.close()
    wait_until(lambda: readers() == 1, "one reader is left")
    for stream, number in zip(streams[:5], range(5), strict=True):
        store.add(f"{run_id}-{number}", "llm", "stream")
        stream.wait_for_events(1)
        stream.close()
    wait_until(lambda: readers() == 0, "no reader is left")


# Entries that are deleted one by one


def test_a_cursor_before_a_deleted_entry_is_told_of_a_gap_and_goes_on_after_itself(
    gateway, redis_client, store, run_id
):
    ids = [store.add(run_id, "llm", "stream", number) for number in range(5)]
    redis_client.xdel(f"run:{run_id}:events", ids[2])
    with Stream(url(gateway, run_id, f"last_event_id={ids[0]}")) as stream:
        gap = stream.wait_for_control("gap").json["data"]
        assert gap == {"requested": ids[0], "earliest": ids[0], "latest": ids[4]}
        stream.wait_for_control("caught_up")
        assert stream.sequences == [2, 4, 5]
    for passed in (ids[2], ids[3]):
        with Stream(url(gateway, run_id, f"last_event_id={passed}")) as stream:
            caught_up = stream.wait_for_control("caught_up")
            assert len(stream.controls) == 1
            assert caught_up.last_event_id == ids[4]


def test_a_deleted_end_is_told_once(gateway, redis_client, store, run_id):
    ids = [store.add(run_id, "llm", "stream", number) for number in range(3)]
    redis_client.xdel(f"run:{run_id}:events", ids[2])
    with Stream(url(gateway, run_id, f"last_event_id={ids[1]}")) as stream:
        stream.wait_for_control("gap")
        reached = stream.wait_for_control("caught_up").last_event_id
    with Stream(url(gateway, run_id, f"last_event_id={reached}")) as stream:
        stream.wait_for_control("caught_up")
        assert len(stream.controls) == 1


@pytest.mark.parametrize("before", [0, 3])
def test_a_live_follower_is_told_of_what_was_deleted_before_it_was_read(
    gateway, redis_client, store, run_id, before
):
    for number in range(before):
        store.add(run_id, "llm", "stream", number)
    key = f"run:{run_id}:events"
    with Stream(url(gateway, run_id)) as stream:
        stream.wait_for_control("caught_up")
        with redis_client.pipeline() as pipeline:
            for number in range(1, 4):
                pipeline.xadd(key, {"sequence": before + number}, id=f"9999999999999-{number}")
            pipeline.xdel(key, "9999999999999-2")
            pipeline.execute()
        stream.wait_for_events(before + 2)
        assert stream.sequences[-2:] == [before + 1, before + 3]
        assert len([told for told in stream.controls if told.event == "gateway.gap"]) == 1


def test_an_entry_that_was_deleted_before_anybody_read_it_is_told_and_lets_the_run_be_lost(
    gateway, redis_client, store, run_id
):
    store.add(run_id, "llm", "stream", lease_seconds=2)
    key = f"run:{run_id}:events"
    with Stream(url(gateway, run_id)) as stream:
        stream.wait_for_control("caught_up")
        with redis_client.pipeline() as pipeline:
            pipeline.xadd(key, {"sequence": 2}, id="9999999999999-1")
            pipeline.xdel(key, "9999999999999-1")
            pipeline.execute()
        stream.wait_for_control("gap")
        stream.wait_for_end(30)
        assert stream.sequences == [1, 3]


def rebuild_without_its_end(client: redis.Redis, run_id: str, more: int) -> None:
    """What a promoted replica makes of a log: its last entry is gone, and others follow."""
    key = f"run:{run_id}:events"
    entries = client.xrange(key)
    time.sleep(0.002)  # no promotion comes so soon that the lost entry's id is given again
    with client.pipeline() as pipeline:
        pipeline.delete(key)
        for entry_id, fields in entries[:-1]:
            pipeline.xadd(key, fields, id=entry_id)
        for number in range(more):
            pipeline.xadd(key, {"sequence": len(entries) + number, "event_action": "new"})
        pipeline.execute()


def test_a_cursor_whose_event_the_log_has_lost_is_told(gateway, redis_client, store, run_id):
    ids = [store.add(run_id, "llm", "stream", number) for number in range(3)]
    rebuild_without_its_end(redis_client, run_id, 2)
    with Stream(url(gateway, run_id, f"last_event_id={ids[-1]}")) as stream:
        assert stream.wait_for_control("reset").json["data"]["requested"] == ids[-1]
        stream.wait_for_control("caught_up")
        assert stream.sequences == [1, 2, 3, 4]


@pytest.mark.parametrize("more", [1, 2, 600])
def test_a_live_follower_of_a_log_that_lost_its_end_is_told(
    gateway, redis_client, store, run_id, more
):
    ids = [store.add(run_id, "llm", "stream", number) for number in range(3)]
    with Stream(url(gateway, run_id)) as stream:
        stream.wait_for_control("caught_up")
        rebuild_without_its_end(redis_client, run_id, more)
        assert stream.wait_for_control("reset").json["data"]["requested"] == ids[-1]
        stream.wait_for_events(3 + 2 + more)
        assert stream.sequences == [1, 2, 3, *range(1, 3 + more)]


def test_a_log_that_expires_while_it_is_followed_is_told_and_its_successor_followed(
    gateway, redis_client, store, run_id
):
    store.add(run_id, "llm", "stream", "before")
    with Stream(f"{gateway.url}/runs/{run_id}/events/stream") as stream:
        stream.wait_for_events(1)
        stream.wait_for_control("caught_up")
        redis_client.pexpire(f"run:{run_id}:events", 50)
        told = stream.wait_for_control("reset").json["data"]
        assert (told["earliest"], told["latest"]) == (None, None)
        store.add(run_id, "llm", "stream", "after")
        assert stream.wait_for_events(2)[-1].json["data"] == "after"


def test_a_key_that_is_no_log_any_more_is_told_and_what_follows_it_is_followed(
    gateway, redis_client, store, run_id
):
    key = f"run:{run_id}:events"
    store.add(run_id, "llm", "stream", "before")
    with Stream(f"{gateway.url}/runs/{run_id}/events/stream") as stream:
        stream.wait_for_control("caught_up")
        redis_client.set(key, "something else")
        told = stream.wait_for_control("reset").json["data"]
        assert (told["earliest"], told["latest"]) == (None, None)
        redis_client.delete(key)
        store.add(run_id, "llm", "stream", "after")
        assert stream.wait_for_events(2)[-1].json["data"] == "after"
        assert len(stream.controls) == 2
