"""Appending and deleting events, with Flask's test client."""

import json

import pytest
import redis
from flask.testing import FlaskClient

from app import create_app
from app.settings import Settings
from tests.routes.refusals import check_refusal

NAMES = {"event_category": "llm", "event_action": "stream"}
PATH = "/runs/1/events"


def body_with_data(data: str) -> bytes:
    return b'{"event_category": "llm", "event_action": "stream", "data": %b}' % data.encode()


def post(http: FlaskClient, body: bytes):
    return http.post(PATH, data=body, content_type="application/json")


def test_an_append_is_201_with_the_stored_event(http, fake_store):
    response = http.post(PATH, json={**NAMES, "data": {"a": "分\u2028"}, "source": [1]})
    assert response.status_code == 201
    assert response.mimetype == "application/json"
    [stored] = fake_store.get_events(1)
    assert response.data == stored.to_json()
    assert response.json == {
        "id": stored.id,
        "run_id": "1",
        "sequence": 1,
        "timestamp": stored.timestamp,
        "event": {"category": "llm", "action": "stream"},
        "data": {"a": "分\u2028"},
        "source": [1],
    }


def test_data_and_source_are_optional(http):
    response = http.post(PATH, json=NAMES)
    assert (response.json["data"], response.json["source"]) == (None, None)


def test_an_ignored_name_may_hold_any_integer(http):
    assert http.post(PATH, json={**NAMES, "id": 2**64, "sequence": -(2**70)}).status_code == 201


def test_an_event_that_was_read_may_be_appended_again(http):
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
def test_every_json_content_type_is_accepted(http, content_type):
    response = http.post(PATH, data=json.dumps(NAMES), content_type=content_type)
    assert response.status_code == 201


@pytest.mark.parametrize("run_id", ["a", "A-z_0.9", "...", "a" * 128])
def test_a_valid_run_id_is_accepted(http, run_id):
    assert http.post(f"/runs/{run_id}/events", json=NAMES).json["run_id"] == run_id


@pytest.mark.parametrize(
    "value",
    [
        *("18446744073709551615", "-9223372036854775808", "1.5", "-0.0", "1e308", '"\\u0000"'),
        *("123456789012345678901.5", "[" * 128 + "]" * 128, '"12345678901234567890"', "[[], {}]"),
    ],
)
def test_any_json_value_is_accepted_as_data(http, fake_store, value):
    assert post(http, body_with_data(value)).status_code == 201
    assert fake_store.get_events(1)[0].data == json.loads(value)


# A refused request changes nothing


@pytest.fixture
def nothing_stored(fake_client: redis.Redis):
    """Check after the test that Redis holds no key."""
    yield
    assert fake_client.keys("*") == []


BAD_RUN_IDS = ["a b", "a:b", "é", "a\n", "*", "{a}", ".", "..", "a" * 129, "a%00"]


@pytest.mark.parametrize("run_id", BAD_RUN_IDS)
@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
@pytest.mark.usefixtures("nothing_stored")
def test_an_invalid_run_id_is_400(http, method, run_id):
    path = f"/runs/{run_id.replace(chr(10), '%0A')}/events"
    json_body = NAMES if method == "POST" else None
    assert check_refusal(http.open(path, method=method, json=json_body), 400) == ["run_id"]


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b" ", b"{", b"{'a': 1}", b'{"a": 1,}', b"nonsense", b'{"a": 1} {', b"\xff", b"\0"),
        *(b'\xef\xbb\xbf{"a": 1}', '{"a": 1}'.encode("utf-16")),
        *map(body_with_data, ["NaN", "Infinity", "-Infinity", "1e400", "-1e400", "01", ".5"]),
        *map(body_with_data, ['"\\q"', '"\n"']),
        *map(body_with_data, ["[" * 10_000 + "]" * 10_000, '{"a":' * 10_000 + "1" + "}" * 10_000]),
        b'{"event_category": "llm", "event_action": "stream", "data": "\xff"}',
    ],
    ids=lambda body: body[:16],
)
@pytest.mark.usefixtures("nothing_stored")
def test_a_body_that_is_not_json_is_400(http, body):
    assert check_refusal(post(http, body), 400) == ["body"]


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        (r'"\ud83d"', "\ufffd"),
        (r'"\udc00a"', "\ufffda"),
        (r'{"\ud800": "\ud83d\ude00"}', {"\ufffd": "😀"}),
        (r'[18446744073709551615, "\ud800"]', [2**64 - 1, "\ufffd"]),
        (r'"\\ud83d"', r"\ud83d"),
    ],
)
def test_half_of_a_surrogate_pair_is_stored_as_the_replacement_character(
    http, fake_store, text, stored
):
    """Tokens of a language model may end within a pair."""
    response = post(http, body_with_data(text))
    assert (response.status_code, response.json["data"]) == (201, stored)
    assert fake_store.get_events(1)[0].data == stored


def test_a_long_number_beside_half_of_a_surrogate_pair_is_exact(http, fake_store):
    response = post(http, body_with_data(r'{"\ud83d": 12345678901234567890}'))
    assert response.json["data"] == {"\ufffd": 12345678901234567890}
    bad = b'{"event_category":"llm","event_action":"a","\\ud83d":1,"data":12345678901234567890}'
    assert check_refusal(post(http, bad), 422) == ["\ufffd"]


