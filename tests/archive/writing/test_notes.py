"""What archivers note of a log: claims, holds, and how far it is archived."""

import pytest

from app.streaming.errors import NotALog
from tests.archive.logs import append, write

HOUR_MS = 3_600_000


def keys_of(run_id):
    log = f"run:{run_id}:events"
    return log, f"{{{log}}}:keys", f"{{{log}}}:key-order"


def expiry(client, run_id):
    return client.execute_command("PEXPIRETIME", keys_of(run_id)[0])


def test_a_look_says_what_is_due(notes, any_store, client, run_id):
    append(any_store, run_id)
    append(any_store, f"{run_id}-active", ended=False)
    write(client, f"{run_id}-others", [b"event_category", b"lifecycle", b"event_action", b"lost"])
    client.set(f"run:{run_id}-text:events", "x")
    looks = notes.look([f"{run_id}{end}" for end in ("", "-active", "-others", "-text", "-none")])
    ended, active, others, text, none = looks
    assert (ended.ended, active.ended, others.ended) == (True, False, True)
    assert 86_000 < ended.expires_in <= 86_400
    assert others.expires_in is None
    assert text is none is None
    assert not ended.is_archived
    assert 0 <= ended.silent_seconds < 100
    assert notes.look([]) == []


def test_a_log_is_archived_until_something_is_added(notes, any_store, run_id):
    append(any_store, run_id)
    notes.archived(run_id, any_store.state(run_id))
    assert notes.look([run_id])[0].is_archived
    any_store.add(run_id, "lifecycle", "started")
    assert not notes.look([run_id])[0].is_archived
    any_store.delete(run_id)
    append(any_store, run_id)
    assert not notes.look([run_id])[0].is_archived


def test_one_archiver_claims_a_log(notes, others_notes, any_store, client, run_id):
    assert notes.claim(run_id) == (False, False)
    append(any_store, run_id)
    assert notes.claim(run_id) == (True, False)
    assert others_notes.claim(run_id) == (False, False)
    assert notes.claim(run_id) == (True, True)
    others_notes.give_up(run_id)
    assert others_notes.claim(run_id) == (False, False)
    notes.give_up(run_id)
    assert others_notes.claim(run_id) == (True, True)
    others_notes.archived(run_id, any_store.state(run_id))
    assert notes.claim(run_id) == (True, False)


def test_a_claim_ends_by_itself(notes, others_notes, any_store, client, run_id):
    append(any_store, run_id)
    notes.claim(run_id)
    client.hset(f"{{run:{run_id}:events}}:archiving", "claimed_until", 1)
    assert others_notes.claim(run_id) == (True, True)
    assert notes.claim(run_id) == (False, False)


def test_a_log_is_held_again_and_again_up_to_the_limit(notes, any_store, client, run_id):
    append(any_store, run_id)
    any_store.add(run_id, "lifecycle", "started", idempotency_key="k")
    any_store.set_expire(run_id, 1000)
    first = expiry(client, run_id)
    assert notes.hold(run_id, 5000, 100, 3600).expires_at == first  # it has enough left
    held = notes.hold(run_id, 5000, 2000, 3600)
    assert held.limit_at == first + 5_000_000
    assert held.expires_at == expiry(client, run_id)
    assert first + 2_600_000 <= held.expires_at < first + 2_700_000
    assert not held.is_at_limit
    again = notes.hold(run_id, 5000, 4000, 9000)
    assert (again.expires_at, again.limit_at) == (held.limit_at, held.limit_at)
    assert again.is_at_limit
    assert notes.hold(run_id, 5000, 10_000, 20_000) == again
    for key in keys_of(run_id):
        assert client.execute_command("PEXPIRETIME", key) == again.expires_at


def test_an_append_ends_a_hold(notes, any_store, client, run_id):
    append(any_store, run_id)
    any_store.set_expire(run_id, 10)
    held = notes.hold(run_id, 5000, 100, 3600)
    any_store.add(run_id, "lifecycle", "started")
    assert expiry(client, run_id) > held.limit_at
    any_store.set_expire(run_id, 10)
    assert notes.hold(run_id, 5000, 100, 3600).limit_at >= held.limit_at


@pytest.mark.parametrize("limit", [0, 1])
def test_a_log_is_not_held_beyond_the_limit(notes, any_store, client, run_id, limit):
    append(any_store, run_id)
    any_store.set_expire(run_id, 10)
    first = expiry(client, run_id)
    held = notes.hold(run_id, limit, 100, 3600)
    assert held == (first + 1000 * limit, first + 1000 * limit)
    assert held.is_at_limit


def test_what_never_expires_is_not_held(notes, any_store, client, run_id):
    assert notes.hold(run_id, 5000, 100, 3600) is None
    write(client, run_id, [b"a", b"1"])
    held = notes.hold(run_id, 5000, 100, 3600)
    assert not held.is_at_limit
    assert client.ttl(keys_of(run_id)[0]) == -1


def test_a_held_log_expires_soon_after_it_is_archived(notes, any_store, client, run_id):
    append(any_store, run_id)
    any_store.set_expire(run_id, 10)
    notes.hold(run_id, 5000, 100, 3600)
    notes.archived(run_id, any_store.state(run_id))
    assert 50 < client.ttl(keys_of(run_id)[0]) <= 60
    notes.archived(run_id, any_store.state(run_id))
    assert 50 < client.ttl(keys_of(run_id)[0]) <= 60


def test_a_held_log_expires_when_it_would_have(notes, any_store, client, run_id):
    append(any_store, run_id)
    any_store.set_expire(run_id, 1000)
    first = expiry(client, run_id)
    notes.hold(run_id, 5000, 2000, 3600)
    notes.archived(run_id, any_store.state(run_id))
    assert expiry(client, run_id) == first


def test_a_log_that_was_not_held_keeps_its_ttl(notes, any_store, client, run_id):
    append(any_store, run_id)
    first = expiry(client, run_id)
    notes.claim(run_id)
    notes.archived(run_id, any_store.state(run_id))
    assert expiry(client, run_id) == first
    assert first < client.execute_command("PEXPIRETIME", f"{{run:{run_id}:events}}:archiving")


def test_notes_do_not_stay_without_a_log(notes, any_store, client, run_id):
    append(any_store, run_id)
    state = any_store.state(run_id)
    notes.claim(run_id)
    client.delete(keys_of(run_id)[0])
    notes.archived(run_id, state)
    assert client.keys(f"*run:{run_id}:events*") == []


def test_a_key_of_another_type_is_named(notes, client, run_id):
    client.set(keys_of(run_id)[0], "x")
    client.set(f"{{run:{run_id}:events}}:archiving", "x")
    with pytest.raises(NotALog):
        notes.claim(run_id)
