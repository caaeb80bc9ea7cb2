"""The stream's route with Flask's test client: the body as an iterable, refusals, 204."""

import json

import pytest
from flask.testing import FlaskClient

from app import create_app
from app.routes.reading import accept, stream
from app.routes.writing import json_body
from app.settings import Settings
from app.streaming.event_store import EventStore
from app.streaming.wire import frame

PATH = "/runs/1/events/stream"


def client_of(store: EventStore, **settings: object) -> FlaskClient:
    return create_app(Settings(**settings), event_store=store).test_client()


def test_an_ended_run_is_replayed_to_its_end(http, fake_store):
    for action in ("started", "completed"):
        fake_store.add(1, "lifecycle", action)
    response = http.get(PATH)
    assert response.status_code == 200
    names = [line for line in response.text.splitlines() if line.startswith("event: ")]
    assert names == [
        "event: lifecycle.started",
        "event: lifecycle.completed",
        "event: gateway.caught_up",
    ]


@pytest.mark.parametrize(
    "query",
    ["last_event_id=latest", "tail=0", "last_event_id={end}", "from_sequence=2", "from_sequence=9"],
)
def test_a_cursor_at_the_end_of_an_ended_run_is_204(http, fake_store, query):
    end = fake_store.add(1, "lifecycle", "completed")
    response = http.get(f"{PATH}?{query.format(end=end)}")
    assert (response.status_code, response.data) == (204, b"")


CURSORS = [
    # header, query, the number of the event that it names
    ("{0}", "lastEventId={1}&last_event_id={2}&tail=1", 0),
    (None, "last_event_id={2}&lastEventId={1}&tail=1", 1),
    (None, "last_event_id={2}&tail=1", 2),
    (None, "lastEventId={0}&lastEventId={1}", 1),
    (None, "last_event_id={2}&last_event_id={0}", 0),
    (None, "lastEventId={0}&lastEventId=&last_event_id={2}", 0),
    (None, "lastEventId=&lastEventId=&last_event_id={2}", 2),
    ("", "last_event_id={2}&last_event_id=", 2),
    ("{0},{1}", "", 1),
    ("{0}, {2}, ", "", 2),
    (",", "lastEventId={1}", 1),
    ("{2}", "lastEventId=nonsense&last_event_id=nonsense", 2),
    (None, "lastEventId=nonsense&lastEventId={2}&last_event_id=nonsense", 2),
    (None, "from_sequence=2", 0),
    ("{2}", "from_sequence=1", 2),
    (None, "last_event_id={1}&from_sequence=1", 1),
]


@pytest.mark.parametrize(("header", "query", "found"), CURSORS)
def test_the_cursor_that_the_client_added_last_counts(http, fake_store, header, query, found):
    ids = [fake_store.add(1, "llm", "stream") for _ in range(3)]
    ids.append(fake_store.add(1, "lifecycle", "completed"))
    headers = {} if header is None else {"Last-Event-ID": header.format(*ids)}
    text = http.get(f"{PATH}?{query.format(*ids)}", headers=headers).text
    sent = [line.removeprefix("id: ") for line in text.splitlines() if line.startswith("id: ")]
    assert sent[:-1] == ids[found + 1 :]  # the last one is that of gateway.caught_up


@pytest.mark.parametrize(
    ("header", "query", "field"),
    [
        ("1", "lastEventId=1-0", "Last-Event-ID"),
        ("1-0,1", "", "Last-Event-ID"),
        (None, "lastEventId=1&last_event_id=1-0", "lastEventId"),
        (None, "last_event_id=1-0&last_event_id=1", "last_event_id"),
        (None, "tail=1&tail=1", "tail"),
        (None, "typed=1&typed=", "typed"),
        (None, "last_event_id=1-0&tail=x", "tail"),
        (None, "from_sequence=0", "from_sequence"),
        (None, "from_sequence=-1", "from_sequence"),
        (None, "from_sequence=9007199254740993", "from_sequence"),
        (None, "from_sequence=1&from_sequence=1", "from_sequence"),
        (None, "from_sequence=1&tail=1", "from_sequence"),
    ],
)
def test_a_bad_cursor_or_a_repeated_parameter_is_400(http, header, query, field):
    headers = {} if header is None else {"Last-Event-ID": header}
    response = http.get(f"{PATH}?{query}", headers=headers)
    assert response.status_code == 400
    assert [error["field"] for error in response.json["errors"]] == [field]


