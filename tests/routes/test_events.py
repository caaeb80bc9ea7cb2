"""Appending over HTTP and reading history in pages, with Flask's test client."""

import json

import pytest
import redis
from flask.testing import FlaskClient

from app import create_app
from app.settings import Settings
from app.streaming.event_store import EventStore
from app.streaming.log import reader as log_reader

NAMES = {"event_category": "llm", "event_action": "stream"}
PATH = "/runs/1/events"


@pytest.fixture
def http(fake_store: EventStore) -> FlaskClient:
    return create_app(Settings(), event_store=fake_store).test_client()


def refused(answer, status: int) -> list[str]:
    """The fields that a refusal names, once its status and shape are what they must be."""
    assert answer.status_code == status, answer.text
    assert answer.mimetype == "application/problem+json"
    assert answer.json["status"] == status
    assert all(error["detail"] for error in answer.json.get("errors", []))
    return [error["field"] for error in answer.json.get("errors", [])]


def body_with_data(data: str) -> bytes:
    return b'{"event_category": "llm", "event_action": "stream", "data": %b}' % data.encode()


def post(http: FlaskClient, body: bytes):
    return http.post(PATH, data=body, content_type="application/json")


def test_an_append_gives_201_and_the_event_as_it_was_stored(http, fake_store):
    answer = http.post(PATH, json={**NAMES, "data": {"a": "分\u2028"}, "source": [1]})
    assert answer.status_code == 201
    assert answer.mimetype == "application/json"
    [stored] = fake_store.get_events(1)
    assert answer.data == stored.to_json()
    assert answer.json == {
        "id": stored.id,
        "run_id": "1",
        "sequence": 1,
        "timestamp": stored.timestamp,
        "event": {"category": "llm", "action": "stream"},
        "data": {"a": "分\u2028"},
        "source": [1],
    }


def test_data_and_source_may_be_left_out(http):
    answer = http.post(PATH, json=NAMES)
    assert (answer.json["data"], answer.json["source"]) == (None, None)


def test_the_shape_that_is_read_may_be_appended_again(http):
    first = http.post(PATH, json={**NAMES, "data": 1, "source": "me"}).json
    again = http.post("/runs/2/events", json={**first, "sequence": 99, "timestamp": "never"}).json
    assert (again["run_id"], again["sequence"]) == ("2", 1)
    assert again["timestamp"] != "never"
    assert [again[name] for name in ("event", "data", "source")] == [
        first[name] for name in ("event", "data", "source")
    ]


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/json; charset=UTF-8", "application/a+json"]
)
def test_json_may_be_called_so_in_several_ways(http, content_type):
    answer = http.post(PATH, data=json.dumps(NAMES), content_type=content_type)
    assert answer.status_code == 201


@pytest.mark.parametrize("run_id", ["a", "A-z_0.9", "...", "a" * 128])
def test_a_run_id_of_the_pattern_is_taken(http, run_id):
    assert http.post(f"/runs/{run_id}/events", json=NAMES).json["run_id"] == run_id


@pytest.mark.parametrize(
    "value",
    [
        *("18446744073709551615", "-9223372036854775808", "1.5", "-0.0", "1e308", '"\\u0000"'),
        *("123456789012345678901.5", "[" * 128 + "]" * 128, '"12345678901234567890"', "[[], {}]"),
    ],
)
def test_any_value_of_json_is_taken(http, fake_store, value):
    assert post(http, body_with_data(value)).status_code == 201
    assert fake_store.get_events(1)[0].data == json.loads(value)


# What is refused changes nothing


@pytest.fixture
def unchanged(fake_client: redis.Redis):
    """Looks, after the test, that nothing was stored."""
    yield
    assert fake_client.keys("*") == []


BAD_RUN_IDS = ["a b", "a:b", "é", "a\n", "*", "{a}", ".", "..", "a" * 129, "a%00"]


@pytest.mark.parametrize("run_id", BAD_RUN_IDS)
@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
@pytest.mark.usefixtures("unchanged")
def test_a_run_id_of_another_form_is_400(http, method, run_id):
    path = f"/runs/{run_id.replace(chr(10), '%0A')}/events"
    json_body = NAMES if method == "POST" else None
    assert refused(http.open(path, method=method, json=json_body), 400) == ["run_id"]


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b" ", b"{", b"{'a': 1}", b'{"a": 1,}', b"nonsense", b'{"a": 1} {', b"\xff", b"\0"),
        *(b'\xef\xbb\xbf{"a": 1}', '{"a": 1}'.encode("utf-16")),
        *map(body_with_data, ["NaN", "Infinity", "-Infinity", "1e400", "-1e400", "01", ".5"]),
        *map(body_with_data, ['"\\ud800"', '"\\udc00a"', '"\\ud800\\ud800"', '"\\q"', '"\n"']),
        *map(body_with_data, ["[" * 10_000 + "]" * 10_000, '{"a":' * 10_000 + "1" + "}" * 10_000]),
        b'{"event_category": "llm", "event_action": "stream", "data": "\xff"}',
    ],
    ids=lambda body: body[:16],
)
@pytest.mark.usefixtures("unchanged")
def test_a_body_that_is_not_json_is_400(http, body):
    assert refused(post(http, body), 400) == ["body"]


