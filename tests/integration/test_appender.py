"""The appender in whole processes: exits, gevent, forks, signal handlers, outages of Redis."""

import re
import subprocess
import threading

import pytest

from app.streaming.event_queue import MAX_WAITING_EVENTS
from app.streaming.event_store import EventStore
from tests.run_program import program_command, run_program
from tests.servers import ROOT, wait_until

NO_SERVER = "redis://127.0.0.1:1"


def data_of(store: EventStore, run_id: str) -> list:
    return [event.data for event in store.get_events(run_id)]


# The end of a process


@pytest.mark.parametrize("end", ["normally", "exit", "error"])
@pytest.mark.parametrize("gevent", [False, True], ids=["threads", "gevent"])
def test_all_emitted_events_are_stored_before_the_interpreter_exits(
    redis_server, store, run_id, gevent, end
):
    ended = run_program("emit_and_exit", redis_server.url, run_id, end, gevent=gevent)
    assert data_of(store, run_id) == list(range(3000))
    assert ("Traceback" in ended.stderr) == (end == "error")


@pytest.mark.parametrize("name", ["emit_one_and_exit", "exit_after_sender_has_ended"])
def test_the_exit_prints_an_error_that_no_call_has_raised(name):
    ended = run_program(name, NO_SERVER, "1")
    assert re.fullmatch(
        r"tailrace: 1 event of run 1 is not stored: StoreUnavailable: .+\n", ended.stderr
    )
    assert ended.returncode == 0


def test_the_exit_prints_one_line_for_each_appender():
    ended = run_program("fail_with_many_events", NO_SERVER, "1")
    lines = sorted(line.partition(" stored: ")[0] for line in ended.stderr.splitlines())
    assert lines == [f"tailrace: 3 events of run {run_id} are not" for run_id in ("1", "1-too")]


def test_the_exit_prints_no_error_that_a_call_has_raised():
    ended = run_program("close_and_print_error", NO_SERVER, "1")
    assert (ended.stdout, ended.stderr) == ("StoreUnavailable\n", "")


def test_an_appender_can_be_used_while_the_interpreter_exits(redis_server, store, run_id):
    ended = run_program("emit_while_exiting", redis_server.url, run_id)
    assert ended.stderr == ""
    assert data_of(store, run_id) == ["goodbye"]


@pytest.mark.parametrize("way", ["used", "idle", "first", "import"])
@pytest.mark.parametrize("gevent", [False, True], ids=["threads", "gevent"])
def test_an_exit_handler_that_runs_after_all_others_can_emit(
    redis_server, store, run_id, gevent, way
):
    ended = run_program("emit_in_exit_handler", redis_server.url, run_id, way, gevent=gevent)
    assert (ended.returncode, ended.stderr) == (0, "")
    events = store.get_events(run_id)
    assert data_of(store, run_id)[-21:] == [*range(20), None]
    assert events[-1].action == "completed"
    assert len(events) == 21 + (way in ("used", "idle"))


def test_what_an_exit_handler_cannot_store_is_printed(run_id):
    ended = run_program("emit_in_exit_handler", NO_SERVER, "1", "used")
    line = "tailrace: 1 event of run 1 is not stored: StoreUnavailable: "
    assert ended.stderr.startswith(line)


# Forks and multiprocessing


@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.parametrize("way", ["finalizer", "thread"])
def test_a_multiprocessing_child_can_emit_until_its_end(redis_server, store, run_id, start, way):
    ended = run_program("emit_late_in_process", redis_server.url, run_id, start, way)
    assert (ended.returncode, ended.stderr) == (0, "")
    stored = data_of(store, run_id)
    assert sorted(stored[:20]) == list(range(20))
    assert sorted(stored[20:], key=str) == sorted([*range(20), "first"], key=str)


def test_an_exit_handler_of_a_forked_child_can_emit(redis_server, store, run_id):
    ended = run_program("emit_in_fork_at_exit", redis_server.url, run_id)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert sorted(data_of(store, run_id), key=str) == [*sorted(range(20), key=str), "parent"]


