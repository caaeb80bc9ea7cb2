"""Requests to a producer, by the client over HTTP."""

from itertools import islice

import pytest

from app.streaming.errors import InvalidInput, Refused, RunEnded


def test_a_producer_gets_each_request_once(client, store, run_id):
    store.add(run_id, "lifecycle", "started")
    first = client.request(run_id, "pause", {"for": 5}, source="viewer")
    client.request(run_id, "pause", {"for": 5}, source="viewer")
    store.add(run_id, "llm", "stream")
    requests = client.requests(run_id)
    one, other = islice(requests, 2)
    assert (one.id, one.action, one.data, one.source) == (first, "pause", {"for": 5}, "viewer")
    assert other.id != first
    store.add(run_id, "lifecycle", "completed")
    assert list(requests) == []
    assert [each.id for each in client.requests(run_id, first)] == [other.id]


def test_a_request_may_be_repeated_with_its_key(client, store, run_id):
    store.add(run_id, "lifecycle", "started")
    first = client.request(run_id, "cancel", idempotency_key="a")
    assert client.request(run_id, "cancel", idempotency_key="a") == first


def test_a_request_that_cannot_be_is_refused(client, store, run_id):
    with pytest.raises(Refused) as failed:
        client.request(run_id, "cancel")
    assert failed.value.status == 404
    with pytest.raises(InvalidInput):
        client.request(run_id, "not a name")
    store.add(run_id, "lifecycle", "completed")
    with pytest.raises(RunEnded):
        client.request(run_id, "cancel")
