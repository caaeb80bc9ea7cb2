"""The shared connection: each caller gets its own answer, whatever becomes of the others."""

import gc
import itertools
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from urllib.parse import urlencode

import fakeredis
import psutil
import pytest
import redis
from redis.exceptions import NoScriptError, ResponseError

from app.streaming.errors import StoreUnavailable
from app.streaming.log import connection, shared_connection
from app.streaming.log.shared_connection import SharedConnection
from tests.interruptions import handled_at
from tests.servers import ROOT, RedisServer, wait_until

MEGABYTE = 1024 * 1024


class Caller(threading.Thread):
    """A thread that makes one call, of a command or several, and keeps the reply or the error."""

    def __init__(self, shared: SharedConnection, *command: object):
        super().__init__(daemon=True)
        self._shared = shared
        self._command = command
        self._outcome: object = None
        self.start()

    @property
    def outcome(self) -> object:
        self.join(10)
        assert not self.is_alive(), f"never answered: {self._command[:2]}"
        return self._outcome

    def run(self) -> None:
        try:
            several = isinstance(self._command[0], tuple)
            call = self._shared.call_all if several else self._shared.call
            self._outcome = call(*self._command)
        except BaseException as error:
            self._outcome = error


def share(client: redis.Redis) -> SharedConnection:
    return SharedConnection(partial(connection.make_connection, client))


def share_to(server: RedisServer, database: int = 0, **settings: object) -> SharedConnection:
    query = urlencode({"socket_timeout": 20} | settings)
    return share(connection.make_client(f"redis://127.0.0.1:{server.port}/{database}?{query}"))


def is_readable(shared: SharedConnection) -> bool:
    return bool(select.select([shared._link._sock], [], [], 0)[0])


def call_in_turn(shared: SharedConnection, *commands: tuple) -> list[Caller]:
    """Callers that wait in the order of their commands, while another one leads."""
    callers = []
    for command in commands:
        waiting = len(shared._waiting)
        callers.append(Caller(shared, *command))
        wait_until(lambda: len(shared._waiting) > waiting, "the caller waits")  # noqa: B023
    return callers


@contextmanager
def held(shared: SharedConnection, client: redis.Redis, key: str) -> Iterator[Caller]:
    """A caller leads, and its answer does not come before the block ends."""
    own = shared.call("CLIENT", "ID")
    leader = Caller(shared, "BLPOP", key, 0)
    wait_until(lambda: "b" in client.client_list(client_id=[own])[0]["flags"], "it is blocked")
    yield leader
    client.rpush(key, "go on")
    assert leader.outcome == [key.encode(), b"go on"]


def stored(callers: list[Caller]) -> list[bool | None]:
    """What each caller is told of its command, which failed."""
    assert all(isinstance(caller.outcome, StoreUnavailable) for caller in callers)
    return [caller.outcome.stored for caller in callers]


def links_to(server: RedisServer) -> int:
    """How many sockets of this process lead to a server's port."""
    links = psutil.Process().net_connections("tcp")
    return sum(bool(link.raddr) and link.raddr.port == server.port for link in links)


@pytest.fixture
def shared(redis_server) -> SharedConnection:
    return share_to(redis_server)


@pytest.fixture
def breakable(tmp_path) -> Iterator[RedisServer]:
    """A server of this test's own."""
    server = RedisServer(tmp_path).start()
    yield server
    server.stop()


@pytest.fixture
def batches(monkeypatch) -> list[int]:
    """How many commands went together, for each round trip."""
    sizes = []

    def exchange_packed(link, packed, replies):
        sizes.append(replies)
        return connection.exchange_packed(link, packed, replies)

    monkeypatch.setattr(shared_connection, "exchange_packed", exchange_packed)
    return sizes


# Answers


@pytest.mark.parametrize("server", ["fakeredis", "server"])
def test_a_reply_is_given_raw(request, server, run_id):
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


