"""Backups by the steps of docs/redis.md, and what clients see after an older state is restored."""

import shutil
import time
from pathlib import Path

import pytest
import redis

from app.streaming.event_store import EventStore
from tests.clients import Stream
from tests.redis.programs import REDIS_OF_DEBIAN, Program, every_program, needs
from tests.servers import DURABLE, RedisServer, wait_until

RUN = "restored"
BEFORE, LOST = 5, 3  # events before the backup, and after it
MANY = 100


def append(url: str, count: int, text: str) -> list[str]:
    """Append events straight to a server, and return their ids."""
    return EventStore(url).add_many(
        RUN, [{"event_category": "llm", "event_action": "stream", "data": text}] * count
    )


def append_behind(url: str, count: int, text: str) -> None:
    """Append events right behind the last one, as a server does whose clock is behind."""
    state = EventStore(url).state(RUN)
    ms, n = state.last_id
    with redis.Redis.from_url(url, protocol=2) as client:
        for number in range(1, count + 1):
            event = {
                "timestamp": "2026-01-01T00:00:00.000Z",
                "sequence": state.last_sequence + number,
                "epoch": state.epoch,
                "event_category": "llm",
                "event_action": "stream",
                "data": f'"{text}"',
            }
            client.xadd(f"run:{RUN}:events", event, f"{ms}-{n + number}")


def back_up_append_only_files(server: RedisServer, directory: Path, backup: Path) -> None:
    """Copy the append-only files of a server that runs; no rewrite may begin meanwhile."""
    with server.client() as client:
        percentage = client.config_get("auto-aof-rewrite-percentage").popitem()[1]
        client.config_set("auto-aof-rewrite-percentage", 0)
        wait_until(
            lambda: client.info("persistence")["aof_rewrite_in_progress"] == 0, "no rewrite runs"
        )
        shutil.copytree(directory / "appendonlydir", backup / "appendonlydir")
        client.config_set("auto-aof-rewrite-percentage", percentage)


def back_up_snapshot(server: RedisServer, directory: Path, backup: Path) -> None:
    """Copy a snapshot of a server that runs. Redis replaces the file in one step."""
    with server.client() as client:
        client.bgsave()
        wait_until(lambda: client.info("persistence")["rdb_bgsave_in_progress"] == 0, "it is saved")
        assert client.info("persistence")["rdb_last_bgsave_status"] == "ok"
    backup.mkdir()
    shutil.copy(directory / "dump.rdb", backup)


def restore_snapshot(program: Program, directory: Path) -> None:
    """Make append-only files from a snapshot; a server that has them on ignores it otherwise."""
    with RedisServer(directory, "--appendonly", "no", binary=program.path) as server:
        with server.client() as client:
            client.config_set("appendonly", "yes")
            wait_until(
                lambda: (
                    (found := client.info("persistence"))["aof_rewrite_in_progress"] == 0
                    and found["aof_rewrite_scheduled"] == 0
                    and found["aof_last_bgrewrite_status"] == "ok"
                ),
                "the append-only files are written",
            )
            client.shutdown(nosave=True)
        server.process.wait(20)


class Restored:
    """A server that keeps its port while an older state is put in place of its files."""

    def __init__(self, directory: Path):
        self.directory = directory / "data"
        self.backup = directory / "backup"
        self.directory.mkdir()
        self.server = RedisServer(self.directory, *DURABLE, binary=REDIS_OF_DEBIAN.path).start()
        self.lost_ids: list[str] = []

    @property
    def url(self) -> str:
        return self.server.url

    def back_up_and_go_on(self) -> None:
        append(self.url, BEFORE, "before")
        back_up_append_only_files(self.server, self.directory, self.backup)
        last_ms = EventStore(self.url).state(RUN).last_id.ms
        wait_until(lambda: time.time() * 1000 > last_ms + 1, "ids of a later millisecond")
        self.lost_ids = append(self.url, LOST, "lost")

    def restore(self, appended_meanwhile: int = 0, behind: int = 0) -> None:
        """Restore the backup; others may append before the gateway sees the server again.

        `behind` events are appended first, with ids below the lost ones.
        """
        self.server.stop()
        shutil.rmtree(self.directory)
        shutil.copytree(self.backup, self.directory)
        if appended_meanwhile or behind:
            binary = REDIS_OF_DEBIAN.path
            with RedisServer(self.directory, *DURABLE, binary=binary) as elsewhere:
                append_behind(elsewhere.url, behind, "new")
                if appended_meanwhile:
                    append(elsewhere.url, appended_meanwhile, "new")
        self.server.start()


@pytest.fixture
def restored(tmp_path: Path) -> Restored:
    restored = Restored(tmp_path)
    yield restored
    restored.server.stop()


def texts_after_reset(stream: Stream) -> list[str]:
    """Return the data of the events that came after the first reset."""
    messages = list(stream.messages)
    actions = [each.json["event"]["action"] for each in messages]
    return [
        each.json["data"]
        for each in messages[actions.index("reset") :]
        if each.json["id"] is not None
    ]


