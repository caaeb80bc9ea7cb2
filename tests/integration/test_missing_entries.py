"""Followers of logs that lack entries: deleted ones, or those that a failover has lost."""

import time

import pytest
import redis
import requests

from tests.clients import Stream
from tests.servers import GatewayServer

REOPENING = {"event_category": "lifecycle", "event_action": "started"}


def stream_url(gateway: GatewayServer, run_id: str, query: str = "") -> str:
    return f"{gateway.url}/runs/{run_id}/events/stream?{query}"


def told(stream: Stream) -> list[int | str]:
    """The sequences of the events and the names of the control events, in order."""
    return [
        message.json["sequence"] or message.event.removeprefix("gateway.")
        for message in stream.messages
    ]


def test_a_cursor_before_a_deleted_entry_gets_a_gap_and_the_rest(
    gateway, redis_client, store, run_id
):
    ids = [store.add(run_id, "llm", "stream", number) for number in range(5)]
    redis_client.xdel(f"run:{run_id}:events", ids[2])
    with Stream(stream_url(gateway, run_id, f"last_event_id={ids[0]}")) as stream:
        gap = stream.wait_for_control("gap").json["data"]
        assert gap == {"requested": ids[1], "earliest": ids[0], "latest": ids[4]}
        stream.wait_for_control("caught_up")
        assert told(stream) == [2, "gap", 4, 5, "caught_up"]
    for passed in (ids[2], ids[3]):
        with Stream(stream_url(gateway, run_id, f"last_event_id={passed}")) as stream:
            caught_up = stream.wait_for_control("caught_up")
            assert len(stream.controls) == 1
            assert caught_up.last_event_id == ids[4]


def test_a_cursor_gets_a_gap_exactly_where_entries_are_missing(
    gateway, redis_client, store, run_id
):
    ids = [store.add(run_id, "llm", "stream", number) for number in range(9)]
    redis_client.xdel(f"run:{run_id}:events", ids[3], ids[4], ids[7])
    for _ in range(2):  # from the log, and from memory
        with Stream(stream_url(gateway, run_id), {"Last-Event-ID": ids[0]}) as stream:
            stream.wait_for_control("caught_up")
            assert told(stream) == [2, 3, "gap", 6, 7, "gap", 9, "caught_up"]
            requested = [each.json["data"]["requested"] for each in stream.controls[:2]]
            assert requested == [ids[2], ids[6]]


@pytest.mark.parametrize("query", ["", "last_event_id=earliest", "tail=6"])
def test_a_newcomer_is_not_told_of_entries_deleted_before_it_came(
    gateway, redis_client, store, run_id, query
):
    ids = [store.add(run_id, "llm", "stream", number) for number in range(9)]
    redis_client.xdel(f"run:{run_id}:events", ids[0], ids[3], ids[4])
    with Stream(stream_url(gateway, run_id, query)) as stream:
        stream.wait_for_control("caught_up")
        assert told(stream) == [2, 3, 6, 7, 8, 9, "caught_up"]


def test_an_entry_that_is_deleted_while_others_follow_is_not_served_to_who_comes_later(
    gateway, redis_client, store, run_id
):
    """Also one that lies before an entry that was deleted earlier."""
    with Stream(stream_url(gateway, run_id)) as early:
        early.wait_for_control("caught_up")
        ids = [store.add(run_id, "llm", "stream", number) for number in range(6)]
        early.wait_for_events(6)
        for deleted, expected in [(4, [2, 3, 4, "gap", 6]), (2, [2, "gap", 4, "gap", 6])]:
            redis_client.xdel(f"run:{run_id}:events", ids[deleted])
            with Stream(stream_url(gateway, run_id), {"Last-Event-ID": ids[0]}) as late:
                late.wait_for_control("caught_up")
                assert told(late) == [*expected, "caught_up"]
        assert told(early) == ["caught_up", 1, 2, 3, 4, 5, 6]


def test_a_deleted_last_entry_is_reported_once(gateway, redis_client, store, run_id):
    ids = [store.add(run_id, "llm", "stream", number) for number in range(3)]
    redis_client.xdel(f"run:{run_id}:events", ids[2])
    with Stream(stream_url(gateway, run_id, f"last_event_id={ids[1]}")) as stream:
        stream.wait_for_control("gap")
        reached = stream.wait_for_control("caught_up").last_event_id
    with Stream(stream_url(gateway, run_id, f"last_event_id={reached}")) as stream:
        stream.wait_for_control("caught_up")
        assert len(stream.controls) == 1


@pytest.mark.parametrize("fields", [{"data": "1"}, REOPENING], ids=["by others", "started"])
def test_a_deleted_reopening_of_an_ended_run_is_a_gap_and_then_204(
    gateway, redis_client, store, run_id, fields
):
    key = f"run:{run_id}:events"
    end = store.add(run_id, "lifecycle", "completed")
    redis_client.xdel(key, redis_client.xadd(key, fields))
    with Stream(stream_url(gateway, run_id), {"Last-Event-ID": end}) as stream:
        stream.wait_for_end()
    assert [message.event for message in stream.messages] == ["gateway.gap", "gateway.caught_up"]
    reached = {"Last-Event-ID": stream.last_event_id}
    assert requests.get(stream_url(gateway, run_id), headers=reached).status_code == 204


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
        assert told(stream).count("gap") == 1
        assert told(stream)[-1] == before + 3  # nobody knows which one is missing


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