def test_a_parameter_of_another_stream_is_ignored(http, fake_store):
    fake_store.add(1, "lifecycle", "completed")
    assert http.get(f"{PATH}?prefix=a/b").status_code == 200


def test_a_reopening_that_was_deleted_is_a_gap_and_then_204(http, fake_store, fake_client):
    end = fake_store.add(1, "lifecycle", "completed")
    fake_client.xdel("run:1:events", fake_store.add(1, "lifecycle", "started"))
    response = http.get(PATH, headers={"Last-Event-ID": end})
    assert response.status_code == 200
    names = [line for line in response.text.splitlines() if line.startswith("event: ")]
    assert names == ["event: gateway.gap", "event: gateway.caught_up"]
    [reached] = [line for line in response.text.splitlines() if line.startswith("id: ")]
    header = {"Last-Event-ID": reached.removeprefix("id: ")}
    assert http.get(PATH, headers=header).status_code == 204
    assert http.get(f"{PATH}?last_event_id=latest").status_code == 204


def test_a_newcomer_is_not_told_of_what_was_deleted_among_entries_of_others(http, fake_client):
    ids = [fake_client.xadd("run:1:events", {"data": str(number)}) for number in range(3)]
    fake_client.xdel("run:1:events", ids[1])
    fake_client.xadd("run:1:events", {"event_category": "lifecycle", "event_action": "completed"})
    text = http.get(PATH).text
    assert text.count("data: ") == 4
    assert "gateway.gap" not in text


def test_a_cursor_of_another_log_is_a_reset_though_the_run_has_ended(http, fake_store):
    fake_store.add(1, "lifecycle", "completed")
    response = http.get(PATH, headers={"Last-Event-ID": "99999999999999-0"})
    assert response.status_code == 200
    assert "event: gateway.reset" in response.text
    assert "event: lifecycle.completed" in response.text


def test_without_types_no_line_names_an_event(http, fake_store, fake_client):
    first = fake_store.add(1, "lifecycle", "started")
    fake_store.add(1, "lifecycle", "completed")
    fake_client.xdel("run:1:events", first)
    response = http.get(f"{PATH}?typed=false&last_event_id=0-0")
    assert "event:" not in response.text
    data = [line for line in response.text.splitlines() if line.startswith("data: ")]
    assert [json.loads(line[6:])["event"]["action"] for line in data] == [
        "gap",
        "completed",
        "caught_up",
    ]


@pytest.mark.parametrize("action", ["completed", "failed", "cancelled"])
def test_a_resumed_client_gets_the_rest_of_an_ended_run(http, fake_store, action):
    first = fake_store.add(1, "lifecycle", "started")
    end = fake_store.add(1, "lifecycle", action)
    response = http.get(PATH, headers={"Last-Event-ID": first})
    assert response.status_code == 200
    assert f"id: {end}\nevent: lifecycle.{action}\n" in response.text
    assert f"id: {first}\n" not in response.text


@pytest.mark.parametrize(
    "accept", ["text/event-stream", "TEXT/Event-Stream", "text/event-stream;q=0.1, */*"]
)
def test_a_browser_over_the_limit_gets_200_with_retry_and_no_events(fake_store, accept):
    http = client_of(fake_store, max_streams=1)
    with http.get(PATH):
        response = http.get(PATH, headers={"Accept": accept})
        assert response.status_code == 200
        assert response.mimetype == "text/event-stream"
        assert response.text.startswith("retry: ")
        assert "data:" not in response.text


@pytest.mark.parametrize("accept", [None, "*/*", "application/x-ndjson"])
def test_another_client_over_the_limit_gets_503_with_retry_after(fake_store, accept):
    http = client_of(fake_store, max_streams=1)
    headers = {"Accept": accept} if accept else {}
    with http.get(PATH):
        response = http.get(PATH, headers=headers)
        assert response.status_code == 503
        assert response.mimetype == "application/problem+json"
        assert int(response.headers["Retry-After"]) > 0
        assert http.get("/healthz").status_code == 200


def test_a_closed_stream_makes_room_for_another(fake_store):
    http = client_of(fake_store, max_streams=1)
    for _ in range(3):
        with http.get(PATH) as response:
            assert response.status_code == 200


