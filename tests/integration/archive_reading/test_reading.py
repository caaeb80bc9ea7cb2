"""A run of which Redis has less than the archive, as a gateway shows it."""

import json

import pytest
import requests

from app.streaming.event_id import EventId
from tests.archive.archiving import archive_log
from tests.archive.logs import append
from tests.servers import wait_until


@pytest.fixture(params=[0, 45], ids=["Redis has nothing", "Redis has the end"])
def ids(request, archived, run_id) -> list[str]:
    """The ids of a hundred archived events."""
    return archived(run_id, left=request.param)


@pytest.fixture
def get(archive_gateway, run_id):
    def get(path: str = "", **options) -> requests.Response:
        url = f"{archive_gateway.url}/runs/{run_id}{path}"
        return requests.get(url, timeout=20, **options)

    return get


def events_of(response: requests.Response) -> list[object]:
    """Return what a whole stream sent: sequences, and the names of control events."""
    assert response.status_code == 200
    seen = []
    for line in response.text.splitlines():
        if line.startswith("data: {"):
            event = json.loads(line.removeprefix("data: "))
            seen.append(event["sequence"] or event["event"]["action"])
    return seen


def test_the_run_is_shown_as_a_whole(get, ids):
    run = get().json()
    assert (run["state"], run["ended"]) == ("ended", True)
    assert (run["first_id"], run["last_id"]) == (ids[0], ids[-1])
    assert (run["length"], run["last_sequence"]) == (100, 100)
    assert run["last_event"]["event"] == {"category": "lifecycle", "action": "completed"}
    assert run["meta"] == {"n": 0}


def test_pages_and_lines_have_all_events(get, ids):
    for order in ("asc", "desc"):
        seen, query = [], {"limit": 33, "order": order}
        while True:
            page = get("/events", params=query).json()
            assert page["ended"]
            seen += [event["sequence"] for event in page["events"]]
            if page["next"] is None:
                break
            query["before" if order == "desc" else "after"] = page["next"]
        assert seen == list(range(1, 101))[:: -1 if order == "desc" else 1]
        lines = get("/events", params={"order": order, "download": "true"}).iter_lines()
        assert [json.loads(line)["sequence"] for line in lines] == seen


def test_a_stream_has_all_events_and_ends(get, ids):
    assert events_of(get("/events/stream")) == [*range(1, 101), "caught_up"]


@pytest.mark.parametrize("number", [1, 30, 54, 55, 56, 99])
def test_a_stream_goes_on_behind_any_event(get, ids, number):
    expected = [*range(number + 1, 101), "caught_up"]
    headers = {"Last-Event-ID": ids[number - 1]}
    assert events_of(get("/events/stream", headers=headers)) == expected
    for query in ({"from_sequence": number + 1}, {"tail": 100 - number}):
        assert events_of(get("/events/stream", params=query)) == expected


def test_nothing_follows_the_end(get, ids):
    for cursor in (ids[-1], "latest"):
        assert get("/events/stream", headers={"Last-Event-ID": cursor}).status_code == 204
    assert get("/events/stream", params={"tail": 0}).status_code == 204


def test_the_id_of_no_event_is_of_another_log(get, ids):
    beyond = EventId(EventId.parse(ids[-1]).ms + 1, 0)
    for cursor in (str(beyond), "1-0"):
        seen = events_of(get("/events/stream", headers={"Last-Event-ID": cursor}))
        assert seen == ["reset", *range(1, 101), "caught_up"]


def test_a_long_poll_gets_what_is_archived(get, ids):
    page = get("/events", params={"after": ids[97], "wait": 10}).json()
    assert [event["sequence"] for event in page["events"]] == [99, 100]
    page = get("/events", params={"after": ids[99], "wait": 10}).json()
    assert page == {"events": [], "next": None, "ended": True}


def test_several_runs_on_one_stream(archive_gateway, store, ids, run_id):
    other = f"{run_id}-other"
    append(store, other, 2)
    url = f"{archive_gateway.url}/events/stream"
    response = requests.get(url, params={"run": [f"{run_id}@{ids[49]}", other]}, timeout=20)
    sequences = [each for each in events_of(response) if isinstance(each, int)]
    assert sorted(sequences) == sorted([*range(51, 101), 1, 2, 3])


