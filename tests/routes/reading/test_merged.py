"""The route of merged streams: which runs and cursors it takes, and what it refuses."""

import json

import pytest

from app.streaming.event_id import EventId
from app.streaming.merged.cursor import MergedCursor, RunList
from tests.routes.refusals import check_refusal

PATH = "/events/stream"


@pytest.fixture(autouse=True)
def runs(fake_store) -> dict[str, list[str]]:
    """Two runs that have ended, so that their streams do too."""
    return {
        run_id: [
            fake_store.add(run_id, "llm", "stream"),
            fake_store.add(run_id, "tool", "call"),
            fake_store.add(run_id, "lifecycle", "completed"),
        ]
        for run_id in ("a", "b")
    }


def events_in(response) -> list[str]:
    """Return the run and the sequence of each event, and the name of each control event."""
    assert response.status_code == 200, response.text
    assert response.mimetype == "text/event-stream"
    events = [json.loads(line[6:]) for line in response.text.split("\n") if line[:6] == "data: "]
    return [f"{each['run_id']}{each['sequence'] or each['event']['action']}" for each in events]


EVERYTHING = ["a1", "a2", "a3", "acaught_up", "b1", "b2", "b3", "bcaught_up"]


def cursor_of(*ids: str, runs: str = "ab") -> str:
    return str(MergedCursor(RunList.of(runs), tuple(map(EventId.parse, ids))))


def post(http, body, method: str = "POST", **options):
    options = {"content_type": "application/json"} | options
    data = body if isinstance(body, (bytes, str)) else json.dumps(body)
    return http.open(PATH, method=method, data=data, **options)


@pytest.mark.parametrize(
    "query", ["run=a&run=b", "run=b&run=a", "run=a@earliest&run=b@0-0", "run=&run=a&run=b@"]
)
def test_the_runs_of_a_query_are_streamed(http, query):
    assert events_in(http.get(f"{PATH}?{query}")) == EVERYTHING


def test_each_run_has_its_own_cursor(http, runs):
    query = f"run=a@{runs['a'][1]}&run=b@latest"
    assert events_in(http.get(f"{PATH}?{query}")) == ["a3", "acaught_up", "bcaught_up"]


@pytest.mark.parametrize("method", ["POST", "QUERY"])
def test_the_runs_of_a_body_are_streamed(http, runs, method):
    body = {"runs": {"a": runs["a"][1], "b": "earliest"}}
    expected = ["a3", "acaught_up", "b1", "b2", "b3", "bcaught_up"]
    assert events_in(post(http, body, method)) == expected
    body["last_event_id"] = None
    assert events_in(post(http, body, method)) == expected


@pytest.mark.parametrize("where", ["header", "lastEventId", "last_event_id", "body"])
def test_a_client_that_comes_back_goes_on_where_it_was(http, runs, where):
    cursor = cursor_of(runs["a"][2], runs["b"][0])
    expected = ["acaught_up", "b2", "b3", "bcaught_up"]
    if where == "body":
        body = {"runs": {"a": "earliest", "b": "earliest"}, "last_event_id": cursor}
        assert events_in(post(http, body)) == expected
        return
    headers = {"Last-Event-ID": cursor} if where == "header" else {}
    query = "" if where == "header" else f"&{where}={cursor}"
    assert events_in(http.get(f"{PATH}?run=a&run=b{query}", headers=headers)) == expected


def test_what_comes_back_counts_more_than_what_the_page_wrote(http, runs):
    newest, older = cursor_of(runs["a"][2], runs["b"][2]), cursor_of(runs["a"][0], runs["b"][0])
    response = http.get(
        f"{PATH}?run=a&run=b&last_event_id={older}", headers={"Last-Event-ID": newest}
    )
    assert response.status_code == 204
    body = {"runs": {"a": "earliest", "b": "earliest"}, "last_event_id": older}
    assert post(http, body, headers={"Last-Event-ID": newest}).status_code == 204


@pytest.mark.parametrize("text", ["earliest", "latest"])
def test_one_word_may_stand_for_all_runs(http, runs, text):
    response = http.get(f"{PATH}?run=a@{runs['a'][1]}&run=b&last_event_id={text}")
    if text == "latest":
        assert response.status_code == 204
    else:
        assert events_in(response) == EVERYTHING


