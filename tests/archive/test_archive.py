"""What was archived is read as Redis would reply it; what is damaged is named."""

import gzip
import subprocess

import orjson
import pytest

from app.archive.archive import Archive
from app.archive.file_storage import FileStorage
from app.archive.manifest import parse_manifest
from app.archive.names import LogName
from app.streaming.errors import DamagedArchive
from app.streaming.event_id import LAST, ZERO, EventId
from tests.archive.archiving import archive_log
from tests.archive.logs import ODD_FIELDS, append, entries_of, write


def test_a_manifest_comes_back_as_it_was_written(archive, any_store, run_id):
    append(any_store, run_id)
    manifest = archive_log(archive, any_store, run_id)
    assert archive.find(run_id) == manifest
    assert archive.find(run_id, manifest.log_name.epoch) == manifest
    assert archive.find(run_id).state == any_store.state(run_id)
    assert archive.find(run_id).run.to_json() == any_store.run(run_id).to_json().replace(
        b'"ttl":86400', b'"ttl":null'
    )
    assert archive.find(run_id, b"1") is None
    assert archive.find("another") is None
    assert list(archive.run_ids()) == [run_id]


def test_an_empty_log_has_a_manifest_without_parts(archive, store, redis_client, run_id):
    store.add(run_id, "a", "b")
    redis_client.xtrim(f"run:{run_id}:events", maxlen=0, approximate=False)
    manifest = archive_log(archive, store, run_id)
    assert manifest.parts == ()
    assert archive.find(run_id) == manifest
    assert archive.entries(manifest, ZERO, LAST, 10) == []


@pytest.mark.parametrize("descending", [False, True])
def test_every_range_is_what_redis_would_reply(archive, fake_store, run_id, descending):
    append(fake_store, run_id, 6)
    entries = entries_of(fake_store, run_id)
    manifest = archive_log(archive, fake_store, run_id)
    ids = [ZERO, *(EventId.from_redis(entry[0]) for entry in entries), LAST]
    for after in ids:
        for upto in ids:
            expected = [e for e in entries if after < EventId.from_redis(e[0]) <= upto]
            if descending:
                expected.reverse()
            for count in (1, 2, 3, 100):
                found = archive.entries(manifest, after, upto, count, descending=descending)
                assert found == expected[:count]


def test_entries_of_other_programs_are_read_as_they_were(archive, fake_store, fake_client, run_id):
    fake_store.add(run_id, "a", "b")
    for fields in ODD_FIELDS:
        write(fake_client, run_id, fields)
    manifest = archive_log(archive, fake_store, run_id, part_size=3)
    assert archive.entries(manifest, ZERO, LAST, 100) == entries_of(fake_store, run_id)


def test_a_part_is_lines_that_zcat_shows(archive, fake_store, folder, run_id):
    append(fake_store, run_id, 1)
    [part] = archive_log(archive, fake_store, run_id).parts
    lines = subprocess.run(["zcat", folder / part.name], capture_output=True, check=True).stdout
    assert [orjson.loads(line)["sequence"] for line in lines.splitlines()] == [1, 2]
    assert [event.to_json() for event in fake_store.get_events(run_id)] == lines.splitlines()


def test_the_newest_log_of_a_run_is_found(archive, fake_store, run_id):
    append(fake_store, run_id)
    first = archive_log(archive, fake_store, run_id)
    fake_store.delete(run_id)
    append(fake_store, run_id)
    second = archive_log(archive, fake_store, run_id)
    assert archive.find(run_id) == second != first
    assert archive.find(run_id, first.log_name.epoch) == first


def test_a_part_is_read_once_and_kept_within_a_limit(archive, fake_store, folder, run_id):
    append(fake_store, run_id, 5)
    manifest = archive_log(archive, fake_store, run_id)
    small = Archive(FileStorage(folder), max_cached_bytes=1)
    everything = small.entries(manifest, ZERO, LAST, 100)
    assert archive.entries(manifest, ZERO, LAST, 100) == everything
    for part in manifest.parts:
        (folder / part.name).unlink()
    assert archive.entries(manifest, ZERO, LAST, 100) == everything
    last = manifest.parts[-1]
    assert small.entries(manifest, last.first_id.before(), LAST, 100) == everything[-last.count :]
    with pytest.raises(DamagedArchive):
        small.entries(manifest, ZERO, LAST, 1)


