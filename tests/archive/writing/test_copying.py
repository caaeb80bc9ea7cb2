"""Copying a log: whatever happens to the log meanwhile, the archive says only what is true."""

import contextlib
import threading

import pytest

from app.archive import parts
from app.archive.archive import Archive
from app.archive.names import LogName
from app.archive.parts import PartWriter
from app.archive.writing import copying
from app.archive.writing.copying import CannotArchive, LogChanged, copy_log
from app.streaming.errors import ArchiveUnavailable, NotALog
from app.streaming.event_id import LAST, ZERO
from app.streaming.log.continuity import stretches
from app.streaming.log.position import START
from app.streaming.log.replies import parse_mark
from tests.archive.logs import ODD_FIELDS, append, entries_of, write


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """A few events fill a part."""
    monkeypatch.setattr(parts, "PART_BYTES", 400)
    monkeypatch.setattr(copying, "MIN_PART_BYTES", 100)


@pytest.fixture
def small_pages(monkeypatch):
    monkeypatch.setattr(copying, "INITIAL_COUNT", 2)
    monkeypatch.setattr(copying, "next_count", lambda size, entries: 2)


# How often a copy of a log of 12 events calls, with small pages and parts.
CALLS = 11


def nothing():
    pass


class At:
    """Does something when a copy calls for the n-th time."""

    def __init__(self, number, action):
        self.number, self.action, self.calls = number, action, 0

    def __call__(self):
        self.calls += 1
        if self.calls == self.number:
            self.action()


def archived(archive, run_id):
    manifest = archive.find(run_id)
    return manifest and archive.entries(manifest, ZERO, LAST, 10**6)


def unnamed(archive, run_id):
    """The objects of a run that its manifest does not name."""
    names = set()
    for epoch in archive.epochs(run_id):
        manifest = archive.find(run_id, epoch)
        names |= set(archive.part_names(LogName(run_id, epoch)))
        names -= {part.name for part in manifest.parts} if manifest else set()
    return names


def test_a_log_is_archived_entry_for_entry(archive, any_store, run_id):
    append(any_store, run_id, 20)
    copied = copy_log(any_store, archive, run_id, nothing)
    assert archived(archive, run_id) == entries_of(any_store, run_id)
    manifest = archive.find(run_id)
    assert manifest.state == any_store.state(run_id)
    assert len(manifest.parts) > 3
    assert copied.events == 21
    assert copied.size == sum(part.size for part in manifest.parts)
    assert unnamed(archive, run_id) == set()
    again = copy_log(any_store, archive, run_id, nothing)
    assert (again.events, again.has_written) == (0, False)
    assert archive.find(run_id) == manifest


def test_a_reopened_run_gets_further_parts(archive, any_store, run_id):
    for _ in range(5):
        any_store.add(run_id, "lifecycle", "started")
        append(any_store, run_id, 3)
        copy_log(any_store, archive, run_id, nothing)
        assert archived(archive, run_id) == entries_of(any_store, run_id)
        assert archive.find(run_id).state == any_store.state(run_id)
        assert archive.find(run_id).run.to_json() == any_store.run(run_id).to_json().replace(
            b'"ttl":86400', b'"ttl":null'
        )
        assert unnamed(archive, run_id) == set()


def test_many_small_ends_do_not_make_many_parts(archive, fake_store, run_id, monkeypatch):
    monkeypatch.setattr(parts, "PART_BYTES", 20_000)
    monkeypatch.setattr(copying, "MIN_PART_BYTES", 5_000)
    for _ in range(100):
        fake_store.add(run_id, "lifecycle", "started")
        fake_store.add(run_id, "lifecycle", "completed")
        copy_log(fake_store, archive, run_id, nothing)
    assert archived(archive, run_id) == entries_of(fake_store, run_id)
    assert len(archive.find(run_id).parts) < 10
    assert unnamed(archive, run_id) == set()


def test_what_was_trimmed_stays_in_the_archive(archive, any_store, client, run_id):
    append(any_store, run_id, 10)
    everything = entries_of(any_store, run_id)
    copy_log(any_store, archive, run_id, nothing)
    client.xtrim(f"run:{run_id}:events", maxlen=2, approximate=False)
    any_store.add(run_id, "lifecycle", "started")
    append(any_store, run_id, 2)
    everything += entries_of(any_store, run_id)[2:]
    copy_log(any_store, archive, run_id, nothing)
    assert archived(archive, run_id) == everything
    state = archive.find(run_id).state
    assert (state.first_sequence, state.length, state.last_sequence) == (1, 15, 15)
    assert state.deleted == ZERO


