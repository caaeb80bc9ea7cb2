"""Reading the history of a run, with Flask's test client: pages, lines, and long polls."""

import json
from concurrent.futures import ThreadPoolExecutor

import gevent
import pytest
import requests
from flask.testing import FlaskClient

from app import create_app
from app.metrics.catalog import STREAMS_CLOSED
from app.metrics.values import own_row
from app.settings import Settings
from app.streaming.errors import StoreUnavailable
from app.streaming.log import reader as log_reader
from tests.routes.refusals import check_refusal
from tests.servers import wait_until

PATH = "/runs/1/events"
NAMES = {"event_category": "llm", "event_action": "stream"}
LINES = {"Accept": "application/x-ndjson"}


def read(http: FlaskClient, query: str = "") -> dict:
    response = http.get(f"{PATH}?{query}")
    assert response.status_code == 200
    return response.json


def data_of(page: dict) -> list:
    return [event["data"] for event in page["events"]]


def test_history_has_events_in_the_form_of_an_append_response(http, fake_store):
    first = http.post(PATH, json={**NAMES, "data": "a\u2028"}).json
    fake_store.add(1, "lifecycle", "completed")
    page = read(http)
    assert page["events"][0] == first
    assert [event["sequence"] for event in page["events"]] == [1, 2]
    assert page["next"] is None


def test_an_unknown_run_is_200_without_events(http):
    assert read(http) == {"events": [], "next": None, "ended": False}


@pytest.mark.parametrize("limit", range(1, 9))
@pytest.mark.parametrize(("order", "bound"), [("asc", "after"), ("desc", "before")])
@pytest.mark.usefixtures("ids")
def test_next_leads_through_the_whole_history_in_either_order(http, order, bound, limit):
    page = read(http, f"order={order}&limit={limit}")
    seen = data_of(page)
    while page["next"]:
        page = read(http, f"order={order}&limit={limit}&{bound}={page['next']}")
        assert 1 <= len(page["events"]) <= limit
        seen += data_of(page)
    assert seen == (list(range(7)) if order == "asc" else list(range(7))[::-1])


@pytest.mark.usefixtures("ids")
def test_next_leads_through_a_filtered_history(http):
    page = read(http, "category=tool&limit=1")
    seen = data_of(page)
    while page["next"]:
        page = read(http, f"category=tool&limit=1&after={page['next']}")
        seen += data_of(page)
    assert seen == [1, 3, 5]


@pytest.mark.usefixtures("ids")
def test_next_goes_on_when_a_filter_matched_nothing_in_a_page(http, monkeypatch):
    monkeypatch.setattr(log_reader, "MAX_SCANNED_ENTRIES", 2)
    seen, query, pages = [], "", 0
    while query is not None:
        page = read(http, f"action=call&{query}")
        seen, pages = seen + data_of(page), pages + 1
        query = page["next"] and f"after={page['next']}"
    assert (seen, pages) == ([1, 3, 5], 4)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("after={1}", [2, 3, 4, 5, 6]),
        ("before={2}", [0, 1]),
        ("after={1}&before={5}", [2, 3, 4]),
        ("after={1}&before={5}&order=desc", [4, 3, 2]),
        ("after={5}&before={1}", []),
        ("after={6}", []),
        ("after=0-0&limit=2", [0, 1]),
        ("from_sequence=6", [5, 6]),
        ("from_sequence=6&order=desc", [6, 5]),
        ("from_sequence=2&limit=1", [1]),
        ("from_sequence=2&after={4}", [5, 6]),
        ("from_sequence=6&after={1}&before={6}", [5]),
        ("from_sequence=8", []),
        ("order=desc&limit=2", [6, 5]),
        ("limit=1000", list(range(7))),
        ("category=tool", [1, 3, 5]),
        ("category=tool&category=llm", list(range(7))),
        ("category=llm&action=call", []),
        ("action=stream", [0, 2, 4, 6]),
        ("category=", list(range(7))),
        ("nonsense=1&limit=1&page=9", [0]),
    ],
)
def test_a_page_has_the_events_that_the_query_selects(http, ids, query, expected):
    assert data_of(read(http, query.format(*ids))) == expected