def test_an_error_reply_is_its_own_callers_alone(shared, redis_client, run_id, batches):
    redis_client.set(run_id, "text")
    with held(shared, redis_client, f"hold-{run_id}"):
        good, bad, other_bad, last = call_in_turn(
            shared, ("ECHO", "a"), ("XLEN", run_id), ("INCR", run_id), ("GET", run_id)
        )
    assert connection.is_wrong_type(bad.outcome)
    assert "not an integer" in str(other_bad.outcome)
    assert (good.outcome, last.outcome) == (b"a", b"text")
    assert batches[-1] == 4


def test_what_waits_goes_together_and_in_the_order_in_which_it_came(
    shared, redis_client, run_id, batches
):
    with held(shared, redis_client, f"hold-{run_id}"):
        callers = call_in_turn(shared, *(("RPUSH", run_id, number) for number in range(10)))
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
def test_one_round_trip_carries_so_much_at_the_most(
    shared, redis_client, run_id, batches, monkeypatch, limit, value, expected
):
    monkeypatch.setattr(shared_connection, limit, value)
    said = [b"%d" % number * 600 for number in range(7)]
    with held(shared, redis_client, run_id):
        callers = call_in_turn(shared, *(("ECHO", each) for each in said))
    assert [caller.outcome for caller in callers] == said
    assert batches[2:] == expected


def test_several_commands_of_one_caller_get_their_replies_in_order(shared, run_id, batches):
    shared.call("SET", run_id, "text")
    length, value, none = shared.call_all(("XLEN", run_id), ("GET", run_id), ("GET", "none"))
    assert connection.is_wrong_type(length)
    assert (value, none) == (b"text", None)
    assert batches == [1, 3]


def test_nothing_of_others_comes_between_the_commands_of_one_caller(
    shared, redis_client, run_id, batches, monkeypatch
):
    monkeypatch.setattr(shared_connection, "MAX_COMMANDS", 2)
    several = ("ECHO", "a"), ("ECHO", "b"), ("ECHO", "c")
    with held(shared, redis_client, run_id):
        callers = call_in_turn(shared, ("ECHO", "1"), ("ECHO", "2"), several, ("ECHO", "3"))
    assert [caller.outcome for caller in callers] == [b"1", b"2", [b"a", b"b", b"c"], b"3"]
    assert batches[2:] == [2, 3, 1]


def test_64_threads_get_their_own_answers_in_their_own_order(shared, redis_client, run_id, batches):
    wrong = []

    def push(name: str) -> None:
        for number in range(50):
            said = f"{name}-{number}".encode()
            if (
                shared.call("ECHO", said) != said
                or shared.call("RPUSH", name, number) != number + 1
            ):
                wrong.append(said)

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
    own = shared.call("CLIENT", "ID")
    assert {Caller(shared, "CLIENT", "ID").outcome for _ in range(10)} == {own}


def test_huge_commands_and_small_ones_go_side_by_side(shared, redis_client, run_id):
    said = [b"a", b"b" * 5 * MEGABYTE, b"c", b"d" * 5 * MEGABYTE, b"e"]
    with held(shared, redis_client, run_id):
        callers = call_in_turn(shared, *(("ECHO", each) for each in said))
    assert [caller.outcome == each for caller, each in zip(callers, said, strict=True)] == [
        True
    ] * 5


# A connection that is lost


def test_a_connection_that_was_closed_while_idle_is_replaced_without_an_error(shared, redis_client):
    own = shared.call("CLIENT", "ID")
    for _ in range(3):
        redis_client.client_kill_filter(_id=own)
        wait_until(lambda: is_readable(shared), "the end has arrived")
        before, own = own, shared.call("CLIENT", "ID")
        assert own != before


def test_a_connection_that_was_reset_while_idle_is_replaced_without_an_error():
    def answer(listener: socket.socket) -> None:
        for _ in range(2):
            link, _ = listener.accept()
            link.recv(100)
            link.sendall(b"+PONG\r\n")
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            link.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=answer, args=(listener,), daemon=True).start()
        port = listener.getsockname()[1]
        shared = share(connection.make_client(f"redis://127.0.0.1:{port}"))
        assert shared.call("PING") == b"PONG"
        wait_until(lambda: is_readable(shared), "the reset has arrived")
        assert shared.call("PING") == b"PONG"


