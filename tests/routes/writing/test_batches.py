"""Batches: a POST with a JSON array of events stores all of them or none."""

import json

import pytest

from app import create_app
from app.settings import Settings
from app.streaming.event_store import EventStore

PATH = "/runs/1/events"


def event(data: object = None, category: str = "llm", action: str = "stream") -> dict:
    return {"event_category": category, "event_action": action, "data": data}


def test_a_batch_is_201_with_the_ids_and_sequences_of_its_events(http, fake_store):
    http.post(PATH, json=event(0))
    response = http.post(PATH, json=[event(1), event(2), event(3)])
    assert response.status_code == 201
    stored = fake_store.get_events(1)
    assert [each.data for each in stored] == [0, 1, 2, 3]
    assert response.json == {
        "events": [{"id": each.id, "sequence": each.sequence} for each in stored[1:]]
    }
    assert [each.sequence for each in stored] == [1, 2, 3, 4]


def test_a_batch_may_have_events_in_either_form(http, fake_store):
    http.post(PATH, json=event({"a": 1}))
    [read] = http.get(PATH).json["events"]
    assert http.post(PATH, json=[event(), read, {**event(), "source": "me"}]).status_code == 201
    assert [each.source for each in fake_store.get_events(1)] == [None, None, None, "me"]


@pytest.mark.parametrize("size", [1, 1000])
def test_a_batch_has_up_to_a_thousand_events(http, fake_store, size):
    response = http.post(PATH, json=[event(number) for number in range(size)])
    assert response.status_code == 201
    sequences = [each["sequence"] for each in response.json["events"]]
    assert sequences == list(range(1, size + 1))


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"event_category": "llm"}, "event_action"),
        (event(category="a b"), "event_category"),
        (event(category="gateway"), "event_category"),
        (event(category="lifecycle", action="lost"), "event_action"),
        ({**event(), "more": 1}, "more"),
        ({**event(), "lease_seconds": 0}, "lease_seconds"),
        ("text", "body"),
        ([event()], "body"),
        (None, "body"),
    ],
)
@pytest.mark.parametrize("index", [0, 1, 2])
def test_an_invalid_event_is_named_by_its_index_and_nothing_is_stored(
    http, fake_store, bad, field, index
):
    batch = [event(), event()]
    batch.insert(index, bad)
    response = http.post(PATH, json=batch)
    assert response.status_code == 422
    assert [error["field"] for error in response.json["errors"]] == [f"{index}.{field}"]
    assert fake_store.get_events(1) == []


@pytest.mark.parametrize("size", [0, 1001])
def test_an_empty_or_too_large_batch_is_422(http, fake_store, size):
    response = http.post(PATH, json=[event()] * size)
    assert response.status_code == 422
    assert fake_store.get_events(1) == []


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize(
    ("data", "status", "field"),
    [
        ("1e999", 400, ""),
        ("NaN", 400, ""),
        (str(2**64), 422, ".data"),
        (str(-(2**63) - 1), 422, ".data"),
        ("[" * 2000 + "]" * 2000, 400, ""),
        ("[" * 200 + "]" * 200, 422, ".data"),
        ("nul", 400, ""),
    ],
    ids=["1e999", "NaN", "2^64", "-2^63-1", "deepest", "deep", "nul"],
)
def test_an_invalid_value_in_a_batch_is_named_by_its_index(
    http, fake_store, data, status, field, index
):
    items = [json.dumps(event())] * 2
    items.insert(index, f'{{"event_category":"a","event_action":"b","data":{data}}}')
    response = http.post(PATH, data=f" [{' , '.join(items)}]\n", content_type="application/json")
    assert (response.status_code, response.json["errors"][0]["field"]) == (
        status,
        f"{index}{field}",
    )
    assert fake_store.get_events(1) == []


@pytest.mark.parametrize(
    "body", [b"[", b"[1,", b"[]]", b'["a" "b"]', b"[{}", b"\xed\xa0\x80[", b'[{"data": 1e999} 1']
)
def test_a_malformed_array_is_400(http, body):
    response = http.post(PATH, data=body, content_type="application/json")
    assert response.status_code == 400
    assert response.json["errors"][0]["field"] in ("body", "0", "1")


def test_an_event_or_a_batch_over_its_limit_is_413(fake_store):
    settings = Settings(max_event_bytes=1000, max_body_bytes=3000)
    store = EventStore(client=fake_store.engine.client, max_event_bytes=1000)
    http = create_app(settings, event_store=store).test_client()
    response = http.post(PATH, json=[event(), event("x" * 1000)])
    assert (response.status_code, response.json["errors"][0]["field"]) == (413, "1.data")
    assert http.post(PATH, json=[event("x" * 900)] * 4).status_code == 413
    assert fake_store.get_events(1) == []


def test_the_first_of_several_invalid_events_is_named(http):
    bad = [
        (event(1, "gateway"), "event_category"),  # reserved
        ({**event(), "datta": 1}, "datta"),
        (event("x" * 262_144), "data"),
        ("text", "body"),
    ]
    for first, field in bad:
        batch = [event(), first, *(each for each, _ in bad)]
        response = http.post(PATH, json=batch)
        assert [error["field"] for error in response.json["errors"]] == [f"1.{field}"]


def test_only_a_started_event_may_follow_a_terminal_event_in_a_batch(http, fake_store):
    end, start = event(None, "lifecycle", "completed"), event(None, "lifecycle", "started")
    assert http.post(PATH, json=[event(), end, event()]).status_code == 409
    assert fake_store.get_events(1) == []
    assert http.post(PATH, json=[event(), end, start, event()]).status_code == 201
    assert http.get("/runs/1").json["ended"] is False
    assert http.post(PATH, json=[event(), end]).status_code == 201
    assert http.get("/runs/1").json["ended"] is True
    assert http.post(PATH, json=[event()]).status_code == 409


def test_a_repeated_batch_is_200_with_the_stored_events(http, fake_store):
    def post(batch: list, key: str = "k"):
        return http.post(PATH, json=batch, headers={"Idempotency-Key": key})

    batch = [event(1), event(2), event(3)]
    first, again = post(batch), post(batch)
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json == first.json
    assert again.headers["Idempotent-Replayed"] == "true"
    for other in (batch[:2], [*batch, event(4)], [event(1), event(9), event(3)], event(1)):
        assert post(other).status_code == 422
    assert len(fake_store.get_events(1)) == 3
    assert post(batch, "other").status_code == 201


def test_a_batch_is_appended_only_at_its_expected_sequence(http, fake_store):
    assert http.post(f"{PATH}?expected_sequence=1", json=[event(), event()]).status_code == 201
    response = http.post(f"{PATH}?expected_sequence=2", json=[event(), event()])
    assert (response.status_code, response.json["last_sequence"]) == (409, 2)
    assert http.post(f"{PATH}?expected_sequence=3", json=[event()]).status_code == 201


def test_the_last_lease_of_a_batch_holds(http, fake_client):
    leased = [{**event(), "lease_seconds": 30}, {**event(), "lease_seconds": 60}, event()]
    assert http.post(PATH, json=leased).status_code == 201
    leases = [fields[b"lease_seconds"] for _, fields in fake_client.xrange("run:1:events")]
    assert leases[-1] == b"60"


def test_add_many_returns_the_ids_in_order(any_store, run_id):
    ids = any_store.add_many(run_id, [event(number) for number in range(1000)])
    assert [each.id for each in any_store.get_events(run_id)] == ids
    assert len(set(ids)) == 1000