def test_a_filter_is_for_all_runs(http):
    response = http.get(f"{PATH}?run=a&run=b&category=tool")
    assert events_in(response) == ["a2", "a3", "acaught_up", "b2", "b3", "bcaught_up"]


def test_a_run_without_a_log_is_waited_for(http):
    response = http.get(f"{PATH}?run=a@latest&run=b@latest&run=new")
    assert response.status_code == 200
    response.close()


def test_head_answers_without_a_stream(http):
    response = http.head(f"{PATH}?run=a")
    assert (response.status_code, response.data) == (200, b"")
    assert response.headers["X-Accel-Buffering"] == "no"


def test_json_lines_have_the_cursor(http, runs):
    response = http.get(f"{PATH}?run=a&run=b", headers={"Accept": "application/x-ndjson"})
    assert response.mimetype == "application/x-ndjson"
    heartbeat, *lines = map(json.loads, response.text.splitlines())
    assert (heartbeat["run_id"], heartbeat["event"]["action"]) == (None, "heartbeat")
    assert lines[-1]["cursor"] == cursor_of(runs["a"][2], runs["b"][2])
    assert [each["run_id"] for each in lines] == ["a"] * 4 + ["b"] * 4


@pytest.mark.parametrize("number", [16, 17])
def test_many_runs_are_sent_in_batches(http, fake_store, number):
    names = [f"many-{each:02}" for each in range(number)]
    for name in names:
        fake_store.add(name, "lifecycle", "completed")
    response = post(http, {"runs": dict.fromkeys(names, "earliest")})
    lines = response.text.split("\n")
    data = [json.loads(line[6:]) for line in lines if line[:6] == "data: "]
    if number == 16:
        assert [each["run_id"] for each in data[::2]] == names
        assert "event: gateway.batch" not in lines
        return
    [batch] = data
    assert [each["run_id"] for each in batch[::2]] == names
    assert lines.count("event: gateway.batch") == 1
    untyped = post(http, {"runs": dict.fromkeys(names, "earliest")}, query_string="typed=false")
    assert "event: " not in untyped.text
    as_lines = post(
        http, {"runs": dict.fromkeys(names, "earliest")}, headers={"Accept": "application/x-ndjson"}
    )
    [_, line] = map(json.loads, as_lines.text.splitlines())
    assert (line["run_id"], line["event"]["action"]) == (None, "batch")
    assert [each["run_id"] for each in line["data"][::2]] == names
    assert (
        post(
            http, {"runs": dict.fromkeys(names, "earliest"), "last_event_id": line["cursor"]}
        ).status_code
        == 204
    )


BAD_QUERIES = {
    "": "run",
    "run=": "run",
    "run=a&run=b&run=a": "run",
    "run=a&run=a@latest": "run",
    "run=a/b": "run",
    "run=..": "run",
    "run=@latest": "run",
    f"run={'x' * 129}": "run",
    "run=a@nonsense": "run",
    "run=a@latest@latest": "run",
    "run=a&tail=1": "tail",
    "run=a&from_sequence=1": "from_sequence",
    "run=a&typed=perhaps": "typed",
    "&".join(f"run=r{number}" for number in range(101)): "run",
    "run=a&last_event_id=nonsense": "last_event_id",
    "run=a&last_event_id=1-1": "last_event_id",
    "run=a&lastEventId=m1.": "lastEventId",
    "run=a&lastEventId=m2.AAAA": "lastEventId",
    f"run=a&lastEventId=m1.{'A' * 100_000}": "lastEventId",
    f"run=a&last_event_id={cursor_of('1-0', '1-0')}": "last_event_id",
    f"run=a&run=c&last_event_id={cursor_of('1-0', '1-0')}": "last_event_id",
    f"run=a&run=b&last_event_id={cursor_of('1-0', '1-0')[:-1]}": "last_event_id",
}


@pytest.mark.parametrize("query", BAD_QUERIES, ids=lambda query: query[:40])
def test_a_bad_query_is_refused_and_its_field_is_named(http, query):
    assert check_refusal(http.get(f"{PATH}?{query}"), 400) == [BAD_QUERIES[query]]


