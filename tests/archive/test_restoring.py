"""A restored log is the log that it was; whatever interrupts it, nothing half is left."""

import pytest

from app.archive.restoring import CannotRestore, Restorer
from app.archive.writing.copying import copy_log
from app.streaming.errors import DamagedArchive, StoreUnavailable
from app.streaming.event_id import ZERO
from app.streaming.log.continuity import stretches
from app.streaming.log.position import START
from app.streaming.log.replies import parse_mark
from tests.archive.logs import ODD_FIELDS, append, entries_of, write


@pytest.fixture
def restorer(store, archive):
    return Restorer(store, archive, ended_ttl_seconds=1000, idle_ttl_seconds=5000)


def copy(store, archive, run_id):
    return copy_log(store, archive, run_id, lambda: None)


def no_keys(client, run_id):
    return client.keys(f"*run:{run_id}:events*") == []


@pytest.mark.parametrize("ended", [True, False])
def test_a_log_comes_back_as_it_was(archive, store, redis_client, restorer, run_id, ended):
    append(store, run_id, 300, ended=ended)
    run, state, entries = store.run(run_id), store.state(run_id), entries_of(store, run_id)
    copy(store, archive, run_id)
    store.delete(run_id)
    assert no_keys(redis_client, run_id)
    restored = restorer.restore(run_id)
    assert restored == store.state(run_id) == state
    assert entries_of(store, run_id) == entries
    assert store.run(run_id).meta_json == run.meta_json
    assert 0 < redis_client.ttl(f"run:{run_id}:events") <= (1000 if ended else 5000)
    assert redis_client.keys(f"*run:{run_id}:events*") == [f"run:{run_id}:events".encode()]
    assert run_id in {each.run_id for each in store.runs.page(prefix=run_id).runs}


def test_a_restored_run_goes_on(archive, store, restorer, run_id):
    append(store, run_id, 3)
    state = store.state(run_id)
    copy(store, archive, run_id)
    store.delete(run_id)
    restorer.restore(run_id)
    event = store.append(run_id, "lifecycle", "started", expected_sequence=5).event
    assert event.sequence == 5
    assert store.state(run_id).epoch == state.epoch
    append(store, run_id, 2)
    assert copy(store, archive, run_id).events == 4


def test_an_empty_log_comes_back(archive, store, redis_client, restorer, run_id):
    append(store, run_id, 3)
    redis_client.xtrim(f"run:{run_id}:events", maxlen=0, approximate=False)
    state = store.state(run_id)
    copy(store, archive, run_id)
    store.delete(run_id)
    assert restorer.restore(run_id) == store.state(run_id) == state
    assert store.append(run_id, "a", "b").event.sequence == 5


def test_entries_of_other_programs_come_back(archive, store, redis_client, restorer, run_id):
    for number in range(2):
        for fields in ODD_FIELDS:
            write(redis_client, run_id, fields)
        if number == 0:
            redis_client.xdel(f"run:{run_id}:events", entries_of(store, run_id)[2][0])
            store.add(run_id, "a", "b", lease_seconds=500)
    state, entries = store.state(run_id), entries_of(store, run_id)
    copy(store, archive, run_id)
    store.delete(run_id)
    assert restorer.restore(run_id) == store.state(run_id) == state
    assert entries_of(store, run_id) == entries


def test_a_trimmed_log_comes_back_with_its_gap(archive, store, redis_client, restorer, run_id):
    append(store, run_id, 4)
    copy(store, archive, run_id)
    store.add(run_id, "lifecycle", "started")
    append(store, run_id, 4)
    redis_client.xtrim(f"run:{run_id}:events", maxlen=2, approximate=False)
    copy(store, archive, run_id)
    store.delete(run_id)
    state = restorer.restore(run_id)
    assert store.state(run_id) == state == archive.find(run_id).state
    entries = entries_of(store, run_id)
    way = stretches(START, [parse_mark(entry) for entry in entries], state, whole=True)
    assert [(s.start.sequence, s.end.sequence) for s in way if s.notice] == [(5, 9)]


@pytest.mark.parametrize("left", [0, 4])
@pytest.mark.parametrize("goes_on", [False, True])
def test_what_redis_lacks_is_restored_before_what_it_has(
    archive, store, redis_client, restorer, run_id, left, goes_on
):
    append(store, run_id, 10)
    copy(store, archive, run_id)
    if goes_on:
        store.add(run_id, "lifecycle", "started")
        append(store, run_id, 2)
    state, entries = store.state(run_id), entries_of(store, run_id)
    redis_client.xtrim(f"run:{run_id}:events", maxlen=left, approximate=False)
    now = store.state(run_id)
    restorer.restore(run_id)
    is_whole = left or not goes_on
    assert entries_of(store, run_id) == (entries if is_whole else entries[:11])
    if left:
        assert store.state(run_id) == state
    else:
        assert store.state(run_id).last_sequence == now.last_sequence
    assert redis_client.ttl(f"run:{run_id}:events") > 80_000  # as it was
    assert restorer.restore(run_id) is None


def test_a_log_that_lacks_nothing_stays_as_it_is(archive, store, redis_client, restorer, run_id):
    append(store, run_id, 3)
    redis_client.xgroup_create(f"run:{run_id}:events", "others")
    copy(store, archive, run_id)
    assert restorer.restore(run_id) is None
    assert len(redis_client.xinfo_groups(f"run:{run_id}:events")) == 2


def test_what_is_not_archived_cannot_be_restored(archive, store, restorer, run_id):
    with pytest.raises(CannotRestore, match="not archived"):
        restorer.restore(run_id)
    append(store, run_id)
    with pytest.raises(CannotRestore, match="not archived"):
        restorer.restore(run_id)