def test_a_server_that_came_back_while_idle_is_connected_to_without_an_error(breakable):
    shared = share_to(breakable)
    assert shared.call("PING") == b"PONG"
    breakable.stop()
    breakable.start()
    assert shared.call("PING") == b"PONG"


def test_what_came_unasked_never_answers_a_command(shared, redis_client, run_id):
    shared.call("SUBSCRIBE", run_id)
    redis_client.publish(run_id, "unasked")
    wait_until(lambda: is_readable(shared), "the message has arrived")
    assert shared.call("ECHO", "mine") == b"mine"


def test_a_default_time_out_of_the_process_does_not_make_calls_wait(shared):
    own = shared.call("CLIENT", "ID")
    socket.setdefaulttimeout(0.2)
    try:
        assert [shared.call("CLIENT", "ID") for _ in range(3)] == [own] * 3
    finally:
        socket.setdefaulttimeout(None)


def test_a_server_that_dies_tells_what_was_sent_from_what_was_not(breakable):
    shared = share_to(breakable)
    with breakable.client() as client:
        with held(shared, client, "first"):
            sent = call_in_turn(shared, ("BLPOP", "second", 0), ("INCR", "a"), ("INCR", "b"))
        wait_until(lambda: client.info("clients")["blocked_clients"], "the batch is under way")
        late = call_in_turn(shared, ("INCR", "c"), ("INCR", "d"))
    breakable.stop()
    assert stored(sent) == [None] * 3
    assert stored(late) == [False] * 2
    assert stored([Caller(shared, "PING") for _ in range(3)]) == [False] * 3
    breakable.start()
    assert shared.call("PING") == b"PONG"


def test_a_paused_server_costs_all_callers_one_time_out_together(breakable):
    shared = share_to(breakable, socket_timeout=1)
    shared.call("PING")
    breakable.pause()
    began = time.monotonic()
    leader = Caller(shared, "INCR", "n")
    wait_until(lambda: shared._led and not shared._waiting, "it leads")
    late = call_in_turn(shared, *[("INCR", "n")] * 19)
    assert stored([leader, *late]) == [None] + [False] * 19
    assert time.monotonic() - began < 10
    breakable.resume()
    assert isinstance(shared.call("INCR", "n"), int)


def test_several_commands_of_one_caller_fail_together(breakable):
    shared = share_to(breakable)
    shared.call("PING")
    several = ("BLPOP", "a", 0), ("INCR", "n")
    with breakable.client() as client:
        caller = Caller(shared, *several)
        wait_until(lambda: client.info("clients")["blocked_clients"], "they are under way")
    breakable.stop()
    assert stored([caller]) == [None]
    assert stored([Caller(shared, *several)]) == [False]


def test_what_fails_before_anything_was_sent_was_not_stored(breakable):
    shared = share_to(breakable, database=1, socket_timeout=0.2)  # which takes a SELECT
    breakable.pause()
    assert stored([Caller(shared, "INCR", "n")]) == [False]
    breakable.resume()
    assert shared.call("INCR", "n") == 1


def test_a_server_of_fakeredis_may_go_and_come_back():
    server = fakeredis.FakeServer()
    shared = share(fakeredis.FakeRedis(server=server, protocol=2))
    shared.call("SET", "a", 1)
    server.connected = False
    assert stored([Caller(shared, "GET", "a")]) != [True]
    server.connected = True
    assert shared.call("GET", "a") == b"1"


@pytest.mark.parametrize("noticed", ["by a failure", "before a command is sent"])
def test_no_socket_is_left_behind(breakable, noticed):
    links, client = [], connection.make_client(breakable.url)

    def connect() -> redis.connection.Connection:
        links.append(connection.make_connection(client))
        return links[-1]

    shared = SharedConnection(connect)
    for _ in range(3):
        shared.call("PING")
        breakable.stop()
        if noticed == "by a failure":
            assert stored([Caller(shared, "PING")]) == [False]
        breakable.start()
    shared.call("PING")
    assert [link.is_connected for link in links].count(True) == 1
    assert links_to(breakable) == 1
    links.clear()
    del shared
    gc.collect()
    assert links_to(breakable) == 0


