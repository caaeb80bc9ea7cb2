"""The archiver finds what is due, goes on after failures, and holds what it cannot archive."""

import logging
import threading
from pathlib import Path

import pytest

from app.archive.archive import Archive
from app.archive.file_storage import FileStorage
from app.archive.writing import archiver as archiving
from app.archive.writing import due as finding
from app.archive.writing.archiver import Archiver
from app.archive.writing.due import DueLogs
from app.archive.writing.notes import Notes
from app.streaming.errors import ArchiveUnavailable
from app.streaming.event_id import LAST, ZERO
from app.streaming.event_store import EventStore
from tests.archive.logs import append, entries_of, write
from tests.servers import wait_until


@pytest.fixture
def due(own_store, metrics):
    notes = Notes(own_store, "one")
    return DueLogs(own_store, notes, hold_seconds=100, idle_ttl_seconds=604_800, metrics=metrics)


def found(due, grace=0.0):
    return [look.run_id for look in due.find(grace, lambda seconds: None)]


def value(metrics, name, **labels):
    return metrics._registry.get_sample_value(f"tailrace_archive_{name}", labels)


def is_archived(archive, store, run_id):
    manifest = archive.find(run_id)
    return manifest is not None and archive.entries(manifest, ZERO, LAST, 10**6) == entries_of(
        store, run_id
    )


# What is due


def test_ended_runs_are_due_the_first_to_expire_at_the_head(due, own_store, metrics):
    for number in range(250):
        append(own_store, f"run-{number}", 1)
    append(own_store, "active", 1, ended=False)
    own_store.set_expire("run-77", 80_000)
    own_store.set_expire("run-42", 70_000)
    runs = found(due)
    assert runs[:2] == ["run-42", "run-77"]
    assert sorted(runs) == sorted(f"run-{number}" for number in range(250))
    assert value(metrics, "due_logs") == 250
    assert 69_000 < value(metrics, "next_expiry_seconds") <= 70_000


def test_only_so_many_are_due_at_once(due, own_store, monkeypatch):
    monkeypatch.setattr(finding, "MAX_DUE", 3)
    for number in range(9):
        append(own_store, f"run-{number}", 1)
        own_store.set_expire(f"run-{number}", 50_000 - number)
    assert found(due) == ["run-8", "run-7", "run-6"]


def test_a_run_that_has_just_ended_is_due_later_unless_it_expires_soon(due, own_store):
    append(own_store, "run")
    assert found(due, grace=100.0) == []
    own_store.set_expire("run", 1000)
    assert found(due, grace=100.0) == ["run"]


def test_a_run_that_goes_on_is_due_when_it_expires_soon(due, own_store):
    append(own_store, "run", ended=False)
    assert found(due) == []
    own_store.set_expire("run", 3000)
    assert found(due) == ["run"]


def test_a_run_with_ids_in_the_future_is_due(due, own_store, own_redis):
    with own_redis.client() as client:
        fields = [b"event_category", b"lifecycle", b"event_action", b"failed"]
        write(client, "run", fields, "99999999999999-1")
    own_store.census().take()
    assert found(due, grace=100.0) == ["run"]


def test_nothing_is_due_without_runs(due, metrics):
    assert found(due) == []
    assert value(metrics, "next_expiry_seconds") == float("inf")


def test_what_is_due_is_held_and_told_at_the_limit(due, own_store, own_redis, metrics, caplog):
    append(own_store, "run")
    own_store.set_expire("run", 10)
    with own_redis.client() as client:
        assert found(due) == ["run"]
        assert 100 < client.ttl("run:run:events") <= 110
        assert value(metrics, "held_logs") == 1
        assert value(metrics, "unarchived_logs_at_limit") == 1
        assert found(due) == ["run"]
    [record] = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert "run run is not archived" in record.getMessage()
    assert "ARCHIVE_HOLD_SECONDS" in record.getMessage()


# One pass


