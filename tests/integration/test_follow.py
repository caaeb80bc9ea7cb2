"""Following runs through a real gateway: history, live events, control events, resuming."""

import json
from itertools import pairwise

import pytest
import requests

from tests.clients import Stream
from tests.servers import ROOT, GatewayServer, wait_until

PROGRAMS = ROOT / "tests" / "programs"


def stream_url(gateway: GatewayServer, run_id: str, query: str = "") -> str:
    return f"{gateway.url}/runs/{run_id}/events/stream?{query}"


def test_history_comes_first_then_caught_up_then_live_events(gateway, store, run_id):
    for number in range(3):
        store.add(run_id, "llm", "stream", {"n": number})
    with Stream(stream_url(gateway, run_id)) as stream:
        caught_up = stream.wait_for_control("caught_up")
        assert stream.sequences == [1, 2, 3]
        store.add(run_id, "llm", "stream", {"n": 3})
        stream.wait_for_events(4)
    assert [message.event for message in stream.messages] == [
        "llm.stream", "llm.stream", "llm.stream", "gateway.caught_up", "llm.stream",
    ]  # fmt: skip
    assert caught_up.last_event_id == stream.events[2].json["id"]
    assert 2000 <= stream.retry <= 4000


def test_the_headers_keep_proxies_from_buffering(gateway, run_id):
    with Stream(stream_url(gateway, run_id)) as stream:
        headers = stream.response.headers
    assert headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert headers["Cache-Control"] == "no-store, no-transform"
    assert headers["X-Accel-Buffering"] == "no"


def test_a_stream_ends_with_its_run_and_a_reconnect_gets_204(gateway, store, run_id):
    store.add(run_id, "lifecycle", "started")
    with Stream(stream_url(gateway, run_id)) as stream:
        stream.wait_for_control("caught_up")
        store.add(run_id, "lifecycle", "completed")
        stream.wait_for_end()
    assert [message.event for message in stream.events] == [
        "lifecycle.started",
        "lifecycle.completed",
    ]
    header = {"Last-Event-ID": stream.last_event_id}
    assert requests.get(stream_url(gateway, run_id), headers=header).status_code == 204
    assert requests.get(stream_url(gateway, run_id, "last_event_id=latest")).status_code == 204
    assert requests.get(stream_url(gateway, run_id, "tail=0")).status_code == 204


def test_a_reopened_run_goes_on_after_its_first_end(gateway, store, run_id):
    for action in ("started", "completed", "started"):
        store.add(run_id, "lifecycle", action)
    with Stream(stream_url(gateway, run_id)) as stream:
        stream.wait_for_control("caught_up")
        store.add(run_id, "llm", "stream")
        stream.wait_for_events(4)
        assert not stream.ended
        store.add(run_id, "lifecycle", "failed")
        stream.wait_for_end()
    assert stream.sequences == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("way", ["header", "last_event_id", "lastEventId"])
def test_a_cursor_resumes_after_its_event(gateway, store, run_id, way):
    ids = [store.add(run_id, "llm", "stream", number) for number in range(5)]
    headers = {"Last-Event-ID": ids[2]} if way == "header" else {}
    query = "" if way == "header" else f"{way}={ids[2]}"
    with Stream(stream_url(gateway, run_id, query), headers) as stream:
        stream.wait_for_control("caught_up")
    assert [message.json["id"] for message in stream.events] == ids[3:]


def test_the_header_overrides_the_query(gateway, store, run_id):
    ids = [store.add(run_id, "llm", "stream", number) for number in range(3)]
    url = stream_url(gateway, run_id, f"last_event_id={ids[0]}")
    with Stream(url, {"Last-Event-ID": ids[1]}) as stream:
        stream.wait_for_control("caught_up")
    assert [message.json["id"] for message in stream.events] == ids[2:]


@pytest.mark.parametrize(("tail", "expected"), [(0, []), (2, [4, 5]), (5, [1, 2, 3, 4, 5])])
def test_tail_starts_a_number_of_events_before_the_end(gateway, store, run_id, tail, expected):
    for number in range(5):
        store.add(run_id, "llm", "stream", number)
    with Stream(stream_url(gateway, run_id, f"tail={tail}")) as stream:
        data = stream.wait_for_control("caught_up").json["data"]
    assert stream.sequences == expected
    assert data["requested"] == f"tail={tail}"


def test_latest_on_an_empty_log_resumes_from_the_beginning(gateway, store, run_id):
    with Stream(stream_url(gateway, run_id, "last_event_id=latest")) as stream:
        assert stream.wait_for_control("caught_up").last_event_id == "0-0"
    store.add(run_id, "lifecycle", "started")
    with Stream(stream_url(gateway, run_id), {"Last-Event-ID": "0-0"}) as stream:
        stream.wait_for_control("caught_up")
    assert stream.sequences == [1]
    assert [control.event for control in stream.controls] == ["gateway.caught_up"]