def damage_checksum(data):
    return data[:-1] + bytes([data[-1] ^ 1])


def other_events(data):
    lines = gzip.decompress(data).splitlines(keepends=True)
    return gzip.compress(b"".join(lines[:-1]))


@pytest.mark.parametrize("damage", [damage_checksum, other_events, lambda data: b""])
def test_a_damaged_part_is_named_and_the_others_are_read(
    archive, fake_store, folder, run_id, damage
):
    append(fake_store, run_id, 5)
    manifest = archive_log(archive, fake_store, run_id)
    path = folder / manifest.parts[1].name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DamagedArchive) as raised:
        archive.entries(manifest, ZERO, LAST, 100)
    assert raised.value.name == manifest.parts[1].name
    assert manifest.parts[1].name in str(raised.value)
    first, _, third = manifest.parts
    assert len(archive.entries(manifest, ZERO, first.last_id, 100)) == first.count
    assert len(archive.entries(manifest, third.first_id.before(), LAST, 100)) == third.count


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"{}", b"null", b'{"version":2,"run_id":"a","epoch":"1"}', b"\xff", b"[" * 10_000,
     b'{"version":1,"run_id":"a","epoch":"1"}'],
)  # fmt: skip
def test_a_damaged_manifest_is_named(archive, fake_store, folder, run_id, text):
    append(fake_store, run_id)
    manifest = archive_log(archive, fake_store, run_id)
    (folder / manifest.log_name.manifest).write_bytes(text)
    with pytest.raises(DamagedArchive) as raised:
        archive.find(run_id)
    assert raised.value.name == manifest.log_name.manifest


def test_the_manifest_of_another_run_is_none(archive, fake_store, folder, run_id):
    append(fake_store, run_id)
    log_name = archive_log(archive, fake_store, run_id).log_name
    path = folder / log_name.manifest
    path.write_bytes(path.read_bytes().replace(run_id.encode(), b"other"))
    with pytest.raises(DamagedArchive, match="another log"):
        archive.find(run_id)


def test_a_deleted_run_does_not_come_back(archive, fake_store, folder, run_id):
    append(fake_store, run_id)
    manifest = archive_log(archive, fake_store, run_id)
    before = archive.version(manifest.log_name)
    assert archive.delete(run_id)
    assert not archive.delete(run_id)
    assert archive.find(run_id) is None
    assert archive.version(manifest.log_name).is_deleted
    assert not archive.commit(manifest, before.version)
    assert not archive.commit(manifest, None)
    assert archive.find(run_id) is None
    assert list(archive.storage.names("")) == [manifest.log_name.manifest]


def test_a_run_that_is_being_archived_can_be_deleted(archive, run_id):
    log_name = LogName(run_id, b"17")
    assert not archive.delete(run_id, b"17")
    assert archive.version(log_name).is_deleted
    assert not archive.delete("never-heard-of")


def test_a_manifest_whose_reply_was_lost_is_committed(archive, fake_store, run_id, monkeypatch):
    append(fake_store, run_id)
    replace = archive.storage.replace
    # The first request arrives, its reply is lost, and the second one finds what the first wrote.
    monkeypatch.setattr(
        archive.storage, "replace", lambda *request: replace(*request) and replace(*request)
    )
    manifest = archive_log(archive, fake_store, run_id)
    assert archive.find(run_id) == manifest


def test_a_manifest_is_json_for_people_too(archive, fake_store, folder, run_id):
    append(fake_store, run_id)
    manifest = archive_log(archive, fake_store, run_id)
    document = orjson.loads((folder / manifest.log_name.manifest).read_bytes())
    assert document["run_id"] == run_id
    assert document["ended_at"] == document["last_event"]["timestamp"]
    assert document["started_at"] == document["first_event"]["timestamp"]
    assert parse_manifest(orjson.dumps(document)) == manifest