def test_a_trimmed_log_is_archived_as_it_is(archive, any_store, client, run_id):
    append(any_store, run_id, 10)
    client.xtrim(f"run:{run_id}:events", maxlen=3, approximate=False)
    copy_log(any_store, archive, run_id, nothing)
    assert archived(archive, run_id) == entries_of(any_store, run_id)
    assert archive.find(run_id).state == any_store.state(run_id)
    assert archive.find(run_id).state.first_sequence == 9


@pytest.mark.parametrize("left", [0, 2])
def test_what_was_trimmed_before_it_was_archived_is_a_gap(
    archive, store, redis_client, run_id, left
):
    append(store, run_id, 4)
    copy_log(store, archive, run_id, nothing)
    before = archived(archive, run_id)
    store.add(run_id, "lifecycle", "started")
    append(store, run_id, 4)
    redis_client.xtrim(f"run:{run_id}:events", maxlen=left, approximate=False)
    copy_log(store, archive, run_id, nothing)
    entries, state = archived(archive, run_id), archive.find(run_id).state
    assert entries == before + entries_of(store, run_id)
    assert (state.first_sequence, state.length, state.last_sequence) == (1, 5 + left, 11)
    marks = [parse_mark(entry) for entry in entries]
    way = stretches(START, marks, state, whole=True)
    gaps = [(each.start.sequence, each.end.sequence) for each in way if each.notice == "gap"]
    assert gaps == [(5, 11 - left)]
    assert state.ended


def test_a_log_that_was_emptied_is_archived(archive, store, redis_client, run_id):
    append(store, run_id, 3)
    redis_client.xtrim(f"run:{run_id}:events", maxlen=0, approximate=False)
    copy_log(store, archive, run_id, nothing)
    assert archived(archive, run_id) == []
    assert archive.find(run_id).state == store.state(run_id)
    store.add(run_id, "a", "b")
    copy_log(store, archive, run_id, nothing)
    assert archived(archive, run_id) == entries_of(store, run_id)
    assert archive.find(run_id).state == store.state(run_id)


def test_entries_of_other_programs_are_archived(archive, fake_store, fake_client, run_id):
    for _ in range(3):
        for fields in ODD_FIELDS:
            write(fake_client, run_id, fields)
        fake_store.add(run_id, "lifecycle", "completed")
        copy_log(fake_store, archive, run_id, nothing)
        assert archived(archive, run_id) == entries_of(fake_store, run_id)
        assert archive.find(run_id).state == fake_store.state(run_id)
        fake_store.add(run_id, "lifecycle", "started")


def test_a_log_that_only_others_wrote_is_archived(archive, any_store, client, run_id):
    for _ in range(2):
        for number in range(10):
            write(client, run_id, [b"n", b"%d" % number])
        write(client, run_id, [b"event_category", b"lifecycle", b"event_action", b"failed"])
        copy_log(any_store, archive, run_id, nothing)
        assert archived(archive, run_id) == entries_of(any_store, run_id)
        assert archive.find(run_id).state == any_store.state(run_id)


# What happens to a log while it is copied, and whether the copy may be of the log before that.
EVENTS = {
    "append": lambda store, client, run_id: store.add(run_id, "lifecycle", "started"),
    "trim": lambda store, client, run_id: client.xtrim(
        f"run:{run_id}:events", maxlen=2, approximate=False
    ),
    "delete an entry": lambda store, client, run_id: client.xdel(
        f"run:{run_id}:events", entries_of(store, run_id)[4][0]
    ),
    "expire": lambda store, client, run_id: client.delete(f"run:{run_id}:events"),
    "begin anew": lambda store, client, run_id: (store.delete(run_id), append(store, run_id, 12)),
    "append and delete": lambda store, client, run_id: client.xdel(
        f"run:{run_id}:events", store.add(run_id, "lifecycle", "started")
    ),
}


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("number", range(1, CALLS + 1))
def test_a_log_that_changes_while_it_is_copied_is_not_archived(
    archive, any_store, client, run_id, small_pages, event, number
):
    append(any_store, run_id, 11)
    before = entries_of(any_store, run_id)
    at = At(number, lambda: EVENTS[event](any_store, client, run_id))
    try:
        copy_log(any_store, archive, run_id, at)
    except LogChanged:
        assert archived(archive, run_id) is None
        assert unnamed(archive, run_id) == set()
    else:
        # It came after the last look at the log.
        assert at.calls == number
        assert archived(archive, run_id) == before
    copy_log(any_store, archive, run_id, nothing)
    retained = entries_of(any_store, run_id)
    assert [entry for entry in archived(archive, run_id) or () if entry in retained] == retained
    assert unnamed(archive, run_id) == set()