def test_head_opens_no_stream(fake_store):
    http = client_of(fake_store, max_streams=1)
    with http.get(PATH):
        response = http.head(PATH)
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert response.headers["X-Accel-Buffering"] == "no"


def test_head_is_answered_as_get_is(http, fake_store, fake_client):
    end = fake_store.add(1, "lifecycle", "completed")
    assert http.head(PATH).status_code == 200
    assert http.head(f"{PATH}?last_event_id={end}").status_code == 204
    fake_client.set("run:1:events", "a string")
    response = http.head(PATH)
    assert (response.status_code, response.data) == (409, b"")


def test_every_client_that_resumes_among_entries_of_others_gets_the_gap(http, fake_client):
    """The first one has read what the others find in memory."""
    for number in range(1, 5):
        fake_client.xadd("run:1:events", {"data": number}, id=f"1-{number}")
    fake_client.xadd(
        "run:1:events", {"event_category": "lifecycle", "event_action": "failed"}, id="2-0"
    )
    fake_client.xdel("run:1:events", "1-3")
    for _ in range(3):
        text = http.get(PATH, headers={"Last-Event-ID": "1-1"}).text
        names = [line for line in text.splitlines() if line.startswith(("id: ", "event: gateway"))]
        assert names == [
            "event: gateway.gap", "id: 1-2", "id: 1-4", "id: 2-0",
            "id: 2-0", "event: gateway.caught_up",
        ]  # fmt: skip


def test_an_entry_that_is_copied_with_its_fields_begins_nothing_anew(store, redis_client, run_id):
    """Its epoch and sequence are those of an earlier entry."""
    http, key = client_of(store), f"run:{run_id}:events"
    for number in range(200):
        store.add(run_id, "llm", "stream", number)
    _, fields = redis_client.xrange(key, count=1)[0]
    redis_client.xadd(key, fields)
    store.add(run_id, "lifecycle", "completed")
    for _ in range(3):
        text = http.get(f"/runs/{run_id}/events/stream").text
        assert "gateway.reset" not in text
        assert text.count("\nevent: llm.stream\n") == 201
        assert text.count("\nevent: lifecycle.completed\n") == 1


def test_a_count_that_another_program_has_set_is_a_gap_at_the_end_and_no_reset(
    store, redis_client, run_id
):
    http, path = client_of(store), f"/runs/{run_id}/events/stream"
    end = store.add(run_id, "lifecycle", "completed")
    redis_client.execute_command("XSETID", f"run:{run_id}:events", end, "ENTRIESADDED", 100)
    for query in ("", "?tail=1"):
        text = http.get(path + query).text
        assert "gateway.reset" not in text
        assert text.count("event: lifecycle.completed") == 1


def test_what_clients_make_up_is_not_remembered(http, fake_store):
    """Long headers and queries, and the long names that others write."""
    fake_store.add(1, "lifecycle", "completed")
    caches = (
        accept._prefers_json_lines,
        stream._shared_format,
        json_body._body_kind,
        frame._names,
    )
    http.get(PATH)  # what is short may be remembered
    before = [cache.cache_info().currsize for cache in caches]
    for number in range(10):
        long = f"{number}" * 3000
        response = http.get(f"{PATH}?category={long}", headers={"Accept": f"a/b;c={long}"})
        assert response.status_code == 200
        assert response.mimetype == "text/event-stream"
        content_type = f"application/json; a={long}"
        refused = http.post("/runs/1/events", data=b"{}", content_type=content_type)
        assert refused.status_code == 415
        names = [b"event_category", long.encode(), b"event_action", b"a"]
        fields = [b"timestamp", b"1", b"sequence", b"1", b"epoch", b"1", *names, b"data", b"1"]
        assert frame.Frame.of_entry("1", b"1-1", fields).category == long
    assert [cache.cache_info().currsize for cache in caches] == before


def test_an_accept_header_that_is_too_long_counts_as_absent(http, fake_store):
    fake_store.add(1, "lifecycle", "completed")
    lines = "application/x-ndjson"
    assert http.get(PATH, headers={"Accept": lines}).mimetype == lines
    long = f"{lines}, {'a/b, ' * 300}"
    assert http.get(PATH, headers={"Accept": long}).mimetype == "text/event-stream"
