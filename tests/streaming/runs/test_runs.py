"""The runs of a store: what appends note, what is told of it, and pages of runs."""

import json

import pytest

from app.streaming.errors import RunEnded, StoreUnavailable
from app.streaming.event_id import EventId
from app.streaming.event_store import EventStore
from app.streaming.new_event import Append, NewEvent
from app.streaming.runs import runs as runs_module
from app.streaming.runs.changes import CHANGES
from app.streaming.runs.run_index import Noted, Place
from tests.servers import wait_until


def changes(store: EventStore) -> list[dict]:
    """Return the events that the log of changes tells."""
    entries, _ = store.read(CHANGES, store.state(CHANGES).beginning.id, 1000)
    return [json.loads(fields[fields.index(b"data") + 1]) for _, fields in entries]


def told(store: EventStore) -> list[tuple]:
    return [(e["run_id"], e["event"]["category"], e["event"]["action"]) for e in changes(store)]


def listed(store: EventStore, **options) -> list[str]:
    return [run.run_id for run in store.runs.page(**options).runs]


def test_the_first_event_and_lifecycle_events_are_told(fake_store):
    fake_store.add("a", "llm", "stream", 1)
    fake_store.add("a", "llm", "stream", 2)
    fake_store.add("b", "lifecycle", "started")
    fake_store.add("a", "lifecycle", "completed", {"ok": True})
    fake_store.add("a", "lifecycle", "started")
    fake_store.delete("b")
    fake_store.delete("b")
    assert told(fake_store) == [
        ("a", "llm", "stream"),
        ("b", "lifecycle", "started"),
        ("a", "lifecycle", "completed"),
        ("a", "lifecycle", "started"),
        ("b", "gateway", "deleted"),
    ]


def test_what_is_told_is_the_event_itself(fake_store):
    event = fake_store.append("a", "lifecycle", "started", {"title": "\u2028"}, "me").event
    assert changes(fake_store) == [json.loads(event.to_json())]
    fake_store.add("a", "lifecycle", "completed", "x" * 5000)
    assert changes(fake_store)[1]["data"] is None


def test_a_batch_tells_each_of_its_lifecycle_events(fake_store):
    names = [
        ("llm", "stream"),
        ("lifecycle", "resumed"),
        ("llm", "stream"),
        ("lifecycle", "failed"),
    ]
    events = [{"event_category": c, "event_action": a, "data": n} for n, (c, a) in enumerate(names)]
    ids = fake_store.add_many("a", events)
    assert [(e["id"], e["sequence"], e["data"]) for e in changes(fake_store)] == [
        (ids[0], 1, 0),
        (ids[1], 2, 1),
        (ids[3], 4, 3),
    ]
    assert listed(fake_store, state="ended") == ["a"]


def test_appends_that_share_a_round_trip_are_noted(fake_store):
    event = NewEvent.of("lifecycle", "started")
    ended = NewEvent.of("lifecycle", "completed")
    fake_store.add("over", "lifecycle", "completed")
    outcomes = fake_store.append_each(
        [Append("a", [event]), Append("over", [ended]), Append("b", [event, ended])]
    )
    assert isinstance(outcomes[1], RunEnded)
    assert told(fake_store)[1:] == [
        ("a", "lifecycle", "started"),
        ("b", "lifecycle", "started"),
        ("b", "lifecycle", "completed"),
    ]
    assert listed(fake_store, state="active") == ["a"]
    assert sorted(listed(fake_store, state="ended")) == ["b", "over"]


def test_a_repeat_tells_nothing(fake_store):
    for _ in range(2):
        fake_store.add("a", "lifecycle", "started", idempotency_key="k")
    assert len(changes(fake_store)) == 1


def test_an_append_is_stored_though_the_index_cannot_be_written(fake_store, monkeypatch, caplog):
    def fail(*arguments):
        raise StoreUnavailable("Redis refused: NOPERM")

    monkeypatch.setattr(fake_store.runs.index, "note", fail)
    assert fake_store.add("a", "lifecycle", "started")
    assert "the index of runs cannot be written now" in caplog.text
    assert fake_store.delete("a") is True


@pytest.mark.parametrize("lost", ["the reply to what is told", "the note"])
def test_a_change_is_told_once_though_notes_are_repeated(fake_store, monkeypatch, lost):
    append, note = fake_store.runs._writer.append, fake_store.runs.index.note
    failures = iter([StoreUnavailable("no reply")] * 2)

    def fail() -> None:
        if error := next(failures, None):
            raise error

    def append_and_fail(*arguments):
        append(*arguments)
        fail()

    def note_or_fail(*arguments):
        fail()
        note(*arguments)

    if lost == "the note":
        monkeypatch.setattr(fake_store.runs.index, "note", note_or_fail)
    else:
        monkeypatch.setattr(fake_store.runs._writer, "append", append_and_fail)
    fake_store.add("a", "lifecycle", "started")
    wait_until(lambda: not fake_store.runs._late.are_waiting, "all is noted")
    assert told(fake_store) == [("a", "lifecycle", "started")]
    assert listed(fake_store) == ["a"]