@pytest.mark.parametrize("name", ["after", "before", "order", "limit", "from_sequence"])
@pytest.mark.parametrize("value", ["0-0", "", "1"])
def test_a_repeated_parameter_that_takes_one_value_is_400(http, name, value):
    response = http.get(f"{PATH}?{name}={value}&{name}={value}")
    assert check_refusal(response, 400) == [name]


def test_a_page_has_100_events_by_default(http, fake_store):
    for number in range(101):
        fake_store.add(1, "llm", "stream", number)
    page = read(http)
    assert (len(page["events"]), page["next"]) == (100, page["events"][-1]["id"])


def test_entries_that_another_program_wrote_are_in_the_history(http, fake_client):
    fake_client.xadd("run:1:events", {"event_category": b"\xff", "data": '{\n"a": 1}'})
    fake_client.xadd("run:1:events", {"anything": "at all", "data": "{bro"})
    first, second = read(http)["events"]
    assert (first["event"], first["data"], first["sequence"]) == (
        {"category": "\ufffd", "action": None}, {"a": 1}, None,
    )  # fmt: skip
    assert (second["event"], second["data"]) == ({"category": None, "action": None}, "{bro")


@pytest.mark.parametrize("query", ["after=18446744073709551615-18446744073709551615", "before=0-0"])
def test_a_cursor_beyond_the_ends_of_a_log_gives_an_empty_page(http, fake_store, query):
    fake_store.add(1, "llm", "stream")
    assert http.get(f"{PATH}?{query}").json == {"events": [], "next": None, "ended": False}


# As lines


def lines_of(http: FlaskClient, query: str = "") -> list[dict]:
    response = http.get(f"{PATH}?{query}", headers=LINES)
    assert (response.status_code, response.mimetype) == (200, "application/x-ndjson")
    return [json.loads(line) for line in response.text.splitlines()]


@pytest.mark.parametrize(
    "query",
    [
        *("", "after={1}", "before={2}", "after={1}&before={5}", "order=desc&limit=2", "limit=3"),
        *("category=tool", "category=tool&limit=2", "category=none", "from_sequence=6"),
        *("from_sequence=8", "from_sequence=2&after={4}", "order=desc&from_sequence=3"),
        *("after={6}", "before=0-0", "after=18446744073709551615-18446744073709551615"),
    ],
)
def test_the_lines_are_the_events_of_the_pages(http, ids, query):
    query = query.format(*ids)
    assert lines_of(http, query) == read(http, query)["events"]


def test_all_of_a_long_history_comes_as_lines(http, fake_store):
    for number in range(700):
        fake_store.add(1, "llm", "stream", number)
    assert [line["sequence"] for line in lines_of(http)] == list(range(1, 701))
    assert len(lines_of(http, "limit=600")) == 600


def test_a_run_without_a_log_has_no_lines(http):
    assert lines_of(http) == []


def test_lines_that_other_programs_wrote_are_one_line_each(http, fake_client):
    fake_client.xadd("run:1:events", {"event_category": b"\xff", "data": '{\n"a": "\u2028"}'})
    fake_client.xadd("run:1:events", {"anything": "at all", "data": "{bro"})
    first, second = lines_of(http)
    assert (first["data"], second["data"]) == ({"a": "\u2028"}, "{bro")


@pytest.mark.parametrize(("query", "expected"), [
    ("", None),
    ("download=false", None),
    ("download=true", 'attachment; filename="1.ndjson"'),
    ("download=1&limit=1", 'attachment; filename="1.ndjson"'),
])  # fmt: skip
def test_lines_may_be_a_download(http, fake_store, query, expected):
    fake_store.add(1, "llm", "stream")
    for method in ("GET", "HEAD"):
        response = http.open(f"{PATH}?{query}", method=method, headers=LINES)
        assert response.headers.get("Content-Disposition") == expected
        assert bool(response.data) == (method == "GET")