def test_a_filter_passes_matching_events_and_every_terminal_event(gateway, store, run_id):
    with Stream(stream_url(gateway, run_id, "category=llm&category=tool&action=stream")) as stream:
        stream.wait_for_control("caught_up")
        for category, action in [
            ("llm", "stream"), ("llm", "done"), ("tool", "stream"), ("step", "stream"),
        ]:  # fmt: skip
            store.add(run_id, category, action)
        last = store.add(run_id, "lifecycle", "cancelled")
        stream.wait_for_end()
    assert [message.event for message in stream.events] == [
        "llm.stream", "tool.stream", "lifecycle.cancelled",
    ]  # fmt: skip
    assert stream.last_event_id == last


def test_the_cursor_of_a_filtered_follower_moves_though_it_gets_no_event(
    start_gateway, store, redis_client, run_id
):
    gateway = start_gateway(HEARTBEAT_SECONDS="1")
    store.add(run_id, "tool", "call")
    with Stream(stream_url(gateway, run_id, "category=tool")) as stream:
        stream.wait_for_control("caught_up")
        last = [store.add(run_id, "llm", "stream") for _ in range(20)][-1]
        wait_until(lambda: stream.last_event_id == last, "the progress arrives")
        progress = stream.controls[-1]
        # Then heartbeats are comments again.
        beats = len(stream.comments)
        wait_until(lambda: len(stream.comments) > beats + 1, "two heartbeats come")
    assert (progress.event, progress.json["data"]) == ("gateway.progress", {"cursor": last})
    assert stream.controls[-1] is progress
    # The log loses everything before that, and the follower comes back.
    store.add(run_id, "tool", "call")
    redis_client.xtrim(f"run:{run_id}:events", maxlen=2, approximate=False)
    header = {"Last-Event-ID": stream.last_event_id}
    with Stream(stream_url(gateway, run_id, "category=tool"), header) as stream:
        stream.wait_for_control("caught_up")
    assert [message.event for message in stream.messages] == ["tool.call", "gateway.caught_up"]


@pytest.mark.parametrize("accept", ["text/event-stream", "application/x-ndjson"])
def test_every_thousandth_event_that_a_filter_drops_moves_the_cursor(
    gateway, store, run_id, accept
):
    events = [{"event_category": "llm", "event_action": "stream"}] * 600
    url = stream_url(gateway, run_id, "category=tool")
    with requests.get(url, headers={"Accept": accept}, stream=True, timeout=20) as answer:
        lines = answer.iter_lines()
        assert any(b"caught_up" in line for line in lines)
        ids = [event_id for _ in range(4) for event_id in store.add_many(run_id, events)]
        store.add(run_id, "lifecycle", "completed")
        rest = [line for line in lines if line]
    cursors = [
        json.loads(line[line.index(b"{") :])["data"]["cursor"]
        for line in rest
        if b'"action":"progress"' in line
    ]
    if accept == "text/event-stream":
        assert [line[4:].decode() for line in rest if line.startswith(b"id: ")][:-1] == cursors
    numbers = [ids.index(cursor) + 1 for cursor in cursors]
    assert numbers
    assert all(now - before >= 1000 for before, now in pairwise([0, *numbers]))


def test_typed_false_leaves_out_the_names_of_all_events(gateway, store, run_id):
    """`onmessage` of a browser then sees gaps and resets too."""
    store.add(run_id, "lifecycle", "started")
    with Stream(stream_url(gateway, run_id, "typed=false")) as stream:
        wait_until(lambda: len(stream.messages) == 2, "it has caught up")
        store.add(run_id, "llm", "stream")
        wait_until(lambda: len(stream.messages) == 3, "the event arrives")
        store.delete(run_id)
        store.add(run_id, "llm", "stream")
        wait_until(lambda: len(stream.messages) == 5, "the reset and the new event arrive")
    assert {message.event for message in stream.messages} == {"message"}
    names = ["{category}.{action}".format(**message.json["event"]) for message in stream.messages]
    assert names == [
        "lifecycle.started", "gateway.caught_up", "llm.stream", "gateway.reset", "llm.stream",
    ]  # fmt: skip


def test_json_lines_carry_the_same_stream(gateway, store, run_id):
    store.add(run_id, "lifecycle", "started", "a\nb\u2028c")
    store.add(run_id, "lifecycle", "completed")
    headers = {"Accept": "application/x-ndjson"}
    answer = requests.get(stream_url(gateway, run_id), headers=headers)
    assert answer.headers["Content-Type"] == "application/x-ndjson; charset=utf-8"
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [f"{line['event']['category']}.{line['event']['action']}" for line in lines] == [
        "gateway.heartbeat", "lifecycle.started", "lifecycle.completed", "gateway.caught_up",
    ]  # fmt: skip
    assert lines[1]["data"] == "a\nb\u2028c"