def test_a_copy_calls_that_often(archive, fake_store, run_id, small_pages):
    append(fake_store, run_id, 11)
    copy_log(fake_store, archive, run_id, at := At(0, nothing))
    assert at.calls == CALLS


@pytest.mark.parametrize("number", range(1, CALLS + 1))
def test_two_archivers_leave_one_archive(archive, fake_store, run_id, small_pages, number):
    append(fake_store, run_id, 11)

    def reopen_and_copy():
        fake_store.add(run_id, "lifecycle", "started")
        append(fake_store, run_id, 3)
        copy_log(fake_store, archive, run_id, nothing, clean=True)

    with pytest.raises(LogChanged):
        copy_log(fake_store, archive, run_id, At(number, reopen_and_copy))
    assert archived(archive, run_id) == entries_of(fake_store, run_id)
    assert unnamed(archive, run_id) == set()


@pytest.mark.parametrize("number", range(1, CALLS + 1))
def test_a_run_that_is_deleted_while_it_is_copied_stays_deleted(
    archive, fake_store, run_id, small_pages, number
):
    append(fake_store, run_id, 11)

    def delete():
        archive.delete(run_id, fake_store.state(run_id).epoch)
        fake_store.delete(run_id)

    with pytest.raises(LogChanged):
        copy_log(fake_store, archive, run_id, At(number, delete))
    assert archive.find(run_id) is None
    assert unnamed(archive, run_id) == set()


def test_a_deleted_log_is_never_archived_again(archive, fake_store, run_id):
    append(fake_store, run_id)
    archive.delete(run_id, fake_store.state(run_id).epoch)
    for _ in range(2):
        assert copy_log(fake_store, archive, run_id, nothing, clean=True).is_deleted
        fake_store.add(run_id, "lifecycle", "started")
    assert archive.find(run_id) is None
    fake_store.delete(run_id)
    append(fake_store, run_id)
    copy_log(fake_store, archive, run_id, nothing)
    assert archived(archive, run_id) == entries_of(fake_store, run_id)


class Killed(BaseException):
    """As by SIGKILL: nothing is caught."""


@pytest.mark.parametrize("is_second", [False, True])
@pytest.mark.parametrize("number", range(1, CALLS + 1))
def test_what_a_killed_archiver_left_is_cleaned(
    archive, fake_store, run_id, small_pages, number, is_second
):
    def kill():
        raise Killed

    append(fake_store, run_id, 11)
    if is_second:
        copy_log(fake_store, archive, run_id, nothing)
        before = archive.find(run_id)
        fake_store.add(run_id, "lifecycle", "started")
        append(fake_store, run_id, 11)
    with pytest.raises(Killed):
        copy_log(fake_store, archive, run_id, At(number, kill))
    assert archive.find(run_id) == (before if is_second else None)
    fake_store.add(run_id, "lifecycle", "started")
    append(fake_store, run_id, 2)
    copy_log(fake_store, archive, run_id, nothing, clean=True)
    assert archived(archive, run_id) == entries_of(fake_store, run_id)
    assert unnamed(archive, run_id) == set()


def test_an_archiver_that_cleans_stops_the_one_before(archive, fake_store, run_id, small_pages):
    """Else the parts that are deleted could be named by a manifest of that one."""
    append(fake_store, run_id, 11)
    version = archive.version(LogName(run_id, fake_store.state(run_id).epoch))
    assert version.version is None

    def clean():
        copying._clean(archive, LogName(run_id, fake_store.state(run_id).epoch), version)

    with pytest.raises(LogChanged):
        copy_log(fake_store, archive, run_id, At(9, clean))
    assert archive.find(run_id) is None


@pytest.mark.parametrize("number", range(1, 7))
def test_an_archiver_that_is_frozen_while_it_cleans_deletes_nothing_of_the_next_one(
    archive, fake_store, run_id, small_pages, number
):
    """Between two calls of the storage, another one cleans, and copies a part or all."""
    append(fake_store, run_id, 11)
    epoch = fake_store.state(run_id).epoch
    log_name = LogName(run_id, epoch)
    archive.put_part(*left_over(fake_store, run_id))
    for step in range(1, CALLS + 1):
        storage, others = archive.storage, []

        def copy_in_part(storage=storage, others=others, step=step):
            archive.storage = storage
            others.append(Thread(fake_store, archive, run_id, step))

        archive.storage = Hooked(storage, number, copy_in_part)
        with contextlib.suppress(LogChanged):
            copying._clean(archive, log_name, archive.version(log_name))
        archive.storage = storage
        for other in others:
            other.finish()
        if manifest := archive.find(run_id):
            assert archive.entries(manifest, ZERO, LAST, 100) == entries_of(fake_store, run_id)
        for name in list(archive.storage.names("")):
            archive.storage.delete(name)