def test_a_parent_and_its_forked_child_each_append_their_own_events(redis_server, store, run_id):
    ended = run_program("emit_in_fork", redis_server.url, run_id)
    assert ended.stderr == ""
    stored = data_of(store, run_id)
    assert sorted(stored) == list(range(3000))
    by_parent = [*range(1000), *range(2000, 3000)]
    assert [number for number in stored if not 1000 <= number < 2000] == by_parent


@pytest.mark.parametrize("start", ["fork", "spawn", "forkserver"])
def test_all_events_of_a_multiprocessing_child_are_stored_before_it_exits(
    redis_server, store, run_id, start
):
    ended = run_program("emit_in_process", redis_server.url, run_id, start)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert data_of(store, run_id) == list(range(3000))


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_a_multiprocessing_child_prints_an_error_that_no_call_has_raised(start):
    ended = run_program("emit_in_process", NO_SERVER, "1", start)
    assert "StoreUnavailable" in ended.stderr


def test_an_appender_does_not_load_multiprocessing(redis_server, run_id):
    ended = run_program("emit_without_multiprocessing", redis_server.url, run_id)
    assert (ended.returncode, ended.stderr) == (0, "")


# Greenlets and signal handlers


def test_greenlets_emit_while_another_greenlet_sends(redis_server, store, run_id):
    ended = run_program("emit_in_greenlets", redis_server.url, run_id, gevent=True)
    assert ended.stderr == ""
    stored = data_of(store, run_id)
    for name in range(20):
        assert [number for by, number in stored if by == name] == list(range(150))


@pytest.mark.parametrize("gevent", [False, True], ids=["threads", "gevent"])
def test_signal_handlers_emit_and_so_does_the_code_that_they_interrupt(
    redis_server, run_id, gevent
):
    ended = run_program("emit_in_signal_handlers", redis_server.url, run_id, gevent=gevent)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("way", ["emit", "add"])
@pytest.mark.parametrize("gevent", [False, True], ids=["threads", "gevent"])
def test_a_handler_of_sigterm_can_emit_the_last_event_of_a_run(
    redis_server, store, run_id, gevent, way
):
    command = program_command("cancel_run_on_sigterm", redis_server.url, run_id, way, gevent=gevent)
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        wait_until(lambda: store.state(run_id).length > 200, "some events are stored")
        process.terminate()
        assert process.wait(20) == 7
    *events, last = store.get_events(run_id)
    assert last.event == {"category": "lifecycle", "action": "cancelled"}
    numbers = [event.data for event in events]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


# Outages


@pytest.mark.parametrize("fault", ["killed", "paused"])
def test_an_outage_of_redis_neither_loses_nor_repeats_an_event(durable_redis, run_id, fault):
    store = EventStore(durable_redis.url, maxlen=100_000)
    run = store.appender(run_id, retry_seconds=60)
    emitted, broken = [], threading.Event()

    def produce() -> None:
        with run:
            for number in range(20_000):
                run.emit("llm", "stream", number)
                emitted.append(number)
                if number == 5000:
                    broken.wait(20)

    producer = threading.Thread(target=produce)
    producer.start()
    wait_until(lambda: run.stored > 1000, "some events are stored")
    durable_redis.stop() if fault == "killed" else durable_redis.pause()
    broken.set()
    wait_until(lambda: len(emitted) - run.stored >= MAX_WAITING_EVENTS, "the queue is full", 30)
    durable_redis.start() if fault == "killed" else durable_redis.resume()
    producer.join(60)
    assert run.stored == 20_000
    assert data_of(store, run_id) == list(range(20_000))


@pytest.mark.parametrize(("unpatched", "stored"), [("none", 4), ("queue", 4), ("thread", 1)])
def test_native_threads_emit_and_flush_in_a_process_that_gevent_has_patched(
    redis_server, run_id, unpatched, stored
):
    ended = run_program("emit_in_native_threads", redis_server.url, run_id, unpatched)
    assert (ended.stderr, ended.stdout) == ("", f"{stored}\n")
