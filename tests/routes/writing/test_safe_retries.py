"""Safe retries of an append: Idempotency-Key, expected_sequence, leases, and `stored` in a 503."""

import json

import pytest
from flask.testing import FlaskClient

from app import create_app
from app.settings import Settings
from app.streaming.errors import StoreUnavailable
from app.streaming.event_store import EventStore

EVENT = {"event_category": "llm", "event_action": "stream", "data": 1}
PATH = "/runs/1/events"


def post(http: FlaskClient, key: str, event: dict = EVENT, query: str = ""):
    return http.post(PATH + query, json=event, headers={"Idempotency-Key": key})


@pytest.mark.parametrize(("first", "second"), [("k", "k"), ('"k"', '"k"'), ('"k"', "k")])
def test_a_repeated_append_is_200_with_the_first_event(http, fake_store, first, second):
    stored, repeat = post(http, first), post(http, second)
    assert (stored.status_code, repeat.status_code) == (201, 200)
    assert "Idempotent-Replayed" not in stored.headers
    assert repeat.headers["Idempotent-Replayed"] == "true"
    assert repeat.json == stored.json
    assert len(fake_store.get_events(1)) == 1


def test_a_key_that_is_reused_with_another_event_is_422(http, fake_store):
    post(http, "k")
    response = post(http, "k", {**EVENT, "data": 2})
    assert response.status_code == 422
    assert response.mimetype == "application/problem+json"
    assert len(fake_store.get_events(1)) == 1


@pytest.mark.parametrize(
    "key",
    [
        *("", '""', "a b", "x" * 129, '"' + "x" * 129 + '"', "a\tb", '"a', 'a"', '"', "é"),
        # what a server or a proxy makes of several headers
        *("a,b", "a, b", '"a","b"', '"a", "b"', ",a", "a,", '"a",b', 'a,"b"', '"a",b,"c"', '"a",'),
    ],
)
@pytest.mark.parametrize("body", [EVENT, [EVENT, EVENT], "lines"], ids=["one", "batch", "lines"])
def test_a_malformed_idempotency_key_is_400(http, fake_store, key, body):
    content_type = "application/x-ndjson" if body == "lines" else "application/json"
    response = http.post(
        PATH,
        data=json.dumps(EVENT if body == "lines" else body),
        headers={"Idempotency-Key": key, "Content-Type": content_type},
    )
    assert response.status_code == 400
    assert [error["field"] for error in response.json["errors"]] == ["Idempotency-Key"]
    assert fake_store.get_events(1) == []


@pytest.mark.parametrize("key", ['"a,b"', '","', '"a"b"', "a'b;c"])
def test_a_key_may_hold_a_comma_within_quotes(http, key):
    assert [post(http, key).status_code for _ in range(2)] == [201, 200]


def test_a_key_for_lines_is_refused_by_its_name(http):
    response = http.post(
        PATH,
        data=json.dumps(EVENT),
        headers={"Idempotency-Key": "k", "Content-Type": "application/x-ndjson"},
    )
    assert (response.status_code, response.json["errors"][0]["field"]) == (400, "Idempotency-Key")


def test_a_repeated_terminal_event_is_200(http):
    ended = {"event_category": "lifecycle", "event_action": "completed"}
    assert [post(http, "k", ended).status_code for _ in range(3)] == [201, 200, 200]
    refused = post(http, "other", ended)
    assert (refused.status_code, refused.json["ended"]) == (409, True)


def test_an_unexpected_sequence_is_409_with_the_last_sequence(http, fake_store):
    assert http.post(f"{PATH}?expected_sequence=1", json=EVENT).status_code == 201
    response = http.post(f"{PATH}?expected_sequence=1", json=EVENT)
    assert (response.status_code, response.json["last_sequence"]) == (409, 1)
    assert len(fake_store.get_events(1)) == 1


@pytest.mark.parametrize("value", ["", "0", "-1", "1.0", "x", str(2**53 + 1), "١"])
def test_an_invalid_expected_sequence_is_400(http, value):
    response = http.post(PATH, json=EVENT, query_string={"expected_sequence": value})
    assert response.status_code == 400
    assert response.json["errors"][0]["field"] == "expected_sequence"


def test_a_repeated_expected_sequence_is_400(http, fake_store):
    response = http.post(f"{PATH}?expected_sequence=1&expected_sequence=1", json=EVENT)
    assert response.status_code == 400
    assert [error["field"] for error in response.json["errors"]] == ["expected_sequence"]
    assert fake_store.get_events(1) == []


@pytest.mark.parametrize(
    "value", [0, -1, 1.0, 1.5, "5", True, 10**12, [1], 2**64, -(2**63) - 1, {"a": 2**64}]
)
def test_an_invalid_lease_is_422(http, value):
    response = http.post(PATH, json={**EVENT, "lease_seconds": value})
    assert response.status_code == 422
    assert response.json["errors"][0]["field"] == "lease_seconds"


def test_a_lease_is_stored_with_every_event_and_left_out_of_the_history(http, fake_client):
    assert http.post(PATH, json={**EVENT, "lease_seconds": 30}).status_code == 201
    assert http.post(PATH, json=EVENT).status_code == 201
    leases = [fields[b"lease_seconds"] for _, fields in fake_client.xrange("run:1:events")]
    assert leases == [b"30", b"30"]
    assert set(http.get(PATH).json["events"][0]) == {
        *("id", "run_id", "sequence", "timestamp", "event", "data", "source"),
    }


@pytest.mark.parametrize(("stored", "reported"), [(False, False), (None, "unknown")])
def test_a_503_says_whether_the_event_was_stored(fake_client, stored, reported):
    class Failing(EventStore):
        def append_new(self, *args, **kwargs):
            raise StoreUnavailable("away", stored)

    http = create_app(Settings(), event_store=Failing(client=fake_client)).test_client()
    response = http.post(PATH, json=EVENT)
    assert (response.status_code, response.json["stored"]) == (503, reported)
    assert response.headers["Retry-After"]