def test_another_log_is_not_replaced(archive, store, restorer, run_id):
    append(store, run_id)
    copy(store, archive, run_id)
    store.delete(run_id)
    append(store, run_id)
    entries = entries_of(store, run_id)
    with pytest.raises(CannotRestore, match="another log"):
        restorer.restore(run_id)
    assert entries_of(store, run_id) == entries


def test_a_log_that_lost_its_end_is_not_replaced(archive, store, redis_client, restorer, run_id):
    append(store, run_id, 6, ended=False)
    lost = redis_client.dump(f"run:{run_id}:events")
    append(store, run_id, 6)
    copy(store, archive, run_id)
    redis_client.restore(f"run:{run_id}:events", 0, lost, replace=True)
    append(store, run_id, 2)
    redis_client.xtrim(f"run:{run_id}:events", maxlen=2, approximate=False)
    with pytest.raises(CannotRestore, match="lacks the end"):
        restorer.restore(run_id)


class Interrupted(BaseException):
    pass


@pytest.mark.parametrize("number", range(1, 8))
def test_a_restore_that_is_interrupted_leaves_nothing(
    archive, store, redis_client, restorer, run_id, monkeypatch, number
):
    append(store, run_id, 200)
    copy(store, archive, run_id)
    store.delete(run_id)
    left, send = [number], restorer._send

    def interrupt(key, commands):
        left[0] -= 1
        send(key, commands)
        if left[0] == 0:
            assert 0 < redis_client.ttl(key) <= 600  # as after SIGKILL
            raise Interrupted

    monkeypatch.setattr(restorer, "_send", interrupt)
    try:
        restorer.restore(run_id)
    except Interrupted:
        assert no_keys(redis_client, run_id)
        restorer.restore(run_id)
    assert len(entries_of(store, run_id)) == 201


@pytest.mark.parametrize(
    "change",
    [
        lambda store, client, run_id: store.add(run_id, "lifecycle", "started"),
        lambda store, client, run_id: store.delete(run_id),
        lambda store, client, run_id: client.xtrim(
            f"run:{run_id}:events", maxlen=1, approximate=False
        ),
        lambda store, client, run_id: (store.delete(run_id), append(store, run_id)),
    ],
)
def test_a_log_that_changes_meanwhile_is_not_replaced(
    archive, store, redis_client, restorer, run_id, monkeypatch, change
):
    append(store, run_id, 10)
    copy(store, archive, run_id)
    redis_client.xtrim(f"run:{run_id}:events", maxlen=3, approximate=False)
    finish = restorer._finish

    def change_and_finish(*arguments):
        change(store, redis_client, run_id)
        return finish(*arguments)

    monkeypatch.setattr(restorer, "_finish", change_and_finish)
    with pytest.raises(CannotRestore, match="changed"):
        restorer.restore(run_id)
    assert not redis_client.keys(f"*run:{run_id}:events*restoring*")


def test_a_run_that_appears_meanwhile_is_not_replaced(
    archive, store, redis_client, restorer, run_id, monkeypatch
):
    append(store, run_id, 10)
    copy(store, archive, run_id)
    store.delete(run_id)
    finish = restorer._finish

    def append_and_finish(*arguments):
        append(store, run_id, 1)
        return finish(*arguments)

    monkeypatch.setattr(restorer, "_finish", append_and_finish)
    with pytest.raises(CannotRestore, match="changed"):
        restorer.restore(run_id)
    assert len(entries_of(store, run_id)) == 2


def test_a_run_that_is_deleted_meanwhile_stays_deleted(
    archive, store, redis_client, restorer, run_id, monkeypatch
):
    append(store, run_id, 10)
    copy(store, archive, run_id)
    store.delete(run_id)
    finish = restorer._finish

    def delete_and_finish(*arguments):
        archive.delete(run_id)
        return finish(*arguments)

    monkeypatch.setattr(restorer, "_finish", delete_and_finish)
    with pytest.raises(CannotRestore, match="deleted"):
        restorer.restore(run_id)
    assert no_keys(redis_client, run_id)


def test_a_damaged_part_restores_nothing(archive, store, redis_client, folder, restorer, run_id):
    append(store, run_id, 10)
    copy(store, archive, run_id)
    store.delete(run_id)
    (folder / archive.find(run_id).parts[0].name).write_bytes(b"x")
    with pytest.raises(DamagedArchive):
        restorer.restore(run_id)
    assert no_keys(redis_client, run_id)


def test_a_count_that_others_set_too_low_is_refused(archive, store, redis_client, restorer, run_id):
    append(store, run_id, 10)
    copy(store, archive, run_id)
    redis_client.xtrim(f"run:{run_id}:events", maxlen=1, approximate=False)
    last = entries_of(store, run_id)[-1][0]
    redis_client.execute_command("XSETID", f"run:{run_id}:events", last, "ENTRIESADDED", 5)
    with pytest.raises(CannotRestore):
        restorer.restore(run_id)
    assert not redis_client.keys(f"*run:{run_id}:events*restoring*")


def test_a_full_redis_restores_nothing(archive, store, start_redis_server, folder, run_id):
    append(store, run_id, 10)
    copy(store, archive, run_id)
    with start_redis_server("--maxmemory", "1") as full:
        other = type(store)(full.url)
        with pytest.raises(StoreUnavailable):
            Restorer(other, archive, ended_ttl_seconds=9, idle_ttl_seconds=9).restore(run_id)
        with full.client() as client:
            assert no_keys(client, run_id)
    assert store.state(run_id).first_id > ZERO