def test_events_that_come_while_the_lines_are_sent_are_not_among_them(http, fake_store):
    for number in range(600):
        fake_store.add(1, "llm", "stream", number)
    response = http.get(PATH, headers=LINES)
    received = []
    for piece in response.iter_encoded():
        received.append(piece)
        for _ in range(300):
            fake_store.add(1, "llm", "stream")
    assert b"".join(received).count(b"\n") == 600


@pytest.mark.parametrize("cause", ["Redis", "drain", "deleted", "begun again", "trimmed"])
def test_lines_that_break_off_do_not_look_complete(fake_store, fake_client, monkeypatch, cause):
    for number in range(600):
        fake_store.add(1, "llm", "stream", number)
    app = create_app(Settings(), event_store=fake_store)
    pieces = app.test_client().get(PATH, headers=LINES).iter_encoded()
    assert next(pieces)
    if cause == "Redis":
        unavailable = StoreUnavailable("away")
        monkeypatch.setattr(fake_store.engine.pool, "call", lambda *args: _raise(unavailable))
    elif cause == "trimmed":
        fake_client.xtrim("run:1:events", maxlen=5, approximate=False)
    elif cause != "drain":
        fake_store.delete(1)
        if cause == "begun again":
            fake_store.add(1, "llm", "stream")
    else:
        gevent.spawn(app.extensions["tailrace"].drain).join(5)
    with pytest.raises(ConnectionResetError):
        list(pieces)


def _raise(error: Exception) -> None:
    raise error


def test_lines_that_a_client_does_not_read_to_their_end_are_logged_as_such(fake_store, caplog):
    for number in range(600):
        fake_store.add(1, "llm", "stream", number)
    app = create_app(Settings(), event_store=fake_store)
    caplog.set_level("INFO", "tailrace.stream")
    with app.test_client().get(PATH, headers=LINES) as response:
        next(response.iter_encoded())
    assert "history ended run=1 client=127.0.0.1 reason=disconnected" in caplog.text


def test_lines_of_a_log_that_was_deleted_are_counted_as_such(fake_store, caplog):
    for number in range(600):
        fake_store.add(1, "llm", "stream", number)
    app = create_app(Settings(), event_store=fake_store)
    caplog.set_level("INFO", "tailrace.stream")
    counted = STREAMS_CLOSED.of("history", "changed").index
    before = own_row()[counted]
    with app.test_client().get(PATH, headers=LINES) as response:
        pieces = response.iter_encoded()
        next(pieces)
        fake_store.delete(1)
        with pytest.raises(ConnectionResetError):
            list(pieces)
    assert own_row()[counted] == before + 1
    assert "history ended run=1 client=127.0.0.1 reason=changed" in caplog.text


def test_lines_go_on_though_what_was_sent_is_trimmed(http, fake_store, fake_client):
    for number in range(600):
        fake_store.add(1, "llm", "stream", number)
    pieces = http.get(PATH, headers=LINES).iter_encoded()
    received = [next(pieces)]
    fake_client.xtrim("run:1:events", maxlen=590, approximate=False)
    received += pieces
    assert b"".join(received).count(b"\n") == 600


def test_a_browser_downloads_lines(http, fake_store):
    fake_store.add(1, "llm", "stream")
    response = http.get(f"{PATH}?download=true", headers={"Accept": "text/html,*/*;q=0.8"})
    assert response.mimetype == "application/x-ndjson"


def test_lines_count_as_a_stream(fake_store):
    fake_store.add(1, "llm", "stream")
    app = create_app(Settings(max_streams=1), event_store=fake_store)
    http = app.test_client()
    with http.get(PATH, headers=LINES) as first:
        assert check_refusal(http.get(PATH, headers=LINES), 503) == []
        assert len(first.data.splitlines()) == 1
    assert len(lines_of(http)) == 1


# Waiting for the next event


