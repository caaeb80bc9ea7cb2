"""Several runs on one stream, through a real gateway: parked, cut off, drained, refused."""

import contextlib
import json
import uuid
from collections import defaultdict

import pytest
import requests

from app.client import Client
from app.streaming.errors import InvalidInput, NotALog
from app.streaming.merged.cursor import MergedCursor, RunList
from tests.clients import Stream
from tests.integration.client.proxy import Proxy
from tests.servers import wait_until


@pytest.fixture
def run_ids(run_id) -> list[str]:
    return [f"{run_id}-{number}" for number in range(3)]


def path(run_ids: list[str], query: str = "") -> str:
    return "/events/stream?" + "&".join(f"run={run_id}" for run_id in run_ids) + query


def sequences(stream: Stream) -> dict[str, list[int]]:
    """Return the sequences of each run's events, also of those in batches."""
    seen = defaultdict(list)
    for message in list(stream.messages):
        document = message.json
        for event in document if isinstance(document, list) else [document]:
            if event["id"] is not None:
                seen[event["run_id"]].append(event["sequence"])
    return dict(seen)


def ids_of(stream: Stream, run_ids: list[str]) -> list[str]:
    """Return where the client of a stream is in each run, as its cursor says."""
    cursor = MergedCursor.parse(stream.last_event_id, RunList.of(run_ids), "id")
    return [str(each) for each in cursor.ids]


def wait_for(stream: Stream, expected: dict[str, list[int]]) -> None:
    wait_until(lambda: sequences(stream) == expected, f"{expected} come, not {stream.messages}")


def wait_until_caught_up(stream: Stream, run_ids: list[str]) -> None:
    stream.wait_for_control("caught_up", len(run_ids))


def test_history_comes_first_then_live_events_of_every_run(gateway, store, run_ids):
    for run_id in run_ids:
        store.add(run_id, "llm", "stream")
    with Stream(gateway.url + path(run_ids)) as stream:
        wait_until_caught_up(stream, run_ids)
        for _ in range(3):
            for run_id in run_ids:
                store.add(run_id, "llm", "stream")
        wait_for(stream, {run_id: [1, 2, 3, 4] for run_id in run_ids})
        for run_id in run_ids:
            store.add(run_id, "lifecycle", "completed")
        stream.wait_for_end()
    assert sequences(stream) == {run_id: [1, 2, 3, 4, 5] for run_id in run_ids}
    assert [message.event for message in stream.messages[-3:]] == ["lifecycle.completed"] * 3
    headers = {"Last-Event-ID": stream.last_event_id}
    assert requests.get(gateway.url + path(run_ids), headers=headers).status_code == 204


def test_a_viewer_resumes_on_another_gateway(gateway, start_gateway, store, run_ids):
    other = start_gateway()
    for number in range(6):
        store.add(run_ids[number % 3], "llm", "stream")
    with Stream(gateway.url + path(run_ids)) as stream:
        wait_until_caught_up(stream, run_ids)
    for number in range(6):
        store.add(run_ids[number % 3], "llm", "stream")
    for cursor in {message.last_event_id for message in stream.messages}:
        got = [each for each in stream.messages if each.last_event_id == cursor][-1]
        before = stream.messages[: stream.messages.index(got) + 1]
        with Stream(other.url + path(run_ids), {"Last-Event-ID": cursor}) as rest:
            wait_until_caught_up(rest, run_ids)
            events = [each.json for each in before + rest.messages if each.json["id"]]
        for run_id in run_ids:
            assert [each["sequence"] for each in events if each["run_id"] == run_id] == [1, 2, 3, 4]


def test_many_viewers_of_the_same_runs_get_the_same_bytes(gateway, store, run_ids):
    """Also those that come while events are appended, and whose streams have other formats."""
    queries = ["", "", "&category=tool", "&typed=false", "&category=tool&typed=false"]
    streams = [Stream(gateway.url + path(run_ids, query)) for query in queries * 3]
    for _ in range(5):
        streams.append(Stream(gateway.url + path(run_ids)))
        for run_id in run_ids:
            store.add(run_id, "llm", "stream")
            store.add(run_id, "tool", "call")
    for run_id in run_ids:
        store.add(run_id, "lifecycle", "completed")
    for stream in streams:
        stream.wait_for_end()
        odd = [2, 4, 6, 8, 10, 11]
        expected = odd if "category" in stream.url else list(range(1, 12))
        assert sequences(stream) == dict.fromkeys(run_ids, expected)
        assert ("typed=false" in stream.url) == all(
            each.event == "message" for each in stream.messages
        )