def test_a_lost_run_has_ended(fake_store):
    first = fake_store.append("a", "llm", "stream", lease_seconds=1).event
    fake_store.mark_lost("a", EventId.parse(first.id or ""), watched=True)
    assert told(fake_store)[1:] == [("a", "lifecycle", "lost")]
    assert listed(fake_store, state="ended") == ["a"]


def test_pages_lead_through_all_runs(fake_store):
    names = [f"run-{number}" for number in range(7)]
    for name in names:
        fake_store.add(name, "lifecycle", "started")
    seen, after = [], None
    while True:
        page = fake_store.runs.page(after=after, limit=3)
        seen += [run.run_id for run in page.runs]
        assert len(page.runs) == 3 or page.next is None
        if page.next is None:
            break
        after = page.next
    assert sorted(seen) == names


def test_a_page_that_is_exactly_full_is_the_last(fake_store):
    for name in "abc":
        fake_store.add(name, "lifecycle", "started")
    assert fake_store.runs.page(limit=3).next is None


def test_runs_are_chosen_by_prefix_and_by_what_is_allowed(fake_store):
    for name in ("acme.1", "acme.2", "other.1"):
        fake_store.add(name, "lifecycle", "started")
    assert sorted(listed(fake_store, prefix="acme.")) == ["acme.1", "acme.2"]
    assert listed(fake_store, prefix="nobody") == []
    assert sorted(listed(fake_store, allowed=lambda run: run.endswith(".1"))) == [
        "acme.1",
        "other.1",
    ]


def test_a_page_looks_at_so_many_runs_and_goes_on(fake_store, monkeypatch):
    monkeypatch.setattr(runs_module, "MAX_SCANNED_RUNS", 4)
    for number in range(10):
        fake_store.add(f"run-{number}", "lifecycle", "started")
    page = fake_store.runs.page(prefix="nobody")
    assert page.runs == []
    seen = 1
    while page.next is not None:
        page = fake_store.runs.page(prefix="nobody", after=page.next)
        seen += 1
    assert seen == 3


@pytest.mark.parametrize("cause", ["deleted", "another type"])
def test_a_run_whose_log_is_gone_is_not_listed(fake_store, fake_client, cause):
    for name in "abc":
        fake_store.add(name, "lifecycle", "started")
    fake_client.delete("run:b:events")
    if cause == "another type":
        fake_client.set("run:b:events", "x")
    assert sorted(listed(fake_store)) == ["a", "c"]
    assert len(listed(fake_store, limit=2)) == 2


def test_a_run_is_listed_as_its_log_says(fake_store, fake_client):
    """Another program has ended it, which the index does not know yet."""
    fake_store.add("a", "lifecycle", "started")
    fake_client.xadd("run:a:events", {"event_category": "lifecycle", "event_action": "completed"})
    assert listed(fake_store, state="active") == []
    [run] = fake_store.runs.page().runs
    assert run.state == "ended"


def test_the_cursor_of_a_page_names_no_run_that_is_not_allowed(fake_store, monkeypatch):
    monkeypatch.setattr(runs_module, "MAX_SCANNED_RUNS", 5)
    for number in range(20):
        fake_store.add(f"secret-{number}", "lifecycle", "started")
    fake_store.runs.index.note([Noted("mine", "active", 1)])
    fake_store.add("mine", "llm", "stream")
    after, pages = None, 0
    while True:
        page = fake_store.runs.page(allowed=lambda run_id: run_id == "mine", after=after)
        pages += 1
        if page.next is None:
            break
        assert "secret" not in str(page.next)
        after = Place.parse(str(page.next), "after")
    assert pages >= 4


def test_a_page_looks_into_so_many_logs(fake_store, fake_client, monkeypatch):
    monkeypatch.setattr(runs_module, "MAX_LOGS", 40)
    for number in range(100):
        fake_store.add(f"run-{number}", "lifecycle", "started")
        fake_client.delete(f"run:run-{number}:events")
    page = fake_store.runs.page(limit=1)
    assert (page.runs, page.next is None) == ([], False)


def test_a_run_that_has_begun_again_is_not_gone(fake_store):
    """The deletion is noted late."""
    fake_store.add("a", "lifecycle", "started")
    fake_store.runs.index.note([Noted("a", "gone", 1000)])
    assert listed(fake_store) == ["a"]


def test_the_data_of_a_large_event_are_not_kept_with_its_run(fake_store):
    fake_store.add("a", "llm", "stream", "x" * 5000)
    run = fake_store.run("a")
    assert (run.first_event.data, run.last_event.data, run.meta_json) == (None, None, b"null")