def test_a_page_that_has_events_or_has_ended_is_not_waited_for(http, fake_store):
    first = fake_store.add(1, "llm", "stream")
    assert len(read(http, "wait=50")["events"]) == 1
    last = fake_store.add(1, "lifecycle", "completed")
    assert len(read(http, f"wait=50&after={first}")["events"]) == 1
    page = read(http, f"wait=50&after={last}")
    assert page == {"events": [], "next": None, "ended": True}
    assert read(http, "wait=50&category=none")["ended"]


@pytest.mark.parametrize("begins", ["without a log", "after an event", "with a sequence"])
def test_a_request_may_wait_for_the_next_event(gateway, store, run_id, begins):
    query = "wait=50"
    if begins == "after an event":
        query += f"&after={store.add(run_id, 'llm', 'stream')}"
    elif begins == "with a sequence":
        query += "&from_sequence=3"
        store.add(run_id, "llm", "stream")
    url = f"{gateway.url}/runs/{run_id}/events?{query}"
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(requests.get, url, timeout=60)
        wait_until(lambda: f"long poll opened run={run_id}" in gateway.log.read_text(), "it waits")
        if begins == "with a sequence":
            store.add(run_id, "llm", "stream")
        event_id = store.add(run_id, "llm", "stream")
        page = waiting.result(30).json()
    assert [event["id"] for event in page["events"]] == [event_id]
    assert (page["next"], page["ended"]) == (None, False)


def test_an_event_that_the_filter_drops_does_not_end_the_wait(gateway, store, run_id):
    url = f"{gateway.url}/runs/{run_id}/events?wait=50&category=tool"
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(requests.get, url, timeout=60)
        wait_until(lambda: f"long poll opened run={run_id}" in gateway.log.read_text(), "it waits")
        for _ in range(20):
            store.add(run_id, "llm", "stream")
        event_id = store.add(run_id, "tool", "called")
        page = waiting.result(30).json()
    assert [event["id"] for event in page["events"]] == [event_id]


def test_the_end_of_a_run_ends_the_wait(gateway, store, run_id):
    url = f"{gateway.url}/runs/{run_id}/events?wait=50&category=tool"
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(requests.get, url, timeout=60)
        wait_until(lambda: f"long poll opened run={run_id}" in gateway.log.read_text(), "it waits")
        store.add(run_id, "lifecycle", "completed")
        assert waiting.result(30).json() == {"events": [], "next": None, "ended": True}


def test_a_wait_without_an_event_ends_with_an_empty_page(http):
    assert read(http, "wait=1") == {"events": [], "next": None, "ended": False}


def test_a_wait_that_is_refused_ends_at_once(fake_store):
    app = create_app(Settings(max_streams=1), event_store=fake_store)
    http = app.test_client()
    with http.get(f"{PATH}/stream"):
        assert check_refusal(http.get(f"{PATH}?wait=50"), 503) == []


def test_a_wait_goes_on_behind_what_the_filter_has_dropped(http, fake_store, monkeypatch):
    monkeypatch.setattr(log_reader, "MAX_SCANNED_ENTRIES", 10)
    ids = [fake_store.add(1, "llm", "stream") for _ in range(35)]
    page = read(http, "wait=1&category=tool")
    assert page == {"events": [], "next": ids[-1], "ended": False}
    fake_store.add(1, "tool", "called")
    assert len(read(http, f"wait=50&category=tool&after={page['next']}")["events"]) == 1
    assert len(read(http, "wait=50&category=tool")["events"]) == 1


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("wait=-1", "wait"),
        ("wait=51", "wait"),
        ("wait=1e9", "wait"),
        ("wait=0.5", "wait"),
        ("wait=", "wait"),
        ("wait=1&wait=1", "wait"),
        ("wait=1&order=desc", "wait"),
        ("wait=1&before=1-1", "wait"),
        ("download=yes", "download"),
    ],
)
def test_a_bad_wait_is_400(http, query, field):
    assert check_refusal(http.get(f"{PATH}?{query}"), 400) == [field]


def test_lines_cannot_be_waited_for(http):
    assert check_refusal(http.get(f"{PATH}?wait=1", headers=LINES), 400) == ["wait"]