def test_a_pass_archives_what_has_ended(archiver, archive, own_store, metrics):
    for number in range(20):
        append(own_store, f"Run-{number}", 3)
    append(own_store, "active", ended=False)
    assert archiver.run_once() == 0
    for number in range(20):
        assert is_archived(archive, own_store, f"Run-{number}")
    assert archive.find("active") is None
    assert value(metrics, "archived_runs_total") == 20
    assert value(metrics, "archived_events_total") == 80
    assert value(metrics, "archived_bytes_total") > 1000
    names = list(archive.storage.names(""))
    assert archiver.run_once() == 0
    assert sorted(archive.storage.names("")) == sorted(names)
    assert value(metrics, "archived_runs_total") == 20


def test_a_pass_goes_on_after_a_damaged_manifest(
    archiver, archive, own_store, folder, metrics, caplog
):
    for name in ("a", "b", "c"):
        append(own_store, name)
    archiver.run_once()
    for name in ("a", "b", "c"):
        own_store.add(name, "lifecycle", "started")
        append(own_store, name)
    (folder / archive.find("b").log_name.manifest).write_text("{")
    assert archiver.run_once() == 1
    assert is_archived(archive, own_store, "a")
    assert is_archived(archive, own_store, "c")
    assert value(metrics, "failures_total", kind="damaged") == 1
    [record] = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert "b/" in record.getMessage()
    assert "manifest.json" in record.getMessage()


def test_a_key_of_another_type_does_not_keep_the_others(archiver, archive, own_store, own_redis):
    append(own_store, "a")
    append(own_store, "b")
    with own_redis.client() as client:
        client.set("run:a:events", "x")
    assert archiver.run_once() == 0
    assert is_archived(archive, own_store, "b")
    assert archive.find("a") is None


def test_a_pass_says_how_many_could_not_be_archived(own_store, metrics, caplog):
    append(own_store, "a")
    append(own_store, "b")
    archiver = Archiver(
        own_store, Archive(Away()), hold_seconds=9, idle_ttl_seconds=9, metrics=metrics
    )
    assert archiver.run_once() == 2
    assert value(metrics, "failures_total", kind="storage") == 2
    assert len([each for each in caplog.records if each.levelno == logging.WARNING]) == 1


def test_a_run_that_was_deleted_is_not_archived(archiver, archive, own_store):
    append(own_store, "a")
    archive.delete("a", own_store.state("a").epoch)
    assert archiver.run_once() == 0
    assert archive.find("a") is None


def test_a_run_that_another_archiver_has_claimed_is_left_to_it(archiver, archive, own_store):
    append(own_store, "a")
    others = Notes(own_store, "another")
    others.claim("a")
    assert archiver.run_once() == 1
    assert archive.find("a") is None
    others.give_up("a")
    assert archiver.run_once() == 0
    assert is_archived(archive, own_store, "a")


def test_a_lost_claim_ends_a_copy(archiver, archive, own_store, monkeypatch):
    append(own_store, "a")
    monkeypatch.setattr(archiving, "CLAIM_SECONDS", -1.0)  # it is renewed at every call
    claim = archiver._notes.claim
    monkeypatch.setattr(
        archiver._notes,
        "claim",
        lambda run_id, taken=[]: taken.append(1) or (len(taken) < 2, False),
    )
    assert archiver.run_once() == 1
    assert archive.find("a") is None
    monkeypatch.setattr(archiver._notes, "claim", claim)
    assert archiver.run_once() == 0
    assert is_archived(archive, own_store, "a")


# In the background


class Away:
    """A storage that does not answer."""

    def __getattr__(self, name):
        def fail(*arguments):
            raise ArchiveUnavailable("the archive is away")

        return fail


@pytest.fixture
def at_once(monkeypatch):
    for name in ("GRACE_SECONDS", "LOOK_SECONDS", "RETRY_SECONDS", "MAX_PAUSE_SECONDS"):
        monkeypatch.setattr(archiving, name, 0.05)


@pytest.fixture
def running(archiver, at_once):
    threads = archiver.start()
    yield archiver
    archiver.stop()
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()


