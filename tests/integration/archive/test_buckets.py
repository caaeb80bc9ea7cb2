"""The archive in a bucket of S3, and an S3 server that fails."""

from datetime import timedelta

import pytest

from app.archive import object_storage
from app.archive.archive import Archive
from app.archive.restoring import Restorer
from app.archive.storage import storage_of
from app.archive.writing.archiver import Archiver
from app.archive.writing.copying import LogChanged, copy_log
from app.archive.writing.metrics import Metrics
from app.streaming.errors import ArchiveUnavailable
from tests.archive.logs import append, entries_of
from tests.integration.archive.archivers import archive_at, archived, assert_whole, is_archived
from tests.integration.archive.buckets import FailingServer, S3Server
from tests.servers import wait_until


@pytest.fixture(scope="module")
def s3():
    with S3Server() as server:
        yield server


@pytest.fixture
def bucket(s3, monkeypatch, run_id) -> str:
    """The URL of an archive in a bucket that is this test's alone."""
    for name, value in s3.environ.items():
        monkeypatch.setenv(name, value)
    return f"{s3.url}/{run_id}"


@pytest.fixture
def archive(bucket) -> Archive:
    return archive_at(bucket)


def nothing():
    pass


def test_objects_are_kept_as_files_are(bucket):
    storage = storage_of(bucket)
    assert storage.get("a+3/1/x") is None
    assert list(storage.names("a+3")) == storage.folders("") == []
    storage.put("a+3/1/x", b"one")
    storage.put("a+3/2/x", b"")
    storage.put("a/1/x", b"two")
    assert storage.get("a+3/1/x").data == b"one"
    assert storage.get("a+3/2/x").data == b""
    assert sorted(storage.names("a+3")) == ["a+3/1/x", "a+3/2/x"]
    assert sorted(storage.folders("")) == ["a", "a+3"]
    assert storage.folders("a+3") == ["1", "2"]
    storage.delete("a/1/x")
    storage.delete("a/1/x")
    assert storage.get("a/1/x") is None


def test_an_object_is_replaced_only_as_the_caller_knows_it(bucket):
    storage = storage_of(bucket)
    assert storage.replace("a/1/m", b"one", None)
    assert not storage.replace("a/1/m", b"two", None)
    one = storage.get("a/1/m")
    assert storage.replace("a/1/m", b"two", one.version)
    assert not storage.replace("a/1/m", b"three", one.version)
    assert storage.get("a/1/m").data == b"two"
    storage.delete("a/1/m")
    assert not storage.replace("a/1/m", b"three", one.version)


def test_nothing_is_known_of_what_a_missing_bucket_holds(bucket):
    storage = storage_of("s3://no-such-bucket/archive")
    calls = [
        lambda: storage.get("a/1/NoSuchBucket"),
        lambda: storage.folders("a"),
        lambda: list(storage.names("a/1")),
        lambda: storage.put("a/1/x", b"one"),
        lambda: storage.replace("a/1/x", b"one", None),
    ]
    for call in calls:
        with pytest.raises(ArchiveUnavailable):
            call()
    assert storage_of(bucket).get("a/1/<Code>NoSuchBucket<") is None


def test_a_run_is_archived_reopened_restored_and_deleted(archive, runs, server):
    append(runs, "Run", 300)
    copy_log(runs, archive, "Run", nothing)
    assert_whole(archive, runs, "Run")
    runs.add("Run", "lifecycle", "started")
    append(runs, "Run", 300)
    copy_log(runs, archive, "Run", nothing)
    assert_whole(archive, runs, "Run")
    state, entries = runs.state("Run"), entries_of(runs, "Run")
    with server.client() as client:
        client.delete("run:Run:events")
    Restorer(runs, archive, ended_ttl_seconds=99, idle_ttl_seconds=99).restore("Run")
    assert (runs.state("Run"), entries_of(runs, "Run")) == (state, entries)
    assert list(archive.run_ids()) == ["Run"]
    assert archive.delete("Run")
    assert archive.find("Run") is None
    assert len(list(archive.storage.names(""))) == 1
    assert copy_log(runs, archive, "Run", nothing).is_deleted