def test_a_thousand_runs_come_over_one_post(gateway, store, run_id):
    names = [f"{run_id}-{number}" for number in range(1000)]
    for name in names[:20]:
        store.add(name, "llm", "stream")
    client = Client(gateway.url)
    followed = client.follow_many(dict.fromkeys(names, "earliest"))
    caught_up, seen = 0, []
    for event in followed:
        caught_up += event.action == "caught_up"
        if event.id:
            seen.append((event.run_id, event.sequence))
        if caught_up == 1000:
            break
    assert sorted(seen) == sorted((name, 1) for name in names[:20])
    for name in names[500:510]:
        store.add(name, "llm", "stream")
    live = [next(followed).run_id for _ in range(10)]
    assert sorted(live) == sorted(names[500:510])
    followed.close()


def test_a_deleted_log_is_a_reset_of_its_run_alone(gateway, store, run_ids):
    for run_id in run_ids:
        store.add(run_id, "llm", "stream")
    with Stream(gateway.url + path(run_ids)) as stream:
        wait_until_caught_up(stream, run_ids)
        requests.delete(f"{gateway.url}/runs/{run_ids[1]}/events")
        reset = stream.wait_for_control("reset")
        store.add(run_ids[1], "llm", "stream")
        wait_for(stream, {run_ids[0]: [1], run_ids[1]: [1, 1], run_ids[2]: [1]})
    assert reset.json["run_id"] == run_ids[1]
    with Stream(gateway.url + path(run_ids), {"Last-Event-ID": reset.last_event_id}) as stream:
        wait_until_caught_up(stream, run_ids)
    assert sequences(stream) == {run_ids[1]: [1]}
    assert {each.json["event"]["action"] for each in stream.controls} == {"caught_up"}


def test_a_parked_viewer_whose_filter_drops_everything_gets_progress(
    start_gateway, store, redis_client, run_ids
):
    gateway = start_gateway(HEARTBEAT_SECONDS="1")
    with Stream(gateway.url + path(run_ids, "&category=tool")) as stream:
        wait_until_caught_up(stream, run_ids)
        last = [[store.add(run_id, "llm", "stream") for _ in range(20)][-1] for run_id in run_ids]
        wait_until(lambda: ids_of(stream, run_ids) == last, "the cursor is behind all events")
        beats = len(stream.comments)
        wait_until(lambda: len(stream.comments) > beats, "heartbeats are comments again")
    progress = stream.controls[-1]
    assert progress.json["run_id"] is None
    assert progress.json["data"] == {"cursor": progress.last_event_id}
    for run_id in run_ids:
        store.add(run_id, "tool", "call")
        redis_client.xtrim(f"run:{run_id}:events", maxlen=2, approximate=False)
    query = path(run_ids, "&category=tool")
    with Stream(gateway.url + query, {"Last-Event-ID": stream.last_event_id}) as stream:
        wait_until_caught_up(stream, run_ids)
    assert sequences(stream) == {run_id: [21] for run_id in run_ids}
    assert {each.json["event"]["action"] for each in stream.controls} == {"caught_up"}


@pytest.mark.parametrize("count", [3, 17])
def test_a_stopping_worker_ends_the_stream_and_nothing_is_lost(start_gateway, store, run_id, count):
    run_ids = [f"{run_id}-{number}" for number in range(count)]
    gateway = start_gateway(DRAIN_SECONDS="1")
    client = Client(gateway.url)
    seen: dict[str, list[int]] = defaultdict(list)
    rounds = 0
    for event in client.follow_many(dict.fromkeys(run_ids, "earliest")):
        if event.id:
            seen[event.run_id].append(event.sequence)
        if event.action == "caught_up" and event.run_id == run_ids[-1]:
            for each in run_ids:
                store.add(each, "llm", "stream")
            rounds += 1
            if rounds < 3:
                gateway.stop()
                gateway.start()
            else:
                for each in run_ids:
                    store.add(each, "lifecycle", "completed")
    assert dict(seen) == {each: [1, 2, 3, 4] for each in run_ids}