def test_a_bad_cursor_in_the_header_is_refused(http):
    for cursor in ("nonsense", "1-1", "m1.AAAA"):
        response = http.get(f"{PATH}?run=a", headers={"Last-Event-ID": cursor})
        assert check_refusal(response, 400) == ["Last-Event-ID"]


def test_a_hundred_runs_are_allowed_in_a_query_and_a_thousand_in_a_body(http, fake_store):
    for number in range(1001):
        fake_store.add(f"r{number}", "lifecycle", "completed")
    query = "&".join(f"run=r{number}@latest" for number in range(100))
    assert http.get(f"{PATH}?{query}").status_code == 204
    names = [f"r{number}" for number in range(1001)]
    assert post(http, {"runs": dict.fromkeys(names[:1000], "latest")}).status_code == 204
    assert check_refusal(post(http, {"runs": dict.fromkeys(names, "latest")}), 400) == ["runs"]


BAD_BODIES = [
    ("", 400, "body"),
    ("{", 400, "body"),
    ("[" * 100_000, 400, "body"),
    (b'{"runs": {"\xff": "earliest"}}', 400, "body"),
    ("x" * (256 * 1024 + 1), 413, "body"),
    ("null", 400, "body"),
    ("[]", 400, "body"),
    ("{}", 400, "runs"),
    ('{"runs": null}', 400, "runs"),
    ('{"runs": []}', 400, "runs"),
    ('{"runs": ["a"]}', 400, "runs"),
    ('{"runs": {}}', 400, "runs"),
    ('{"runs": {"a": null}}', 400, "runs"),
    ('{"runs": {"a": 5}}', 400, "runs"),
    ('{"runs": {"a": {}}}', 400, "runs"),
    ('{"runs": {"a": ""}}', 400, "runs"),
    ('{"runs": {"a": "nonsense"}}', 400, "runs"),
    ('{"runs": {"a/b": "latest"}}', 400, "runs"),
    ('{"runs": {"": "latest"}}', 400, "runs"),
    ('{"runs": {"a": "earliest", "a": "latest"}}', 400, "runs"),
    ('{"runs": {"a": "earliest"}, "runs": {"b": "earliest"}}', 400, "body"),
    ('{"runs": {"a": "earliest"}, "last_event_id": 5}', 400, "last_event_id"),
    ('{"runs": {"a": "earliest"}, "last_event_id": "1-1"}', 400, "last_event_id"),
    (
        '{"runs": {"a": "earliest"}, "last_event_id": "' + "m1." + "A" * 100_000 + '"}',
        400,
        "last_event_id",
    ),
    ('{"runs": {"a": "earliest"}, "tail": 5}', 400, "body"),
    ('{"runs": null, "runs": {"a": "earliest"}}', 400, "body"),
    ('{"\\ud800": 1}', 400, "body"),
    ('{"runs": {"\\ud800": "latest"}}', 400, "runs"),
    ('{"runs": {"a": "\\ud800"}}', 400, "runs"),
    ('{"runs": {"a": "latest"}, "last_event_id": "\\ud800"}', 400, "last_event_id"),
]


@pytest.mark.parametrize("method", ["POST", "QUERY"])
@pytest.mark.parametrize(("body", "status", "field"), BAD_BODIES, ids=lambda value: str(value)[:40])
def test_a_bad_body_is_refused_and_its_field_is_named(http, method, body, status, field):
    assert check_refusal(post(http, body, method), status) == [field]


@pytest.mark.parametrize("method", ["POST", "QUERY"])
@pytest.mark.parametrize(
    "content_type",
    [
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "text/plain",
        "application/x-ndjson",
        "",
    ],
)
def test_a_body_of_another_type_is_refused(http, method, content_type):
    response = post(http, "runs=a", method, content_type=content_type)
    assert check_refusal(response, 415) == ["Content-Type"]


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
def test_other_methods_are_refused(http, method):
    response = http.open(PATH, method=method)
    check_refusal(response, 405)
    assert set(response.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS", "POST", "QUERY"}


def test_a_run_whose_key_is_no_log_is_refused_and_named(http, fake_client):
    fake_client.set("run:odd:events", "text")
    response = http.get(f"{PATH}?run=a&run=odd&run=b")
    check_refusal(response, 409)
    assert "run odd" in response.json["detail"]
