"""GET /runs/{id}: the state of one run, and of its log."""

import time

import pytest

from app.streaming.event_id import EventId
from app.streaming.log.run import MAX_META_BYTES


def test_the_state_of_a_run_has_its_length_ids_sequence_and_ttl(http, fake_store, fake_client):
    first = fake_store.append("a", "lifecycle", "started", {"title": "A"}).event
    last = fake_store.append("a", "llm", "stream").event
    fake_client.expire("run:a:events", 1000)
    state = http.get("/runs/a").json
    assert 900 < state.pop("ttl") <= 1000
    assert state == {
        "run_id": "a",
        "state": "active",
        "started_at": first.timestamp,
        "ended_at": None,
        "last_event": {"id": last.id, "timestamp": last.timestamp, "event": last.event},
        "lease_seconds": None,
        "meta": {"title": "A"},
        "length": 2,
        "first_id": first.id,
        "last_id": last.id,
        "last_sequence": 2,
        "ended": False,
    }


def test_the_state_of_an_ended_run_says_that_it_has_ended(http, fake_store):
    fake_store.add("a", "llm", "stream")
    last = fake_store.append("a", "lifecycle", "failed").event
    state = http.get("/runs/a").json
    assert (state["state"], state["ended"], state["ended_at"]) == ("ended", True, last.timestamp)


def test_the_state_tells_the_lease_of_a_run_until_it_ends(http, fake_store):
    fake_store.add("a", "lifecycle", "started", lease_seconds=60)
    fake_store.add("a", "llm", "stream")
    assert http.get("/runs/a").json["lease_seconds"] == 60
    fake_store.add("a", "lifecycle", "completed")
    assert http.get("/runs/a").json["lease_seconds"] is None


def test_a_run_that_was_reopened_is_active(http, fake_store):
    fake_store.add("a", "lifecycle", "failed")
    fake_store.add("a", "lifecycle", "started")
    state = http.get("/runs/a").json
    assert (state["state"], state["ended"], state["ended_at"]) == ("active", False, None)


def test_a_run_whose_lease_has_run_out_is_lost(http, fake_store):
    last_id = fake_store.add("a", "llm", "stream", lease_seconds=1)
    time.sleep(1.1)
    assert fake_store.mark_lost("a", EventId.parse(last_id))
    state = http.get("/runs/a").json
    assert (state["state"], state["ended"]) == ("lost", True)
    assert state["ended_at"] == state["last_event"]["timestamp"]
    assert state["last_event"]["event"] == {"category": "lifecycle", "action": "lost"}


@pytest.mark.parametrize(("size", "is_told"), [(MAX_META_BYTES, True), (MAX_META_BYTES + 1, False)])
def test_the_data_of_the_first_event_is_told_unless_it_is_large(http, fake_store, size, is_told):
    data = "x" * (size - len('""'))
    fake_store.add("a", "lifecycle", "started", data)
    assert http.get("/runs/a").json["meta"] == (data if is_told else None)


def test_a_run_whose_first_event_was_trimmed_still_says_when_it_began(
    http, fake_store, fake_client
):
    first = fake_store.append("a", "lifecycle", "started", {"title": "A"}).event
    fake_store.add("a", "llm", "stream", {"not": "told"})
    fake_client.xtrim("run:a:events", maxlen=1, approximate=False)
    state = http.get("/runs/a").json
    assert state["meta"] is None
    assert state["started_at"][:-5] == first.timestamp[:-5]  # Redis's clock, to the second


@pytest.mark.parametrize("epoch", ["", "x", "9" * 30])
def test_a_run_of_another_program_may_say_less(http, fake_client, epoch):
    fake_client.xadd("run:a:events", {"a": "b"})
    fake_client.xadd("run:a:events", {"timestamp": "t", "sequence": "2", "epoch": epoch})
    fake_client.xtrim("run:a:events", maxlen=1, approximate=False)
    state = http.get("/runs/a").json
    assert (state["state"], state["started_at"], state["meta"]) == ("active", None, None)
    assert state["last_event"]["event"] == {"category": None, "action": None}


def test_a_log_that_another_program_wrote_has_no_ttl(http, fake_client):
    fake_client.xadd("run:a:events", {"anything": "at all"})
    assert http.get("/runs/a").json["ttl"] is None


def test_a_log_without_entries_still_has_its_last_id(http, fake_store, fake_client):
    last = fake_store.add("a", "llm", "stream")
    fake_client.xtrim("run:a:events", maxlen=0, approximate=False)
    state = http.get("/runs/a").json
    assert (state["length"], state["first_id"], state["last_id"]) == (0, None, last)


def test_a_run_without_a_log_is_404(http):
    response = http.get("/runs/a")
    assert (response.status_code, response.mimetype) == (404, "application/problem+json")


def test_an_invalid_run_id_is_400(http):
    response = http.get("/runs/a b")
    assert response.status_code == 400
    assert [error["field"] for error in response.json["errors"]] == ["run_id"]