def test_a_connection_to_a_master_no_more_is_given_up(breakable):
    shared = share_to(breakable)
    before = shared.call("CLIENT", "ID")
    with breakable.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", 1)
    assert isinstance(shared.call("SET", "a", "b"), redis.exceptions.ReadOnlyError)
    assert shared.call("CLIENT", "ID") != before


# Callers that are told to stop


def test_an_interrupt_of_the_leader_ends_no_other_caller_than_those_of_its_batch(
    shared, redis_client, run_id, monkeypatch
):
    def exchange_packed(link, packed, replies):
        if b"interrupt" in packed:
            raise KeyboardInterrupt
        return connection.exchange_packed(link, packed, replies)

    monkeypatch.setattr(shared_connection, "exchange_packed", exchange_packed)
    monkeypatch.setattr(shared_connection, "MAX_COMMANDS", 2)
    with held(shared, redis_client, run_id):
        leader, companion, other = call_in_turn(
            shared, ("ECHO", "interrupt"), ("ECHO", "companion"), ("ECHO", "other")
        )
    assert isinstance(leader.outcome, KeyboardInterrupt)
    assert stored([companion]) == [None]
    assert other.outcome == b"other"


@contextmanager
def interrupted_at(number: int) -> Iterator[None]:
    """An interrupt as the so manieth function of the shared connection begins.

    There Python runs the handlers of signals.
    """
    left = number

    def trace(frame, event, argument) -> None:
        nonlocal left
        left -= frame.f_code.co_filename == shared_connection.__file__
        if left == 0:
            left = -1
            raise KeyboardInterrupt

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


@pytest.mark.parametrize("number", range(1, 12))
def test_an_interrupt_anywhere_leaves_the_connection_to_all(shared, number):
    """What a signal handler raises may come at any time, as that of Ctrl-C does."""
    shared.call("PING")
    with pytest.raises(KeyboardInterrupt), interrupted_at(number):
        shared.call("PING")
    own = Caller(shared, "CLIENT", "ID").outcome
    assert shared.call("CLIENT", "ID") == own


# Signal handlers


@pytest.mark.parametrize("server", ["fakeredis", "server"])
def test_a_signal_handler_may_call_wherever_it_has_interrupted_a_call(request, server, run_id):
    client = request.getfixturevalue("fake_client" if server == "fakeredis" else "redis_client")
    shared = share(client)
    push = partial(shared.call, "RPUSH", run_id)
    for step in itertools.count(1):
        with handled_at(step, partial(push, "handler"), shared_connection) as done:
            push("main")
        if not done:
            break
    pushed = client.lrange(run_id, 0, -1)
    assert step > 100
    assert (pushed.count(b"handler"), pushed.count(b"main")) == (step - 1, step)


def test_what_a_signal_handler_cannot_have_done_is_told(breakable, run_id):
    shared, told = share_to(breakable), []
    shared.call("PING")
    breakable.stop()

    def handle() -> None:
        with pytest.raises(StoreUnavailable) as failed:
            shared.call("PING")
        told.append(failed.value.stored)

    with (
        pytest.raises(StoreUnavailable),
        handled_at(50, handle, shared_connection),
    ):
        shared.call("PING")
    assert told == [False]


def test_a_signal_handler_does_not_wait_for_those_for_whom_its_thread_waits(
    shared, redis_server, run_id
):
    """Its thread may be the next one to lead, and cannot before the handler is done."""
    script = f"""
import signal, sys, threading
from functools import partial
from app.streaming.log import connection
from app.streaming.log.shared_connection import SharedConnection
from tests.servers import wait_until
client = connection.make_client(sys.argv[1])
shared = SharedConnection(partial(connection.make_connection, client))
leader = threading.Thread(target=shared.call, args=("BLPOP", "{run_id}", 0))
leader.start()
wait_until(lambda: shared._led and not shared._waiting, "it leads")
def handle(*_):
    connection.call(client, "RPUSH", "{run_id}", "go on")
    leader.join()
    assert shared.call("ECHO", "handler") == b"handler"
signal.signal(signal.SIGALRM, handle)
signal.setitimer(signal.ITIMER_REAL, 0.2)
assert shared.call("ECHO", "main") == b"main"
"""
    run(script, redis_server.url)


