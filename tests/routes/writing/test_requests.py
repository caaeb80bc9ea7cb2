"""POST /runs/{id}/requests: the way back to a run's producer."""

import pytest

from tests.routes.refusals import check_refusal

PATH = "/runs/1/requests"


@pytest.fixture
def started(fake_store) -> str:
    return fake_store.add(1, "lifecycle", "started")


def test_a_request_is_an_event_of_the_run(http, fake_store, started):
    response = http.post(PATH, json={"action": "cancel", "data": {"why": "\u2028"}, "source": "me"})
    assert response.status_code == 201
    assert response.json["event"] == {"category": "request", "action": "cancel"}
    assert (response.json["data"], response.json["source"]) == ({"why": "\u2028"}, "me")
    assert response.json["sequence"] == 2
    assert [e.id for e in fake_store.get_events_after(1, started)] == [response.json["id"]]


def test_a_request_with_an_idempotency_key_may_be_repeated(http, fake_store, started):
    headers = {"Idempotency-Key": '"a"'}
    first = http.post(PATH, json={"action": "cancel"}, headers=headers)
    second = http.post(PATH, json={"action": "cancel"}, headers=headers)
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json == second.json
    other = http.post(PATH, json={"action": "pause"}, headers=headers)
    assert check_refusal(other, 422) == []


def test_a_run_without_a_log_is_404_and_gets_none(http, fake_client):
    check_refusal(http.post(PATH, json={"action": "cancel"}), 404)
    assert fake_client.keys("*") == []


def test_an_ended_run_is_409(http, fake_store):
    fake_store.add(1, "lifecycle", "completed")
    response = http.post(PATH, json={"action": "cancel"})
    check_refusal(response, 409)
    assert response.json["ended"] is True


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, ["action"]),
        ({"action": ""}, ["action"]),
        ({"action": "a.b"}, ["action"]),
        ({"action": 1}, ["action"]),
        ({"action": "cancel", "lease_seconds": 1}, ["lease_seconds"]),
        ({"action": "cancel", "event_category": "llm"}, ["event_category"]),
        ([{"action": "cancel"}], ["body"]),
        ("cancel", ["body"]),
        ({f"n{number}": 1 for number in range(1000)}, ["body"]),
    ],
)
def test_a_request_with_the_wrong_form_is_422(http, started, body, fields):
    assert check_refusal(http.post(PATH, json=body), 422) == fields


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"{", "application/json", 400),
        (b'{"action": "cancel"}', "application/x-ndjson", 415),
        (b"action=cancel", "application/x-www-form-urlencoded", 415),
        (b'{"action": "cancel", "data": "%b"}' % (b"x" * 300_000), "application/json", 413),
        (b"x" * 5_000_000, "application/json", 413),
    ],
)
def test_a_body_that_cannot_be_a_request(http, started, body, content_type, status):
    check_refusal(http.post(PATH, data=body, content_type=content_type), status)


@pytest.mark.parametrize("run_id", ["a b", "..", "a" * 129])
def test_an_invalid_run_id_is_400(http, run_id):
    response = http.post(f"/runs/{run_id}/requests", json={"action": "cancel"})
    assert check_refusal(response, 400) == ["run_id"]