def wait_for_the_new_state(stream: Stream, new: int, before: int = BEFORE) -> None:
    """Wait until a client has got a reset and then all that there is, once and in order."""
    stream.wait_for_control("reset")
    expected = ["before"] * before + ["new"] * new
    wait_until(lambda: len(texts_after_reset(stream)) >= len(expected), f"all events: {stream}")
    assert texts_after_reset(stream) == expected
    assert stream.sequences[-len(expected) :] == list(range(1, len(expected) + 1))


# Fewer new events than were lost, as many, and more: their sequences were seen before.
@needs(REDIS_OF_DEBIAN)
@pytest.mark.parametrize("new", [0, 1, LOST, LOST + 1, LOST + 20])
def test_an_open_stream_gets_a_reset_and_then_the_restored_log(restored, start_gateway, new):
    gateway = start_gateway(restored.url)
    restored.back_up_and_go_on()
    with Stream(f"{gateway.url}/runs/{RUN}/events/stream") as stream:
        stream.wait_for_events(BEFORE + LOST)
        restored.restore(appended_meanwhile=new)
        wait_for_the_new_state(stream, new)
        append(restored.url, 1, "new")
        wait_for_the_new_state(stream, new + 1)
        assert len([each for each in stream.controls if "reset" in each.event]) == 1


@needs(REDIS_OF_DEBIAN)
@pytest.mark.parametrize("new", [0, 1, LOST, LOST + 1, LOST + 20])
def test_a_client_that_reconnects_with_a_lost_id_gets_a_reset(restored, start_gateway, new):
    restored.back_up_and_go_on()
    restored.restore(appended_meanwhile=new)
    gateway = start_gateway(restored.url)
    headers = {"Last-Event-ID": restored.lost_ids[-1]}
    with Stream(f"{gateway.url}/runs/{RUN}/events/stream", headers=headers) as stream:
        wait_for_the_new_state(stream, new)


@needs(REDIS_OF_DEBIAN)
@pytest.mark.parametrize("new", [1, LOST + 20])
def test_a_stream_of_several_runs_gets_a_reset_too(restored, start_gateway, new):
    gateway = start_gateway(restored.url)
    restored.back_up_and_go_on()
    url = f"{gateway.url}/events/stream?run={RUN}&run=another"
    with Stream(url) as stream:
        stream.wait_for_events(BEFORE + LOST)
        cursor = stream.last_event_id
        restored.restore(appended_meanwhile=new)
        wait_for_the_new_state(stream, new)
    with Stream(url, headers={"Last-Event-ID": cursor}) as stream:
        wait_for_the_new_state(stream, new)


# As many new events as were lost, with ids below theirs, and then one above: its sequence is the
# next one after that of the last lost event.
@needs(REDIS_OF_DEBIAN)
@pytest.mark.parametrize("behind", [LOST - 1, LOST, LOST + 1])
def test_an_open_stream_gets_a_reset_if_the_clock_is_behind(restored, start_gateway, behind):
    gateway = start_gateway(restored.url)
    restored.back_up_and_go_on()
    with (
        Stream(f"{gateway.url}/runs/{RUN}/events/stream") as stream,
        Stream(f"{gateway.url}/runs/{RUN}/events/stream?from=latest") as idle,
        Stream(f"{gateway.url}/events/stream?run={RUN}&run=another") as merged,
    ):
        for each in (stream, merged):
            each.wait_for_events(BEFORE + LOST)
        idle.wait_for_control("caught_up")
        restored.restore(appended_meanwhile=1, behind=behind)
        for each in (stream, idle, merged):
            wait_for_the_new_state(each, behind + 1)
            assert len([message for message in each.controls if "reset" in message.event]) == 1


@needs(REDIS_OF_DEBIAN)
def test_a_client_that_reconnects_gets_a_reset_if_the_clock_is_behind(restored, start_gateway):
    restored.back_up_and_go_on()
    restored.restore(appended_meanwhile=1, behind=LOST)
    gateway = start_gateway(restored.url)
    headers = {"Last-Event-ID": restored.lost_ids[-1]}
    with Stream(f"{gateway.url}/runs/{RUN}/events/stream", headers=headers) as stream:
        wait_for_the_new_state(stream, LOST + 1)


@needs(REDIS_OF_DEBIAN)
@pytest.mark.parametrize("behind", [0, LOST - 1, LOST, LOST + 1])
def test_who_waits_in_the_event_store_gets_a_reset_if_the_clock_is_behind(restored, behind):
    restored.back_up_and_go_on()
    store = EventStore(restored.url)
    assert store.subscribe(RUN, block_ms=None) == []
    lost = append(restored.url, 1, "lost too")
    assert [event.id for event in store.subscribe(RUN)] == lost
    restored.restore(appended_meanwhile=1, behind=behind + 1)
    store.engine.release_idle()
    events = store.subscribe(RUN)
    while events[-1].id is None:
        events += store.subscribe(RUN)
    assert [event.action for event in events if event.id is None] == ["reset"]
    assert [event.data for event in events[1:]] == ["before"] * BEFORE + ["new"] * (behind + 2)