def test_a_client_whose_connection_is_cut_anywhere_resumes(start_gateway, store, run_ids):
    gateway = start_gateway(RETRY_MS="100")
    for number in range(40):
        store.add(run_ids[number % 3], "llm", "stream", "x" * number * 20)
    for run_id in run_ids:
        store.add(run_id, "lifecycle", "completed")
    totals = {run_id: store.state(run_id).last_sequence for run_id in run_ids}
    with contextlib.closing(Proxy(gateway.port)) as proxy:
        seen: dict[str, list[int]] = defaultdict(list)
        for number, event in enumerate(
            Client(proxy.url).follow_many(dict.fromkeys(run_ids, "earliest"))
        ):
            if event.id:
                seen[event.run_id].append(event.sequence)
            if number % 7 == 6:
                proxy.cut()
    assert dict(seen) == {run_id: list(range(1, totals[run_id] + 1)) for run_id in run_ids}


def test_follow_many_begins_where_it_is_told(gateway, store, run_ids):
    first, second, third = run_ids
    ids = [store.add(first, "llm", "stream") for _ in range(3)]
    for run_id in run_ids:
        store.add(run_id, "lifecycle", "completed")
    followed = Client(gateway.url).follow_many({first: ids[1], second: "latest", third: "earliest"})
    seen = [(event.run_id, event.sequence) for event in followed if event.id]
    assert seen == [(first, 3), (first, 4), (third, 1)]


def test_follow_many_refuses_what_is_wrong_before_it_connects():
    client = Client("http://127.0.0.1:9")
    for runs in ({}, {"a/b": "latest"}, {"a": "nonsense"}, {1: "latest", "1": "latest"},
                 {str(number): "latest" for number in range(1001)}):  # fmt: skip
        with pytest.raises(InvalidInput):
            client.follow_many(runs)


def test_follow_many_says_which_run_is_no_log(gateway, redis_client, run_ids):
    redis_client.set(f"run:{run_ids[1]}:events", "text")
    with pytest.raises(NotALog, match=run_ids[1]):
        list(Client(gateway.url).follow_many(dict.fromkeys(run_ids, "earliest")))
    redis_client.delete(f"run:{run_ids[1]}:events")


def test_a_viewer_that_reads_nothing_is_disconnected_and_holds_up_nobody(
    impatient_gateway, store, run_ids
):
    slow = requests.get(impatient_gateway.url + path(run_ids), stream=True)
    with Stream(impatient_gateway.url + path(run_ids)) as quick:
        wait_until_caught_up(quick, run_ids)
        for number in range(60):
            store.add(run_ids[number % 3], "llm", "stream", "x" * 200_000)
        wait_for(quick, {run_id: list(range(1, 21)) for run_id in run_ids})
    log = impatient_gateway.log
    wait_until(lambda: "reason=stalled" in log.read_text(), "the slow one is disconnected")
    slow.close()


def test_the_lines_of_many_runs_come_in_batches(gateway, store, run_id):
    names = [f"{run_id}-{number}" for number in range(17)]
    for name in names:
        store.add(name, "lifecycle", "completed")
    response = requests.post(
        f"{gateway.url}/events/stream",
        json={"runs": dict.fromkeys(names, "earliest")},
        headers={"Accept": "application/x-ndjson"},
    )
    lines = [json.loads(line) for line in response.text.splitlines()]
    batches = [line for line in lines if line["event"]["action"] == "batch"]
    ended = [each["run_id"] for batch in batches for each in batch["data"] if each["id"]]
    assert sorted(ended) == sorted(names)
    assert [line["event"]["action"] for line in lines] == ["heartbeat"] + ["batch"] * len(batches)


def test_a_hundred_runs_with_names_and_cursors_of_usual_length_fit_into_a_url(gateway):
    runs = [f"{uuid.uuid4()}@1795703286342-{number}" for number in range(100)]
    response = requests.head(gateway.url + path(runs))
    assert response.status_code == 200, response.text


def test_runs_that_nobody_has_place_for_are_refused_before_they_are_read(
    start_gateway, redis_client, run_id
):
    gateway = start_gateway(MAX_STREAMS="20")

    def follow(first: int) -> requests.Response:
        names = [f"{run_id}-{number}" for number in range(first, first + 15)]
        body = {"runs": dict.fromkeys(names, "earliest")}
        return requests.post(f"{gateway.url}/events/stream", json=body, stream=True)

    def located() -> int:
        calls = redis_client.info("commandstats")["cmdstat_evalsha"]["calls"]
        return int(calls)

    with follow(0) as first, follow(5) as same:  # 20 runs together
        assert first.status_code == same.status_code == 200
        before = located()
        refused = follow(6)
        assert refused.status_code == 503
        assert located() - before < 15
    wait_until(lambda: follow(100).status_code == 200, "there is place again")