STORM = """
import signal
import sys

from app.streaming.event_store import EventStore

store, run_id = EventStore(sys.argv[1], maxlen=100_000), sys.argv[2]
handled = 0

def handle(*_):
    global handled
    handled += 1
    store.add(run_id, "signal", "handled", handled)
    if handled == 2000:
        finished.append(True)
    else:
        signal.setitimer(signal.ITIMER_REAL, 0.0005)

on_signal(signal.SIGALRM, handle)
signal.setitimer(signal.ITIMER_REAL, 0.0005)
added, finished = 0, []
while not finished:
    added += 1
    store.add(run_id, "llm", "stream", added)
events = store.get_events(run_id)
for category, count in (("llm", added), ("signal", handled)):
    data = [event.data for event in events if event.category == category]
    assert data == list(range(1, count + 1)), category
assert [event.sequence for event in events] == list(range(1, added + handled + 1))
"""

# Under gevent what signal.signal sets may run in the event loop itself, where nothing may wait.
ON_SIGNAL = {
    "threads": "from signal import signal as on_signal",
    "gevent": """
from gevent import monkey
monkey.patch_all()
from gevent import signal_handler as on_signal
""",
}


@pytest.mark.parametrize("how", ON_SIGNAL)
def test_thousands_of_signal_handlers_append_as_well_as_whom_they_interrupt(
    redis_server, run_id, how
):
    run(ON_SIGNAL[how] + STORM, redis_server.url, run_id)


GREENLETS = """
from gevent import monkey
monkey.patch_all()
import random
import sys
from functools import partial

import gevent

from app.streaming.log import connection
from app.streaming.errors import StoreUnavailable
from app.streaming.log.shared_connection import SharedConnection
from tests.servers import wait_until

client = connection.make_client(sys.argv[1])
shared = SharedConnection(partial(connection.make_connection, client))
key, counter = sys.argv[2], sys.argv[2] + "-counter"

def ask(*command):
    return connection.call(client, *command)

def blocked():
    return any(b" flags=b " in line for line in ask("CLIENT", "LIST", "ID", own).splitlines())

def lead():
    leader = gevent.spawn(shared.call, "BLPOP", key, 0)
    wait_until(blocked, "it leads")
    return leader

def release():
    ask("RPUSH", key, "go on")

def wait_in_turn(*commands):
    callers = [gevent.spawn(shared.call, *command) for command in commands]
    wait_until(lambda: len(shared._waiting) == len(callers), "they wait")
    return callers

def stored(caller):
    try:
        return caller.get(timeout=10)
    except StoreUnavailable as error:
        return error.stored

own = shared.call("CLIENT", "ID")
"""