@pytest.mark.parametrize("value", ["18446744073709551616", "-9223372036854775809", "9" * 300])
@pytest.mark.usefixtures("unchanged")
def test_an_integer_over_64_bits_is_422(http, value):
    assert refused(post(http, body_with_data(f"[{value}]")), 422) == ["data"]


@pytest.mark.parametrize("depth", [129, 200, 900, 990, 1020])
@pytest.mark.parametrize("inner", ["1", "12345678901234567890"])
@pytest.mark.usefixtures("unchanged")
def test_data_that_is_nested_too_deep_is_422(http, depth, inner):
    data = "[" * depth + inner + "]" * depth
    assert refused(post(http, body_with_data(data)), 422) == ["data"]


@pytest.mark.parametrize("body", ["text", None, 1, True])
@pytest.mark.usefixtures("unchanged")
def test_json_that_is_no_object_is_422(http, body):
    assert refused(post(http, json.dumps(body).encode()), 422) == ["body"]


def test_an_encoded_body_is_415(http):
    answer = http.post(PATH, json=NAMES, headers={"Content-Encoding": "gzip"})
    assert refused(answer, 415) == ["Content-Encoding"]
    assert http.post(PATH, json=NAMES, headers={"Content-Encoding": "identity"}).status_code == 201


@pytest.mark.parametrize(
    "content_type",
    [None, "", "text/plain", "application/x-www-form-urlencoded", "application/jsonp",
     "multipart/form-data", "application/json; charset=utf-16"],
)  # fmt: skip
@pytest.mark.usefixtures("unchanged")
def test_another_content_type_is_415(http, content_type):
    answer = http.post(PATH, data=json.dumps(NAMES), content_type=content_type)
    assert refused(answer, 415) == ["Content-Type"]


BAD_NAMES = ["", "a" * 65, "a b", "a.b", "a\n", "é", "a/b", None, 1, ["a"], {}, True]


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("field", ["event_category", "event_action"])
@pytest.mark.usefixtures("unchanged")
def test_an_odd_name_is_422_in_either_shape(http, field, name):
    assert refused(http.post(PATH, json={**NAMES, field: name}), 422) == [field]
    event = {"category": "llm", "action": "stream", field.removeprefix("event_"): name}
    assert refused(http.post(PATH, json={"event": event}), 422) == [field]


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, ["event_action", "event_category"]),
        ({"event_category": "a"}, ["event_action"]),
        ({"event_action": "a"}, ["event_category"]),
        ({"event": {}}, ["event_action", "event_category"]),
        ({"event": {"category": "a"}}, ["event_action"]),
        ({"event": None}, ["event"]),
        ({"event": "llm.stream"}, ["event"]),
        ({**NAMES, "event": {"category": "a", "action": "b"}}, ["event"]),
        ({**NAMES, "datta": 1}, ["datta"]),
        ({**NAMES, "event_category": "gateway"}, ["event_category"]),
        ({"event": {"category": "gateway", "action": "gap"}}, ["event_category"]),
        ({"event_category": "lifecycle", "event_action": "lost"}, ["event_action"]),
    ],
)
@pytest.mark.usefixtures("unchanged")
def test_an_event_of_the_wrong_shape_is_422(http, body, fields):
    assert sorted(refused(http.post(PATH, json=body), 422)) == fields


@pytest.mark.parametrize("field", ["data", "source"])
@pytest.mark.usefixtures("unchanged")
def test_an_event_over_the_limit_is_413(http, field):
    body = {**NAMES, field: "x" * 262_144}
    assert refused(http.post(PATH, json=body), 413) == [field]


@pytest.mark.usefixtures("unchanged")
def test_a_body_over_the_limit_is_413(http):
    assert refused(post(http, body_with_data('"%s"' % ("x" * 5_000_000))), 413) == ["body"]