def test_a_cursor_below_a_trimmed_log_gets_a_gap(gateway, store, redis_client, run_id):
    ids = [store.add(run_id, "llm", "stream", number) for number in range(10)]
    redis_client.xtrim(f"run:{run_id}:events", maxlen=4, approximate=False)
    with Stream(stream_url(gateway, run_id), {"Last-Event-ID": ids[1]}) as stream:
        stream.wait_for_control("caught_up")
    gap = stream.messages[0]
    assert gap.event == "gateway.gap"
    assert gap.last_event_id == ""
    assert gap.json["data"] == {"requested": ids[1], "earliest": ids[6], "latest": ids[9]}
    assert stream.sequences == [7, 8, 9, 10]
    with Stream(stream_url(gateway, run_id)) as stream:
        stream.wait_for_control("caught_up")
    assert [control.event for control in stream.controls] == ["gateway.caught_up"]


@pytest.mark.parametrize("cursor", ["99999999999999-0", "5-0"])
def test_a_cursor_of_another_log_gets_a_reset(gateway, store, run_id, cursor):
    store.add(run_id, "llm", "stream")
    with Stream(stream_url(gateway, run_id), {"Last-Event-ID": cursor}) as stream:
        stream.wait_for_control("caught_up")
    assert [message.event for message in stream.messages] == [
        "gateway.reset", "llm.stream", "gateway.caught_up",
    ]  # fmt: skip
    assert stream.messages[0].json["data"]["requested"] == cursor


def test_followers_get_a_reset_when_their_log_is_deleted_and_started_again(gateway, store, run_id):
    old = store.add(run_id, "llm", "stream", "old")
    with Stream(stream_url(gateway, run_id)) as stream:
        stream.wait_for_control("caught_up")
        assert requests.delete(f"{gateway.url}/runs/{run_id}/events").status_code == 204
        store.add(run_id, "llm", "stream", "new")
        stream.wait_for_events(2)
    assert [message.event for message in stream.messages] == [
        "llm.stream", "gateway.caught_up", "gateway.reset", "llm.stream",
    ]  # fmt: skip
    assert stream.messages[2].json["data"]["requested"] == old
    assert stream.events[1].json["data"] == "new"


def test_followers_get_a_reset_when_their_log_is_deleted(gateway, store, run_id):
    store.add(run_id, "llm", "stream")
    with Stream(stream_url(gateway, run_id)) as stream:
        stream.wait_for_control("caught_up")
        store.delete(run_id)
        data = stream.wait_for_control("reset").json["data"]
        assert (data["earliest"], data["latest"]) == (None, None)
        store.add(run_id, "llm", "stream")
        stream.wait_for_events(2)


def test_events_trimmed_before_they_are_read_are_a_gap(gateway, redis_client, run_id):
    key = f"run:{run_id}:events"
    burst = (PROGRAMS / "trimmed_burst.lua").read_text()
    redis_client.eval(burst, 1, key, 5, 0)
    with Stream(stream_url(gateway, run_id)) as stream:
        stream.wait_for_control("caught_up")
        redis_client.eval(burst, 1, key, 1000, 5)
        stream.wait_for_control("gap")
        stream.wait_for_events(15)
    assert stream.sequences == [1, 2, 3, 4, 5, *range(996, 1006)]


def test_entries_of_other_writers_are_delivered(gateway, redis_client, run_id):
    key = f"run:{run_id}:events"
    redis_client.xadd(key, {"anything": "at all"})
    redis_client.xadd(key, {"event_category": b"\xff\xfe", "event_action": "x y", "data": "{bro"})
    with Stream(stream_url(gateway, run_id)) as stream:
        stream.wait_for_control("caught_up")
        redis_client.xadd(key, {"event_category": "llm", "event_action": "a", "data": b'"\xff"'})
        redis_client.xadd(key, {"event_category": "gateway", "event_action": "reset"})
        redis_client.xadd(key, {"data": "[" * 2000})
        stream.wait_for_events(5)
    first, second, third, fourth, fifth = (message.json for message in stream.events)
    assert (first["data"], first["sequence"], first["timestamp"]) == (None, None, None)
    assert first["event"] == {"category": None, "action": None}
    assert second["data"] == "{bro"
    assert third["data"] == '"\ufffd"'
    assert fourth["event"] == {"category": "gateway", "action": "reset"}
    assert fifth["data"] == "[" * 2000
    assert [message.event for message in stream.events] == [
        "message", "message", "llm.a", "message", "message",
    ]  # fmt: skip


def test_a_key_of_the_wrong_type_stops_no_other_run(gateway, store, redis_client, run_id):
    store.add(run_id, "llm", "stream")
    other = f"{run_id}-other"
    store.add(other, "llm", "stream")
    with (
        Stream(stream_url(gateway, run_id)) as broken,
        Stream(stream_url(gateway, other)) as whole,
    ):
        broken.wait_for_control("caught_up")
        whole.wait_for_control("caught_up")
        redis_client.delete(f"run:{run_id}:events")
        redis_client.set(f"run:{run_id}:events", "a string")
        for _ in range(3):
            store.add(other, "llm", "stream")
        whole.wait_for_events(4)
        assert not broken.ended
        redis_client.delete(f"run:{run_id}:events")
        store.add(run_id, "llm", "stream")
        broken.wait_for_events(2)
    assert requests.get(f"{gateway.url}/runs/{other}").json()["length"] == 4