@pytest.mark.parametrize("value", ["18446744073709551616", "-9223372036854775809", "9" * 300])
@pytest.mark.usefixtures("nothing_stored")
def test_an_integer_over_64_bits_is_422(http, value):
    assert check_refusal(post(http, body_with_data(f"[{value}]")), 422) == ["data"]


@pytest.mark.parametrize("depth", [129, 200, 900, 990, 1020])
@pytest.mark.parametrize("inner", ["1", "12345678901234567890"])
@pytest.mark.usefixtures("nothing_stored")
def test_data_that_is_nested_too_deeply_is_422(http, depth, inner):
    data = "[" * depth + inner + "]" * depth
    assert check_refusal(post(http, body_with_data(data)), 422) == ["data"]


@pytest.mark.parametrize("body", ["text", None, 1, True])
@pytest.mark.usefixtures("nothing_stored")
def test_a_json_body_that_is_not_an_object_is_422(http, body):
    assert check_refusal(post(http, json.dumps(body).encode()), 422) == ["body"]


def test_a_body_with_a_content_encoding_is_415(http):
    response = http.post(PATH, json=NAMES, headers={"Content-Encoding": "gzip"})
    assert check_refusal(response, 415) == ["Content-Encoding"]
    assert http.post(PATH, json=NAMES, headers={"Content-Encoding": "identity"}).status_code == 201


@pytest.mark.parametrize(
    "content_type",
    [None, "", "text/plain", "application/x-www-form-urlencoded", "application/jsonp",
     "multipart/form-data", "application/json; charset=utf-16"],
)  # fmt: skip
@pytest.mark.usefixtures("nothing_stored")
def test_another_content_type_is_415(http, content_type):
    response = http.post(PATH, data=json.dumps(NAMES), content_type=content_type)
    assert check_refusal(response, 415) == ["Content-Type"]


BAD_NAMES = ["", "a" * 65, "a b", "a.b", "a\n", "é", "a/b", None, 1, ["a"], {}, True]


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("field", ["event_category", "event_action"])
@pytest.mark.usefixtures("nothing_stored")
def test_an_invalid_name_is_422_in_either_form(http, field, name):
    assert check_refusal(http.post(PATH, json={**NAMES, field: name}), 422) == [field]
    event = {"category": "llm", "action": "stream", field.removeprefix("event_"): name}
    assert check_refusal(http.post(PATH, json={"event": event}), 422) == [field]


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
        ({"event": {"category": "a", "action": "b", "x": 1}}, ["event.x"]),
        ({"event": {"category": "a", "event_action": "b"}}, ["event.event_action", "event_action"]),
        ({"event": {f"x{number}": 1 for number in range(1000)}}, ["event"]),
        ({**NAMES, "datta": 2**64}, ["datta"]),
        ({**NAMES, "event_category": 2**64}, ["event_category"]),
        ({**NAMES, "source": [{"a": 2**64}]}, ["source"]),
    ],
)
@pytest.mark.usefixtures("nothing_stored")
def test_an_event_with_wrong_members_is_422(http, body, fields):
    assert sorted(check_refusal(http.post(PATH, json=body), 422)) == fields


@pytest.mark.parametrize("field", ["data", "source"])
@pytest.mark.usefixtures("nothing_stored")
def test_an_event_over_the_limit_is_413(http, field):
    body = {**NAMES, field: "x" * 262_144}
    assert check_refusal(http.post(PATH, json=body), 413) == [field]


@pytest.mark.usefixtures("nothing_stored")
def test_a_body_over_the_limit_is_413(http):
    assert check_refusal(post(http, body_with_data('"%s"' % ("x" * 5_000_000))), 413) == ["body"]


def test_a_body_of_exactly_the_limit_is_accepted(fake_store):
    body = json.dumps({**NAMES, "data": "x" * 100}).encode()
    for limit, status in [(len(body), 201), (len(body) - 1, 413)]:
        http = create_app(Settings(max_body_bytes=limit), event_store=fake_store).test_client()
        assert post(http, body).status_code == status
    assert len(fake_store.get_events(1)) == 1


def test_an_append_to_an_ended_run_is_409_and_changes_nothing(http, fake_store):
    last = fake_store.add(1, "lifecycle", "completed")
    response = http.post(PATH, json=NAMES)
    assert check_refusal(response, 409) == []
    assert last in response.json["detail"]
    assert len(fake_store.get_events(1)) == 1
    started = {"event_category": "lifecycle", "event_action": "started"}
    assert http.post(PATH, json=started).status_code == 201


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
def test_a_redis_key_of_the_wrong_type_is_409(http, fake_client, method):
    fake_client.set("run:1:events", "a string")
    assert check_refusal(http.open(PATH, method=method, json=NAMES), 409) == []
    assert fake_client.get("run:1:events") == b"a string"


# Pages of history


def test_delete_is_204_with_and_without_a_log(http, fake_client, ids):
    for _ in range(2):
        response = http.delete(PATH)
        assert (response.status_code, response.data) == (204, b"")
    assert fake_client.keys("*run:*") == []


def test_a_body_with_many_unknown_names_is_refused_with_one_error(http):
    body = json.dumps({**NAMES, **{f"unknown{number}": 1 for number in range(1000)}})
    response = post(http, body.encode())
    assert check_refusal(response, 422) == ["body"]
    assert len(response.data) < 1000