def test_the_second_of_two_archivers_changes_nothing(archive, runs):
    append(runs, "a", 5)
    calls = []

    def copy_meanwhile():
        calls.append(1)
        if len(calls) == 2:
            copy_log(runs, archive, "a", nothing)

    with pytest.raises(LogChanged):
        copy_log(runs, archive, "a", copy_meanwhile)
    assert_whole(archive, runs, "a")


def test_an_archiver_archives_to_s3(start_archiver, archive, bucket, runs):
    archiver = start_archiver(ARCHIVE_URL=bucket)
    for number in range(20):
        append(runs, f"run-{number}", 20)
    for number in range(20):
        run_id = f"run-{number}"
        wait_until(lambda run_id=run_id: is_archived(archive, runs, run_id), "it is archived")
        assert_whole(archive, runs, run_id)
    archiver.process.terminate()
    assert archiver.wait() == 0


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setitem(object_storage._CLIENT, "timeout", timedelta(seconds=0.3))
    monkeypatch.setitem(object_storage._RETRIES, "max_retries", 1)


@pytest.mark.parametrize("status", [500, 503, 403, 404, None], ids=str)
def test_a_server_that_fails_is_unavailable(impatient, monkeypatch, status):
    with FailingServer(status) as failing:
        for name, value in failing.environ.items():
            monkeypatch.setenv(name, value)
        storage = storage_of("s3://bucket/path")
        attempts = [lambda: storage.put("a/1/x", b"x"), lambda: storage.folders("")]
        if status != 404:  # as for an object that is not there
            attempts.append(lambda: storage.replace("a/1/x", b"x", ("e", None)))
            attempts.append(lambda: storage.get("a/1/x"))
        for attempt in attempts:
            with pytest.raises(ArchiveUnavailable) as raised:
                attempt()
            assert "\n" not in str(raised.value)


@pytest.mark.parametrize("status", [500, None], ids=str)
def test_while_the_server_fails_logs_are_held_and_then_archived(
    impatient, monkeypatch, runs, server, s3, bucket, status, caplog
):
    append(runs, "a", 20)
    runs.set_expire("a", 60)
    metrics = Metrics()
    with FailingServer(status) as failing:
        monkeypatch.setenv("AWS_ENDPOINT_URL", failing.environ["AWS_ENDPOINT_URL"])
        away = Archive(storage_of(bucket))
        archiver = Archiver(runs, away, hold_seconds=9999, idle_ttl_seconds=9, metrics=metrics)
        assert archiver.run_once() == 1
    assert "cannot archive now" in caplog.text
    with server.client() as client:
        assert client.ttl("run:a:events") > 3000
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    archive = archive_at(bucket)
    archiver = Archiver(runs, archive, hold_seconds=9999, idle_ttl_seconds=9, metrics=metrics)
    assert archiver.run_once() == 0
    assert_whole(archive, runs, "a")
    with server.client() as client:
        assert client.ttl("run:a:events") <= 60


def test_a_frozen_s3_server_does_not_keep_an_archiver_from_ending(
    start_archiver, bucket, s3, runs, tmp_path
):
    append(runs, "a", 5)
    with FailingServer(None) as silent:
        archiver = start_archiver(
            ARCHIVE_URL=bucket, AWS_ENDPOINT_URL=silent.environ["AWS_ENDPOINT_URL"]
        )
        claim = "{run:a:events}:archiving"
        wait_until(lambda: runs.engine.client.exists(claim), "it has begun")
        archiver.process.terminate()
        assert archiver.wait() == 0  # the server is still silent
    assert archived(archive_at(bucket), "a") is None
