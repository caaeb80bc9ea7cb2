"""The TTL of a log: set, renewed, never shortened."""

import pytest

from app.streaming.event_store import EventStore
from tests.servers import wait_until
from tests.streaming.event_store.logs import DAY, HOUR, MAX_TEST_SECONDS, key, ttl


def test_the_first_event_sets_the_idle_ttl(any_store, client, run_id):
    any_store.add(run_id, "llm", "stream")
    assert 7 * DAY - MAX_TEST_SECONDS <= ttl(client, run_id) <= 7 * DAY


def test_the_idle_ttl_is_renewed_after_an_hour(any_store, client, run_id):
    any_store.add(run_id, "llm", "stream")
    client.expire(key(run_id), 7 * DAY - HOUR // 2)
    any_store.add(run_id, "llm", "stream")
    assert ttl(client, run_id) <= 7 * DAY - HOUR // 2
    client.expire(key(run_id), 7 * DAY - HOUR - 1)
    any_store.add(run_id, "llm", "stream")
    assert ttl(client, run_id) >= 7 * DAY - MAX_TEST_SECONDS


def test_a_short_idle_ttl_is_renewed_in_time(any_store, client, run_id):
    store = EventStore(client=client, idle_ttl_seconds=1000)
    store.add(run_id, "llm", "stream")
    client.expire(key(run_id), 500)
    store.add(run_id, "llm", "stream")
    assert ttl(client, run_id) >= 1000 - MAX_TEST_SECONDS


def test_the_idle_ttl_is_never_shortened(any_store, client, run_id):
    any_store.add(run_id, "llm", "stream")
    assert any_store.set_expire(run_id, 30 * DAY)
    any_store.add(run_id, "llm", "stream")
    assert ttl(client, run_id) >= 30 * DAY - MAX_TEST_SECONDS


def test_a_log_that_expired_gets_a_ttl_again(any_store, client, run_id):
    any_store.add(run_id, "llm", "stream")
    client.pexpire(key(run_id), 1)
    wait_until(lambda: not client.exists(key(run_id)), "the log has expired")
    any_store.add(run_id, "llm", "stream")
    assert ttl(client, run_id) >= 7 * DAY - MAX_TEST_SECONDS


@pytest.mark.parametrize("action", ["completed", "failed", "cancelled"])
def test_a_terminal_event_sets_the_ttl_of_an_ended_run(any_store, client, run_id, action):
    any_store.add(run_id, "llm", "stream")
    any_store.add(run_id, "lifecycle", action)
    assert DAY - MAX_TEST_SECONDS <= ttl(client, run_id) <= DAY
    assert any_store.state(run_id).ended


def test_reading_does_not_change_the_ttl_of_a_log_of_another_program(any_store, client, run_id):
    client.xadd(key(run_id), {"event_category": "lifecycle", "event_action": "completed"})
    assert any_store.get_events(run_id)
    assert any_store.state(run_id, ttl=True).ttl is None
    assert ttl(client, run_id) == -1


def test_set_expire_sets_the_ttl_and_says_whether_there_is_a_log(any_store, client, run_id):
    assert not any_store.set_expire(run_id)
    any_store.add(run_id, "llm", "stream")
    assert any_store.set_expire(run_id, ttl_seconds=100)
    assert 100 - MAX_TEST_SECONDS <= ttl(client, run_id) <= 100
    assert any_store.set_expire(run_id)
    assert DAY - MAX_TEST_SECONDS <= ttl(client, run_id) <= DAY