def test_a_request_to_a_run_that_has_ended_is_refused(archive_gateway, store, ids, run_id):
    url = f"{archive_gateway.url}/runs/{run_id}/requests"
    before = store.state(run_id).last_sequence
    assert requests.post(url, json={"action": "cancel"}, timeout=20).status_code == 409
    assert store.state(run_id).last_sequence == before


def test_a_deleted_run_is_gone_from_the_archive_too(archive_gateway, get, ids, archive, run_id):
    url = f"{archive_gateway.url}/runs/{run_id}/events"
    assert get().status_code == 200
    assert requests.delete(url, timeout=20).status_code == 204
    assert archive.find(run_id) is None
    assert get().status_code == 404
    assert get("/events").json()["events"] == []


def test_a_run_that_begins_again_is_another_log(archive_gateway, get, archived, run_id):
    ids = archived(run_id)
    url = f"{archive_gateway.url}/runs/{run_id}/events"
    event = {"event": {"category": "lifecycle", "action": "completed"}}
    assert requests.post(url, json=event, timeout=20).json()["sequence"] == 1
    assert events_of(get("/events/stream")) == [1, "caught_up"]
    cursor = {"Last-Event-ID": ids[-1]}
    assert events_of(get("/events/stream", headers=cursor)) == ["reset", 1, "caught_up"]


def test_a_damaged_part_is_a_gap_and_is_named(archive_gateway, get, archived, archive, run_id):
    archived(run_id)
    damaged = archive.find(run_id).parts[1].name
    archive.storage.put(damaged, b"no gzip")
    expected = [*range(1, 31), "gap", *range(61, 101), "caught_up"]
    assert events_of(get("/events/stream")) == expected
    page = get("/events", params={"limit": 100}).json()
    assert [event["sequence"] for event in page["events"]] == [
        each for each in expected if isinstance(each, int)
    ]
    assert damaged in archive_gateway.log.read_text()


def test_a_stream_follows_a_run_from_its_archive_to_its_live_end(
    archive_gateway, store, archived, redis_client, run_id
):
    """It was archived, and then went on."""
    append(store, run_id, 59)
    store.add(run_id, "lifecycle", "started")
    url = f"{archive_gateway.url}/runs/{run_id}/events/stream"
    with requests.get(url, stream=True, timeout=20) as response:
        lines = response.iter_lines(chunk_size=None)
        seen = []
        for line in lines:
            if line.startswith(b"data: {"):
                event = json.loads(line.removeprefix(b"data: "))
                seen.append(event["sequence"] or event["event"]["action"])
                if seen[-1] == "caught_up":
                    append(store, run_id, 1)
    assert seen == [*range(1, 62), "caught_up", 62, 63]


def test_the_worker_keeps_nothing_of_a_stream_that_is_over(archive_gateway, get, ids):
    assert len(events_of(get("/events/stream"))) == 101
    wait_until(lambda: archive_gateway.client_count() == 0, "no connection is left")


def test_a_run_that_has_not_ended_is_followed_from_the_archive_into_its_next_log(
    archive_gateway, get, store, archive, redis_client, run_id
):
    append(store, run_id, 5, ended=False)
    archive_log(archive, store, run_id, part_size=2)
    redis_client.delete(f"run:{run_id}:events")
    assert get().json()["state"] == "active"
    url = f"{archive_gateway.url}/runs/{run_id}"
    assert requests.post(f"{url}/requests", json={"action": "a"}, timeout=20).status_code == 404
    seen = []
    with requests.get(f"{url}/events/stream", stream=True, timeout=20) as response:
        for line in response.iter_lines(chunk_size=None):
            if line.startswith(b"data: {"):
                event = json.loads(line.removeprefix(b"data: "))
                seen.append(event["sequence"] or event["event"]["action"])
                if seen[-1] == "caught_up":
                    append(store, run_id, 1)
    assert seen == [1, 2, 3, 4, 5, "caught_up", "reset", 1, 2]