@needs(REDIS_OF_DEBIAN)
@pytest.mark.parametrize("behind", [0, LOST])
def test_history_in_memory_is_dropped_with_what_was_lost(restored, start_gateway, behind):
    """More events than a page of the history holds."""
    gateway = start_gateway(restored.url)
    append(restored.url, MANY, "before")
    restored.back_up_and_go_on()
    with Stream(f"{gateway.url}/runs/{RUN}/events/stream") as stream:
        stream.wait_for_events(MANY + BEFORE + LOST)
        restored.restore(appended_meanwhile=LOST + 1 - behind, behind=behind)
        wait_for_the_new_state(stream, LOST + 1, MANY + BEFORE)
        with Stream(f"{gateway.url}/runs/{RUN}/events/stream") as newcomer:
            newcomer.wait_for_events(MANY + BEFORE + LOST + 1)
            texts = [each.json["data"] for each in newcomer.events]
            assert texts == ["before"] * (MANY + BEFORE) + ["new"] * (LOST + 1)


@needs(REDIS_OF_DEBIAN)
def test_a_restart_without_a_loss_is_no_reset(restored, start_gateway):
    gateway = start_gateway(restored.url)
    restored.back_up_and_go_on()
    with (
        Stream(f"{gateway.url}/runs/{RUN}/events/stream") as stream,
        Stream(f"{gateway.url}/events/stream?run={RUN}&run=another") as merged,
    ):
        for each in (stream, merged):
            each.wait_for_events(BEFORE + LOST)
        restored.server.stop()
        restored.server.start()
        append(restored.url, 1, "next")
        for each in (stream, merged):
            each.wait_for_events(BEFORE + LOST + 1)
            assert {message.json["event"]["action"] for message in each.controls} <= {
                *("heartbeat", "caught_up")
            }


@needs(REDIS_OF_DEBIAN)
def test_a_run_that_began_after_the_backup_is_gone(restored, start_gateway):
    gateway = start_gateway(restored.url)
    append(restored.url, 1, "before")
    back_up_append_only_files(restored.server, restored.directory, restored.backup)
    EventStore(restored.url).add("later", "llm", "stream", "lost")
    with Stream(f"{gateway.url}/runs/later/events/stream") as stream:
        stream.wait_for_events(1)
        restored.restore()
        stream.wait_for_control("reset")
        EventStore(restored.url).add("later", "llm", "stream", "new")
        assert [each.json["data"] for each in stream.wait_for_events(2)] == ["lost", "new"]


# A backup of each kind, with each server


@every_program
def test_append_only_files_are_copied_from_a_server_that_runs(program, start_program, tmp_path):
    (directory := tmp_path / "data").mkdir()
    server = start_program(program, *DURABLE, directory=directory)
    append(server.url, BEFORE, "before")
    back_up_append_only_files(server, directory, tmp_path / "backup")
    append(server.url, LOST, "lost")
    check_holds(start_program(program, *DURABLE, directory=tmp_path / "backup"), BEFORE)


@every_program
def test_a_snapshot_is_copied_from_a_server_that_runs(program, start_program, tmp_path):
    (directory := tmp_path / "data").mkdir()
    server = start_program(program, *DURABLE, directory=directory)
    append(server.url, BEFORE, "before")
    back_up_snapshot(server, directory, tmp_path / "backup")
    append(server.url, LOST, "lost")
    restore_snapshot(program, tmp_path / "backup")
    check_holds(start_program(program, *DURABLE, directory=tmp_path / "backup"), BEFORE)


@every_program
def test_a_server_with_append_only_files_ignores_a_snapshot_beside_them(
    program, start_program, tmp_path
):
    """So docs/redis.md turns them on only after the snapshot was loaded."""
    (directory := tmp_path / "data").mkdir()
    server = start_program(program, *DURABLE, directory=directory)
    append(server.url, BEFORE, "before")
    back_up_snapshot(server, directory, tmp_path / "backup")
    with start_program(program, *DURABLE, directory=tmp_path / "backup").client() as client:
        assert client.dbsize() == 0


@every_program
def test_a_replica_is_copied_instead_of_the_master(program, start_program, tmp_path):
    (directory := tmp_path / "replica").mkdir()
    master = start_program(program, *DURABLE, "--repl-diskless-sync-delay", "0")
    append(master.url, BEFORE, "before")
    source = "--replicaof", f"127.0.0.1 {master.port}"
    replica = start_program(program, *DURABLE, *source, directory=directory)
    with replica.client() as client:
        wait_until(lambda: client.info("replication")["master_link_status"] == "up", "in sync")
    back_up_append_only_files(replica, directory, tmp_path / "backup")
    check_holds(start_program(program, *DURABLE, directory=tmp_path / "backup"), BEFORE)


def check_holds(server: RedisServer, count: int) -> None:
    """Check that a run has some events, and goes on after them."""
    store = EventStore(server.url)
    assert [each.sequence for each in store.get_events(RUN)] == list(range(1, count + 1))
    before = store.state(RUN).epoch
    append(server.url, 1, "new")
    state = store.state(RUN)
    assert (state.last_sequence, state.epoch) == (count + 1, before)
