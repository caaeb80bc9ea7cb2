"""The appender of a client and a real gateway: restarts, lost responses, exits and forks."""

import threading

import pytest

from app.client import Client
from app.streaming.errors import EventTooLarge, RunEnded
from tests.run_program import run_program
from tests.servers import wait_until


def test_an_appender_appends_in_the_background_and_in_order(client, store, run_id):
    with client.appender(run_id, expected_sequence=1) as run:
        run.emit("lifecycle", "started", source="me", lease_seconds=60)
        for number in range(3000):
            run.emit("llm", "stream", number)
        run.flush()
        assert run.stored == 3001
        run.emit("lifecycle", "completed")
    first, *tokens, last = store.get_events(run_id)
    assert first.source == "me"
    assert [event.data for event in tokens] == list(range(3000))
    assert (run.last_id, run.last_sequence) == (last.id, 3002)


def test_an_appender_neither_loses_nor_repeats_events_over_restarts(own_gateway, store, run_id):
    with Client(own_gateway.url).appender(run_id) as run:
        for number in range(1000):
            run.emit("llm", "stream", number)
            if number == 300:
                run.flush()
                own_gateway.stop()
        threading.Timer(0.5, own_gateway.start).start()
    assert [event.data for event in store.get_events(run_id)] == list(range(1000))


def test_lost_responses_do_not_make_an_appender_repeat_events(proxy, store, run_id):
    proxy.lost_responses = 3
    with Client(proxy.url).appender(run_id) as run:
        for number in range(1000):
            run.emit("llm", "stream", number)
    assert [event.data for event in store.get_events(run_id)] == list(range(1000))


def test_an_appender_raises_run_ended(client, store, run_id):
    store.add(run_id, "lifecycle", "completed")
    run = client.appender(run_id)
    run.emit("llm", "stream", 1)
    with pytest.raises(RunEnded):
        run.close()


def test_an_appender_leaves_out_events_too_large_for_the_gateway(start_gateway, store, run_id):
    gateway = start_gateway(MAX_EVENT_BYTES=1000, MAX_BODY_BYTES=4000)
    run = Client(gateway.url).appender(run_id)
    for number in range(1000):
        run.emit("llm", "stream", "x" * 2000 if number == 500 else number)
    run.emit("llm", "stream", "x" * 10_000)
    run.emit("lifecycle", "completed")
    with pytest.raises(EventTooLarge, match="at most 1000 bytes"):
        run.close()
    *tokens, last = store.get_events(run_id)
    assert [event.data for event in tokens] == [n for n in range(1000) if n != 500]
    assert (last.action, run.stored, run.refused) == ("completed", 1000, 2)


# Programs

only_client = pytest.mark.only_client(reason="the programs use it")


@only_client
@pytest.mark.parametrize("end", ["normally", "exit"])
@pytest.mark.parametrize("gevent", [False, True], ids=["threads", "gevent"])
def test_all_emitted_events_are_stored_before_the_interpreter_exits(
    gateway, store, run_id, gevent, end
):
    ended = run_program("emit_and_exit", gateway.url, run_id, end, gevent=gevent)
    assert ended.stderr == ""
    assert [event.data for event in store.get_events(run_id)] == list(range(3000))


@only_client
@pytest.mark.parametrize("way", ["idle", "first", "import"])
@pytest.mark.parametrize("gevent", [False, True], ids=["threads", "gevent"])
def test_an_exit_handler_that_runs_after_all_others_can_emit(gateway, store, run_id, gevent, way):
    ended = run_program("emit_in_exit_handler", gateway.url, run_id, way, gevent=gevent)
    assert (ended.returncode, ended.stderr) == (0, "")
    events = store.get_events(run_id)
    assert [event.data for event in events][-21:] == [*range(20), None]


@only_client
def test_many_greenlets_share_an_appender(gateway, store, run_id):
    ended = run_program("emit_in_greenlets", gateway.url, run_id, gevent=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    data = [event.data for event in store.get_events(run_id)]
    for name in range(20):
        assert [number for by, number in data if by == name] == list(range(150))


@only_client
def test_a_parent_and_its_forked_child_each_append_their_own_events(gateway, store, run_id):
    ended = run_program("emit_in_fork", gateway.url, run_id)
    assert (ended.returncode, ended.stderr) == (0, "")
    data = [event.data for event in store.get_events(run_id)]
    assert sorted(data, key=lambda number: 1000 <= number < 2000) == [
        *range(1000),
        *range(2000, 3000),
        *range(1000, 2000),
    ]


def test_an_emitted_event_is_stored_within_a_second_without_a_flush(client, store, run_id):
    with client.appender(run_id) as run:
        for number in (1, 2):
            run.emit("llm", "stream", number)
            expected = list(range(1, number + 1))
            wait_until(
                lambda expected=expected: (
                    [event.data for event in store.get_events(run_id)] == expected
                ),
                "the event is in the log",
                seconds=1,
            )
