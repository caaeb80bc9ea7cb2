"""The shared connection: each caller gets its own replies, in its own order."""

import threading

import pytest
from redis.exceptions import NoScriptError, ResponseError

from app.streaming.redis import connection, shared_connection
from tests.servers import wait_until
from tests.streaming.redis.callers import (
    Caller,
    blocked_leader,
    share,
    start_waiting,
    stored,
)

MEGABYTE = 1024 * 1024


@pytest.mark.parametrize("server", ["fakeredis", "server"])
def test_a_reply_is_returned_raw(request, server, run_id):
    name = "fake_client" if server == "fakeredis" else "redis_client"
    shared = share(request.getfixturevalue(name))
    assert shared.call("GET", run_id) is None
    assert shared.call("INCRBY", run_id, 41) == 41
    assert shared.call("GETSET", run_id, b"\xff\r\n\0") == b"41"
    assert shared.call("MGET", run_id, "none") == [b"\xff\r\n\0", None]


def test_an_error_reply_is_a_value(shared, run_id):
    assert shared.call("SET", run_id, "text") == b"OK"
    assert connection.is_wrong_type(shared.call("XLEN", run_id))
    assert isinstance(shared.call("EVALSHA", "0" * 40, 0), NoScriptError)
    assert isinstance(shared.call("NO-SUCH-COMMAND"), ResponseError)


def test_an_error_reply_goes_only_to_its_own_caller(shared, redis_client, run_id, batches):
    redis_client.set(run_id, "text")
    with blocked_leader(shared, redis_client, f"hold-{run_id}"):
        good, bad, other_bad, last = start_waiting(
            shared, ("ECHO", "a"), ("XLEN", run_id), ("INCR", run_id), ("GET", run_id)
        )
    assert connection.is_wrong_type(bad.outcome)
    assert "not an integer" in str(other_bad.outcome)
    assert (good.outcome, last.outcome) == (b"a", b"text")
    assert batches[-1] == 4


def test_waiting_commands_are_sent_together_in_the_order_in_which_they_came(
    shared, redis_client, run_id, batches
):
    with blocked_leader(shared, redis_client, f"hold-{run_id}"):
        callers = start_waiting(shared, *(("RPUSH", run_id, number) for number in range(10)))
    assert [caller.outcome for caller in callers] == list(range(1, 11))
    assert redis_client.lrange(run_id, 0, -1) == [b"%d" % number for number in range(10)]
    assert batches == [1, 1, 10]


@pytest.mark.parametrize(
    ("limit", "value", "expected"),
    [
        ("MAX_COMMANDS", 3, [3, 3, 1]),
        ("MAX_BYTES", 1000, [2, 2, 2, 1]),
        ("MAX_BYTES", 1, [1] * 7),
    ],
)
def test_one_round_trip_is_bounded(
    shared, redis_client, run_id, batches, monkeypatch, limit, value, expected
):
    monkeypatch.setattr(shared_connection, limit, value)
    texts = [b"%d" % number * 600 for number in range(7)]
    with blocked_leader(shared, redis_client, run_id):
        callers = start_waiting(shared, *(("ECHO", each) for each in texts))
    assert [caller.outcome for caller in callers] == texts
    assert batches[2:] == expected


def test_the_commands_of_one_caller_get_their_replies_in_order(shared, run_id, batches):
    shared.call("SET", run_id, "text")
    length, value, none = shared.call_all(("XLEN", run_id), ("GET", run_id), ("GET", "none"))
    assert connection.is_wrong_type(length)
    assert (value, none) == (b"text", None)
    assert batches == [1, 3]


def test_no_command_of_another_caller_comes_between_those_of_one(
    shared, redis_client, run_id, batches, monkeypatch
):
    monkeypatch.setattr(shared_connection, "MAX_COMMANDS", 2)
    several = ("ECHO", "a"), ("ECHO", "b"), ("ECHO", "c")
    with blocked_leader(shared, redis_client, run_id):
        callers = start_waiting(shared, ("ECHO", "1"), ("ECHO", "2"), several, ("ECHO", "3"))
    assert [caller.outcome for caller in callers] == [b"1", b"2", [b"a", b"b", b"c"], b"3"]
    assert batches[2:] == [2, 3, 1]


def test_64_threads_get_their_own_replies_in_their_own_order(shared, redis_client, run_id, batches):
    wrong = []

    def push(name: str) -> None:
        for number in range(50):
            text = f"{name}-{number}".encode()
            if (
                shared.call("ECHO", text) != text
                or shared.call("RPUSH", name, number) != number + 1
            ):
                wrong.append(text)

    names = [f"{run_id}-{number}" for number in range(64)]
    threads = [threading.Thread(target=push, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    expected = [b"%d" % number for number in range(50)]
    assert all(redis_client.lrange(name, 0, -1) == expected for name in names)
    assert sum(batches) == 64 * 50 * 2
    assert max(batches) > 1


def test_all_callers_share_one_connection(shared):
    own_id = shared.call("CLIENT", "ID")
    assert {Caller(shared, "CLIENT", "ID").outcome for _ in range(10)} == {own_id}


def test_huge_and_small_commands_go_together(shared, redis_client, run_id):
    texts = [b"a", b"b" * 5 * MEGABYTE, b"c", b"d" * 5 * MEGABYTE, b"e"]
    with blocked_leader(shared, redis_client, run_id):
        callers = start_waiting(shared, *(("ECHO", each) for each in texts))
    assert [caller.outcome == each for caller, each in zip(callers, texts, strict=True)] == [
        True
    ] * 5


def test_closing_it_fails_the_call_that_is_in_progress(shared, redis_client):
    own_id = shared.call("CLIENT", "ID")
    caller, link = Caller(shared, "BLPOP", "closed", 0), shared._link
    wait_until(lambda: "b" in redis_client.client_list(client_id=[own_id])[0]["flags"], "it waits")
    connected = link._sock
    shared.close()
    assert stored([caller]) == [None]
    wait_until(lambda: connected.fileno() == -1, "its socket is closed")
    assert shared.call("PING") == b"PONG"
    shared.close()
    assert shared.call("PING") == b"PONG"
