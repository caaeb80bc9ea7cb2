"""The event store appends: sequences, trimming, options, and the end of a run."""

import pytest

from app.streaming.errors import RunEnded
from app.streaming.event_store import EventStore
from tests.streaming.event_store.logs import (
    DAY,
    MAX_TEST_SECONDS,
    InBackground,
    add_many,
    key,
    ttl,
)


def test_an_event_reads_as_it_was_appended(any_store, run_id):
    event_id = any_store.add(run_id, "lifecycle", "started", {"task": "分析数据"}, {"by": 1})
    [event] = any_store.get_events(run_id)
    assert (event.id, event.run_id, event.sequence) == (event_id, run_id, 1)
    assert event.event == {"category": "lifecycle", "action": "started"}
    assert (event.data, event.source) == ({"task": "分析数据"}, {"by": 1})


def test_append_returns_the_stored_event(any_store, run_id):
    appended = any_store.append(run_id, "llm", "stream", [1, "a\n\u2028"], "me").event
    assert any_store.get_events(run_id) == [appended]


def test_an_entry_has_the_fields_of_the_contract(any_store, client, run_id):
    any_store.add(run_id, "llm", "stream", {"a": 1})
    any_store.add(run_id, "llm", "stream", None, ["b"])
    (_, first), (_, second) = client.xrange(key(run_id))
    assert first.pop(b"timestamp").endswith(b"Z")
    assert first.pop(b"epoch") == second[b"epoch"]
    assert first == {
        b"sequence": b"1",
        b"event_category": b"llm",
        b"event_action": b"stream",
        b"data": b'{"a":1}',
    }
    assert (second[b"sequence"], second[b"data"], second[b"source"]) == (b"2", b"null", b'["b"]')


@pytest.mark.parametrize("run_id", [7, "7"])
def test_a_run_id_is_a_number_or_its_text(any_store, client, run_id):
    client.delete(key("7"))
    any_store.add(run_id, "llm", "stream")
    assert client.exists(key("7"))
    assert [event.run_id for event in any_store.get_events(7)] == ["7"]


def test_sequences_count_from_one_within_each_run(any_store, run_id):
    add_many(any_store, run_id, 3)
    any_store.add(f"{run_id}-other", "llm", "stream")
    any_store.add(run_id, "llm", "stream")
    assert [event.sequence for event in any_store.get_events(run_id)] == [1, 2, 3, 4]
    assert [event.sequence for event in any_store.get_events(f"{run_id}-other")] == [1]


def test_concurrent_producers_get_sequences_without_gap_or_repeat(any_store, run_id):
    producers = [InBackground(lambda: add_many(any_store, run_id, 25)) for _ in range(8)]
    for producer in producers:
        producer.wait()
    assert [event.sequence for event in any_store.get_events(run_id)] == list(range(1, 201))


def test_no_sequence_repeats_after_entries_are_deleted_or_trimmed(store, redis_client, run_id):
    ids = add_many(store, run_id, 3)
    redis_client.xdel(key(run_id), ids[-1])
    assert store.append(run_id, "llm", "stream").event.sequence == 4
    redis_client.xtrim(key(run_id), maxlen=0, approximate=False)
    assert store.append(run_id, "llm", "stream").event.sequence == 5


def test_sequences_start_again_after_the_log_is_deleted(any_store, run_id):
    add_many(any_store, run_id, 3)
    assert any_store.delete(run_id)
    assert any_store.append(run_id, "llm", "stream").event.sequence == 1


def test_a_log_retains_about_maxlen_entries(any_store, client, run_id):
    store = EventStore(client=client, maxlen=100)
    add_many(store, run_id, 400)
    assert 100 <= client.xlen(key(run_id)) < 300
    assert store.get_events(run_id)[-1].sequence == 400


def test_one_round_trip_appends_and_trims_approximately(store, redis_server, redis_client, run_id):
    store.add(run_id, "llm", "stream")  # so that the server knows the script
    with redis_client.monitor() as monitor:
        store.add(run_id, "llm", "stream")
        redis_client.echo("the end")
        seen = []
        while not seen or "the end" not in seen[-1]["command"]:
            seen.append(monitor.next_command())
    ours = [command for command in seen if run_id in command["command"]]
    sent = [command["command"] for command in ours if command["client_type"] != "lua"]
    assert [command.split()[0] for command in sent] == ["EVALSHA"]
    assert any("XADD" in each["command"] and "MAXLEN ~ 10000" in each["command"] for each in ours)


@pytest.mark.parametrize("name", ["add", "append", "add_many", "append_many", "append_new"])
def test_an_unknown_option_is_a_type_error(fake_store, run_id, name):
    arguments = ("llm", "stream") if name in ("add", "append") else ([],)
    with pytest.raises(TypeError, match="lease"):
        getattr(fake_store, name)(run_id, *arguments, lease=60)


@pytest.mark.parametrize("option", ["run_id", "new_events"])
def test_an_option_cannot_replace_an_argument(fake_store, run_id, option):
    with pytest.raises(TypeError, match=option):
        fake_store.add(run_id, "llm", "stream", **{option: []})


# The end of a run


@pytest.mark.parametrize("action", ["completed", "failed", "cancelled"])
def test_an_append_after_the_end_is_refused_and_changes_nothing(any_store, client, run_id, action):
    last = any_store.add(run_id, "lifecycle", action)
    client.expire(key(run_id), 100)
    for category, refused in (("llm", "stream"), ("lifecycle", "completed"), ("tool", "started")):
        with pytest.raises(RunEnded, match=last):
            any_store.add(run_id, category, refused)
    assert len(any_store.get_events(run_id)) == 1
    assert ttl(client, run_id) <= 100


def test_a_started_event_reopens_a_run_and_restores_the_idle_ttl(any_store, client, run_id):
    any_store.add(run_id, "lifecycle", "completed")
    assert any_store.append(run_id, "lifecycle", "started").event.sequence == 2
    assert ttl(client, run_id) >= 7 * DAY - MAX_TEST_SECONDS
    assert any_store.append(run_id, "llm", "stream").event.sequence == 3
    any_store.add(run_id, "lifecycle", "failed")
    assert ttl(client, run_id) <= DAY
    with pytest.raises(RunEnded):
        any_store.add(run_id, "llm", "stream")


@pytest.mark.parametrize("action", ["completed", "lost"])
def test_a_terminal_entry_of_another_program_ends_the_run_too(any_store, client, run_id, action):
    client.xadd(key(run_id), {"event_category": "lifecycle", "event_action": action})
    with pytest.raises(RunEnded):
        any_store.add(run_id, "llm", "stream")


def test_a_run_is_ended_only_while_its_last_entry_is_terminal(any_store, client, run_id):
    any_store.add(run_id, "lifecycle", "completed")
    client.xadd(key(run_id), {"anything": "at all"})
    assert not any_store.state(run_id).ended
    assert any_store.append(run_id, "llm", "stream").event.sequence == 3