def test_runs_are_archived_as_they_end(running, archive, own_store):
    for number in range(10):
        append(own_store, f"run-{number}")
    for number in range(10):
        wait_until(lambda n=number: is_archived(archive, own_store, f"run-{n}"), "it is archived")
    own_store.add("run-3", "lifecycle", "started")
    append(own_store, "run-3")
    wait_until(lambda: is_archived(archive, own_store, "run-3"), "it is archived again")


def test_a_storage_that_comes_back_gets_everything(running, archive, own_store, metrics, caplog):
    caplog.set_level(logging.INFO)
    storage, archive.storage = archive.storage, Away()
    for number in range(5):
        append(own_store, f"run-{number}")
    wait_until(lambda: value(metrics, "failures_total", kind="storage") > 10, "it tries again")
    told = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert ["cannot archive now" in each.getMessage() for each in told] == [True]
    archive.storage = storage
    for number in range(5):
        wait_until(lambda n=number: is_archived(archive, own_store, f"run-{n}"), "it is archived")
    wait_until(lambda: "archiving again" in caplog.text, "it says so")


def test_one_log_that_fails_does_not_keep_the_others(running, archive, own_store, metrics):
    put = archive.storage.put
    archive.storage.put = lambda name, data: put(name, data) if name[:2] != "a/" else Away().put()
    append(own_store, "a")
    wait_until(lambda: value(metrics, "failures_total", kind="storage"), "it fails")
    for name in ("b", "c", "d"):
        append(own_store, name)
        wait_until(lambda name=name: is_archived(archive, own_store, name), "it is archived")


def test_a_redis_that_comes_back_goes_on_being_archived(
    at_once, archive, metrics, start_redis_server, caplog
):
    server = start_redis_server("--appendonly", "yes", "--appendfsync", "always").start()
    store = EventStore(server.url)
    archiver = Archiver(store, archive, hold_seconds=9, idle_ttl_seconds=9, metrics=metrics)
    threads = archiver.start()
    try:
        append(store, "a")
        wait_until(lambda: is_archived(archive, store, "a"), "it is archived")
        server.stop()
        wait_until(lambda: "cannot archive now" in caplog.text, "it says so")
        server.start()
        append(store, "b")
        wait_until(lambda: is_archived(archive, store, "b"), "it is archived")
    finally:
        archiver.stop()
        for thread in threads:
            thread.join(5)
        server.stop()
    assert "Traceback" not in caplog.text


def test_a_directory_that_cannot_be_made_is_told(own_store, metrics, caplog):
    append(own_store, "a")
    archive = Archive(FileStorage(Path("/proc/archive")))
    archiver = Archiver(own_store, archive, hold_seconds=9, idle_ttl_seconds=9, metrics=metrics)
    assert archiver.run_once() == 1
    assert "cannot archive now" in caplog.text
    assert value(metrics, "failures_total", kind="storage") == 1


def test_two_copiers_never_have_the_same_log(running, archive, own_store, monkeypatch):
    at_work, twice, lock = set(), [], threading.Lock()
    copy = archiving.copy_log

    def watched(store, archive, run_id, keep_on, **options):
        with lock:
            twice.extend({run_id} & at_work)
            at_work.add(run_id)
        try:
            return copy(store, archive, run_id, keep_on, **options)
        finally:
            with lock:
                at_work.discard(run_id)

    monkeypatch.setattr(archiving, "copy_log", watched)
    for _ in range(10):
        own_store.add("a", "lifecycle", "started")
        append(own_store, "a")
        append(own_store, "b")
        own_store.add("b", "lifecycle", "started")
        own_store.add("b", "lifecycle", "failed")
        wait_until(lambda: is_archived(archive, own_store, "a"), "it is archived")
        own_store.add("b", "lifecycle", "started")
    assert twice == []


def test_a_storage_that_is_away_is_told_before_anything_is_due(at_once, own_store, metrics, caplog):
    archiver = Archiver(
        own_store, Archive(Away()), hold_seconds=9, idle_ttl_seconds=9, metrics=metrics
    )
    threads = archiver.start()
    wait_until(lambda: "cannot archive now" in caplog.text, "it says so")
    archiver.stop()
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()