SCENES = {
    "each gets its own answer": """
def echo(number):
    for turn in range(20):
        said = b"%d-%d" % (number, turn)
        assert shared.call("ECHO", said) == said
gevent.joinall([gevent.spawn(echo, number) for number in range(64)], raise_error=True)
assert shared.call("CLIENT", "ID") == own
""",
    "killed while it waits": """
leader = lead()
first, killed, last = wait_in_turn(*[("INCR", counter)] * 3)
killed.kill()
release()
assert [first.get(timeout=10), last.get(timeout=10)] == [1, 2]
assert leader.get(timeout=10) == [key.encode(), b"go on"]
""",
    "timed out while it waits": """
leader = lead()
with gevent.Timeout(0.05, False):
    raise AssertionError(shared.call("INCR", counter))
release()
leader.get(timeout=10)
assert shared.call("INCR", counter) == 1
""",
    "killed while its command is under way": """
leader = lead()
first, killed, last = wait_in_turn(("BLPOP", key, 0), *[("INCR", counter)] * 2)
release()
leader.get(timeout=10)
wait_until(blocked, "the batch is under way")
killed.kill()
release()
assert first.get(timeout=10)
assert last.get(timeout=10) == 2
""",
    "killed while it leads": """
leader = lead()
others = wait_in_turn(*[("INCR", counter)] * 2)
leader.kill()
assert [other.get(timeout=10) for other in others] == [1, 2]
""",
    "killed while it leads others": """
leader = lead()
killed, companion = wait_in_turn(("BLPOP", key, 0), ("ECHO", "companion"))
release()
leader.get(timeout=10)
wait_until(blocked, "the batch is under way")
[other] = wait_in_turn(("ECHO", "other"))
killed.kill()
assert stored(companion) is None
assert other.get(timeout=10) == b"other"
""",
    "killed when just appointed": """
leader = lead()
first, second, last = wait_in_turn(*[("INCR", counter)] * 3)
for each in (leader, first, second):
    each.kill(block=False)
assert last.get(timeout=10) == 1
""",
    "killed while it connects": """
leader = lead()
killed, companion = wait_in_turn(*[("INCR", counter)] * 2)
leader.kill()
killed.kill()
assert stored(companion) is False
assert shared.call("INCR", counter) == 1
""",
    "many time-outs at random": """
def echo(number):
    for turn in range(30):
        said = b"%d-%d" % (number, turn)
        with gevent.Timeout(random.choice([None, 0.0001, 0.0005, 0.001, 0.002]), False):
            try:
                assert shared.call("ECHO", said) == said
            except StoreUnavailable as error:
                assert error.stored is not True
gevent.joinall([gevent.spawn(echo, number) for number in range(30)], raise_error=True)
""",
}


def run(script: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", script + "\nprint('done')", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr


@pytest.mark.parametrize("scene", SCENES)
def test_under_gevent_others_go_on_and_get_their_own_answers(redis_server, run_id, scene):
    after = "\nwith gevent.Timeout(10):\n    assert shared.call('ECHO', 'after') == b'after'"
    run(GREENLETS + SCENES[scene] + after, redis_server.url, run_id)


FORK = """
import os
import signal
import sys
import threading
from functools import partial

import redis

from app.streaming.log import connection
from app.streaming.log.shared_connection import SharedConnection
from tests.servers import wait_until

client = connection.make_client(sys.argv[1])
key = sys.argv[2]
parent = os.getpid()

def connect():
    if os.getpid() != parent:
        threading.Event().wait(0.05)  # others come meanwhile
    return connection.make_connection(client)

def in_child(work):
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        try:
            work()
        except BaseException as error:
            print("in the child:", repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, "the child failed"

def in_threads(work, count):
    done = []
    threads = [threading.Thread(target=lambda: done.append(work())) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == count, done
    return done

def call_in_child():
    mine = shared.call("CLIENT", "ID")
    assert mine != own
    assert shared.call("CLIENT", "ID") == mine

shared = SharedConnection(connect)
own = shared.call("CLIENT", "ID")
"""

FORKS = {
    "one caller": "in_child(call_in_child)",
    "while another thread leads": """
leader = threading.Thread(target=shared.call, args=("BLPOP", key, 0))
leader.start()
wait_until(lambda: shared._led and not shared._waiting, "it leads")
answers = []
waiting = threading.Thread(target=lambda: answers.append(shared.call("ECHO", "waited")))
waiting.start()
wait_until(lambda: shared._waiting, "it waits")
in_child(call_in_child)
connection.call(client, "RPUSH", key, "go on")
leader.join()
waiting.join()
assert answers == [b"waited"]
""",
    "many threads at once": """
in_child(lambda: in_threads(call_in_child, 8))
""",
}


@pytest.mark.parametrize("scene", FORKS)
def test_a_forked_child_has_a_connection_of_its_own(redis_server, run_id, scene):
    after = "\nassert shared.call('CLIENT', 'ID') == own"
    run(FORK + FORKS[scene] + after, redis_server.url, run_id)
