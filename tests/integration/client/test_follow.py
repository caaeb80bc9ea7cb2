"""The client follows runs through a real gateway."""

import pytest

from app.client import Client
from app.streaming.errors import InvalidInput
from tests.integration.client.following import Following
from tests.servers import GatewayServer

EVENT = {"event_category": "llm", "event_action": "stream"}


def test_a_run_is_followed_from_its_history_to_its_end(client, run_id):
    client.add(run_id, "llm", "stream", 1)
    following = Following(client, run_id)
    following.wait_for_control("caught_up")
    client.add(run_id, "llm", "stream", 2)
    client.add(run_id, "lifecycle", "completed")
    following.wait_for(lambda: following.ended)
    assert [event for event in following.events if event.id] == client.get_events(run_id)


def test_following_an_ended_run_ends_at_once(client, run_id):
    ids = client.add_many(
        run_id, [EVENT, {"event_category": "lifecycle", "event_action": "failed"}]
    )
    assert [event.id for event in client.follow(run_id)] == [*ids, None]
    assert [event.id for event in client.follow(run_id, ids[0])] == [ids[1], None]
    assert [event.id for event in client.follow(run_id, tail=1)] == [ids[1], None]
    assert [event.id for event in client.follow(run_id, categories=["x"])] == [ids[1], None]
    assert list(client.follow(run_id, ids[1])) == []
    assert list(client.follow(run_id, "latest")) == []


def test_a_follower_neither_misses_nor_repeats_events_over_restarts(own_gateway, store, run_id):
    client = Client(own_gateway.url)
    following = Following(client, run_id)
    late = Following(client, run_id, "latest")
    late.wait_for_control("caught_up")
    for start in (0, 100, 200):
        for number in range(start, start + 100):
            store.add(run_id, "llm", "stream", number)
        own_gateway.stop()
        store.add(run_id, "tool", "called", "between")
        own_gateway.start()
    store.add(run_id, "lifecycle", "completed")
    for each in (following, late):
        each.wait_for(lambda each=each: each.ended)
        events = [event for event in each.events if event.id]
        assert [event.sequence for event in events] == list(range(1, 305))
    assert [event.data for event in following.events if event.category == "llm"] == [*range(300)]


def test_a_follower_resumes_after_its_connection_is_cut(proxy, own_gateway, store, run_id):
    proxy.port = own_gateway.port
    following = Following(Client(proxy.url), run_id)
    for number in range(5):
        store.add(run_id, "llm", "stream", number)
        following.wait_for_data(*range(number + 1))
        proxy.cut()
    store.add(run_id, "lifecycle", "completed")
    following.wait_for(lambda: following.ended)
    assert following.data == list(range(5))


def test_a_follower_waits_for_a_gateway_to_start(redis_server, store, tmp_path, run_id):
    gateway = GatewayServer(redis_server.url, tmp_path / "log")
    store.add(run_id, "lifecycle", "completed")
    following = Following(Client(gateway.url), run_id)
    gateway.start()
    try:
        following.wait_for(lambda: following.ended)
    finally:
        gateway.stop()


def test_a_cursor_of_another_log_gives_a_reset(client, run_id):
    client.add(run_id, "lifecycle", "completed", "short")
    events = list(client.follow(run_id, "99999999999999-0"))
    assert [event.action for event in events] == ["reset", "completed", "caught_up"]
    assert events[0].data["requested"] == "99999999999999-0"


def test_a_wrong_tail_is_refused(client, run_id):
    with pytest.raises(InvalidInput, match="tail"):
        list(client.follow(run_id, tail=-1))