def left_over(store, run_id):
    """A part that a killed archiver has left."""
    writer = PartWriter(LogName(run_id, store.state(run_id).epoch))
    writer.add(entries_of(store, run_id)[0])
    return writer.finish()


class Thread:
    """Another archiver, which has come to a step of its copy, and then goes on."""

    def __init__(self, store, archive, run_id, step):
        self._there, self._go_on = threading.Event(), threading.Event()
        self._left = step
        other = Archive(archive.storage, max_cached_bytes=0)
        self._thread = threading.Thread(target=self._run, args=(store, other, run_id))
        self._thread.start()
        self._there.wait(10)

    def _run(self, store, archive, run_id):
        with contextlib.suppress(LogChanged):
            copy_log(store, archive, run_id, self._step, clean=True)
        self._there.set()

    def _step(self):
        self._left -= 1
        if self._left == 0:
            self._there.set()
            self._go_on.wait(10)

    def finish(self):
        self._go_on.set()
        self._thread.join(10)


class Hooked:
    """A storage that does something before its n-th call."""

    def __init__(self, storage, number, action):
        self._storage, self._left, self._action = storage, number, action

    def __getattr__(self, name):
        method = getattr(self._storage, name)

        def call(*arguments):
            self._left -= 1
            if self._left == 0:
                self._action()
            return method(*arguments)

        return call


class Broken:
    """A storage that fails at its n-th call, before or after it has done what it should."""

    def __init__(self, storage, number, does_it):
        self.storage, self.left, self.does_it = storage, number, does_it

    def __getattr__(self, name):
        method = getattr(self.storage, name)

        def call(*arguments):
            self.left -= 1
            if self.left == 0:
                if self.does_it:
                    method(*arguments)
                raise ArchiveUnavailable("away")
            return method(*arguments)

        return call


@pytest.mark.parametrize("does_it", [False, True])
@pytest.mark.parametrize("number", range(1, 10))
def test_a_storage_that_fails_anywhere_is_tried_again(archive, fake_store, run_id, number, does_it):
    append(fake_store, run_id, 11)
    storage, archive.storage = archive.storage, Broken(archive.storage, number, does_it)
    try:
        copy_log(fake_store, archive, run_id, nothing)
    except ArchiveUnavailable:
        archive.storage = storage
        copy_log(fake_store, archive, run_id, nothing, clean=True)
    archive.storage = storage
    assert archived(archive, run_id) == entries_of(fake_store, run_id)
    assert unnamed(archive, run_id) == set()


@pytest.mark.parametrize("is_trimmed", [False, True])
def test_a_log_that_lost_its_end_is_archived_as_it_is_now(
    archive, store, redis_client, run_id, is_trimmed
):
    """As after a failover to a replica that lacked the last events."""
    append(store, run_id, 6, ended=False)
    lost = redis_client.dump(f"run:{run_id}:events")
    append(store, run_id, 6)
    copy_log(store, archive, run_id, nothing)
    before = archived(archive, run_id)
    redis_client.delete(f"run:{run_id}:events")
    redis_client.restore(f"run:{run_id}:events", 0, lost)
    append(store, run_id, 2)
    if is_trimmed:
        redis_client.xtrim(f"run:{run_id}:events", maxlen=4, approximate=False)
    copy_log(store, archive, run_id, nothing)
    retained = entries_of(store, run_id)
    expected = before[:5] + retained if is_trimmed else retained
    assert archived(archive, run_id) == expected
    state = archive.find(run_id).state
    assert (state.first_sequence, state.last_sequence, state.length) == (1, 9, 9)
    assert state.ended
    assert unnamed(archive, run_id) == set()


def test_a_run_without_a_log_has_nothing_to_archive(archive, fake_store, run_id):
    assert copy_log(fake_store, archive, run_id, nothing).state is None
    assert archive.epochs(run_id) == []


def test_a_key_of_another_type_is_not_archived(archive, fake_store, fake_client, run_id):
    fake_client.set(f"run:{run_id}:events", "x")
    with pytest.raises(NotALog):
        copy_log(fake_store, archive, run_id, nothing)


def test_a_log_without_an_epoch_is_not_archived(archive, store, redis_client, run_id):
    redis_client.execute_command("ACL", "SETUSER", "nogroups", "on", ">x", "~*", "+@all", "-xgroup")
    write(redis_client, run_id, [b"a", b"1"])
    url = store.engine.client.connection_pool.connection_kwargs
    other = type(store)(f"redis://nogroups:x@{url['host']}:{url['port']}/0")
    with pytest.raises(CannotArchive, match="XGROUP"):
        copy_log(other, archive, run_id, nothing)