def test_a_body_has_its_edge_at_the_limit(fake_store):
    body = json.dumps({**NAMES, "data": "x" * 100}).encode()
    for limit, status in [(len(body), 201), (len(body) - 1, 413)]:
        http = create_app(Settings(max_body_bytes=limit), event_store=fake_store).test_client()
        assert post(http, body).status_code == status
    assert len(fake_store.get_events(1)) == 1


def test_an_append_after_the_end_is_409_and_changes_nothing(http, fake_store):
    last = fake_store.add(1, "lifecycle", "completed")
    answer = http.post(PATH, json=NAMES)
    assert refused(answer, 409) == []
    assert last in answer.json["detail"]
    assert len(fake_store.get_events(1)) == 1
    started = {"event_category": "lifecycle", "event_action": "started"}
    assert http.post(PATH, json=started).status_code == 201


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_key_of_the_wrong_type_is_409(http, fake_client, method):
    fake_client.set("run:1:events", "a string")
    assert refused(http.open(PATH, method=method, json=NAMES), 409) == []
    assert fake_client.get("run:1:events") == b"a string"


# Reading


def read(http: FlaskClient, query: str = "") -> dict:
    answer = http.get(f"{PATH}?{query}")
    assert answer.status_code == 200
    return answer.json


def data_of(page: dict) -> list:
    return [event["data"] for event in page["events"]]


@pytest.fixture
def ids(fake_store: EventStore) -> list[str]:
    """The ids of seven events of run 1, whose data are 0 to 6."""
    names = [("llm", "stream"), ("tool", "call")]
    return [fake_store.add(1, *names[number % 2], number) for number in range(7)]


def test_history_is_events_in_the_shape_of_the_append(http, fake_store):
    first = http.post(PATH, json={**NAMES, "data": "a\u2028"}).json
    fake_store.add(1, "lifecycle", "completed")
    page = read(http)
    assert page["events"][0] == first
    assert [event["sequence"] for event in page["events"]] == [1, 2]
    assert page["next"] is None


def test_an_unknown_run_has_no_events_and_is_no_error(http):
    assert read(http) == {"events": [], "next": None}


@pytest.mark.parametrize("limit", range(1, 9))
@pytest.mark.parametrize(("order", "bound"), [("asc", "after"), ("desc", "before")])
@pytest.mark.usefixtures("ids")
def test_next_is_walked_to_the_end_in_either_order(http, order, bound, limit):
    page = read(http, f"order={order}&limit={limit}")
    seen = data_of(page)
    while page["next"]:
        page = read(http, f"order={order}&limit={limit}&{bound}={page['next']}")
        assert 1 <= len(page["events"]) <= limit
        seen += data_of(page)
    assert seen == (list(range(7)) if order == "asc" else list(range(7))[::-1])


@pytest.mark.usefixtures("ids")
def test_next_is_walked_under_a_filter_too(http):
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
def test_a_page_is_what_the_query_asks_for(http, ids, query, expected):
    assert data_of(read(http, query.format(*ids))) == expected


def test_a_page_has_100_events_unless_it_is_asked_for_more(http, fake_store):
    for number in range(101):
        fake_store.add(1, "llm", "stream", number)
    page = read(http)
    assert (len(page["events"]), page["next"]) == (100, page["events"][-1]["id"])


def test_what_others_wrote_is_in_the_history(http, fake_client):
    fake_client.xadd("run:1:events", {"event_category": b"\xff", "data": '{\n"a": 1}'})
    fake_client.xadd("run:1:events", {"anything": "at all", "data": "{bro"})
    first, second = read(http)["events"]
    assert (first["event"]["category"], first["data"], first["sequence"]) == (
        "\ufffd", {"a": 1}, None,
    )  # fmt: skip
    assert second["data"] == "{bro"


def test_delete_removes_the_log_and_does_not_mind_when_there_is_none(http, fake_client, ids):
    for _ in range(2):
        answer = http.delete(PATH)
        assert (answer.status_code, answer.data) == (204, b"")
    assert fake_client.keys("*") == []


def test_a_body_of_many_unknown_names_is_refused_in_one_message(http):
    body = json.dumps({**NAMES, **{f"unknown{number}": 1 for number in range(1000)}})
    answer = post(http, body.encode())
    assert refused(answer, 422) == ["body"]
    assert len(answer.data) < 1000


@pytest.mark.parametrize("query", ["after=18446744073709551615-18446744073709551615", "before=0-0"])
def test_nothing_lies_beyond_the_ends_of_a_log(http, fake_store, query):
    fake_store.add(1, "llm", "stream")
    assert http.get(f"{PATH}?{query}").json == {"events": [], "next": None}
