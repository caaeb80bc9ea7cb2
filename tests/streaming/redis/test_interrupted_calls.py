"""Calls that a signal handler interrupts, or that an exception such as KeyboardInterrupt ends."""

import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from itertools import groupby
from types import FrameType

import pytest
import redis
import redis.connection

from app.streaming import reentrancy
from app.streaming.errors import ReentrantCall, StoreUnavailable, StreamingError
from app.streaming.redis import acknowledgement, connection, redis_url, shared_connection
from app.streaming.redis.acknowledgement import Acknowledgement, Unacknowledged
from app.streaming.redis.shared_connection import SharedConnection
from tests.interruptions import handled_at
from tests.run_program import run_program
from tests.servers import wait_until
from tests.streaming.redis.callers import (
    Caller,
    blocked_leader,
    share,
    share_to,
    start_waiting,
    stored,
)

# Exceptions


def test_an_interrupted_leader_ends_only_the_calls_of_its_batch(
    shared, redis_client, run_id, monkeypatch
):
    def exchange_packed(link, packed, replies):
        if b"interrupt" in packed:
            raise KeyboardInterrupt
        return connection.exchange_packed(link, packed, replies)

    monkeypatch.setattr(shared_connection, "exchange_packed", exchange_packed)
    monkeypatch.setattr(shared_connection, "MAX_COMMANDS", 2)
    with blocked_leader(shared, redis_client, run_id):
        leader, companion, other = start_waiting(
            shared, ("ECHO", "interrupt"), ("ECHO", "companion"), ("ECHO", "other")
        )
    assert isinstance(leader.outcome, KeyboardInterrupt)
    assert stored([companion]) == [None]
    assert other.outcome == b"other"


@pytest.fixture(params=[False, True], ids=["", "asks replicas"])
def any_shared(request, redis_server) -> SharedConnection:
    """Run the test twice: with a connection that asks replicas behind each round trip, too."""
    return share_to(redis_server, acknowledgement=Acknowledgement(0) if request.param else None)


@contextmanager
def interrupted_at(number: int, *files: str) -> Iterator[None]:
    """Raise KeyboardInterrupt at the given one of the moments when Python runs signal handlers.

    These are the beginning of a function and the return from one that is written in C, counted
    from 1 while code of the given files runs.
    """
    left = number

    def profile(frame: FrameType, event: str, argument: object) -> None:
        nonlocal left
        left -= frame.f_code.co_filename in files and event in ("call", "c_return")
        if left == 0:
            left = -1
            raise KeyboardInterrupt

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(before)


def test_a_call_may_be_interrupted_anywhere_and_the_next_ones_work(any_shared):
    shared = any_shared
    own_id = shared.call("CLIENT", "ID")
    for number in itertools.count(1):
        try:
            with interrupted_at(number, shared_connection.__file__, reentrancy.__file__):
                shared.call("PING")
        except KeyboardInterrupt:
            other_id = Caller(shared, "CLIENT", "ID").outcome
            assert shared.call("CLIENT", "ID") == other_id
        else:
            break
    assert number > 20
    assert shared.call("CLIENT", "ID") != own_id


@pytest.fixture
def impatient(monkeypatch) -> None:
    """Let callers that wait look soon whether there still is a leader."""
    monkeypatch.setattr(shared_connection, "LOOK_SECONDS", 0.02)


def interrupt() -> None:
    raise KeyboardInterrupt


def interrupt_at_each_bytecode(
    shared: SharedConnection,
    call: Callable[[], object],
    others: list[Caller],
    are_not_sent: bool = False,
) -> int:
    """Interrupt a call before each of its bytecodes, and return how many there are.

    After each interruption, the others and later calls are answered. The others may be failed
    without any, if they are not to be sent.

    All is done in a thread of its own. If the interrupted bytecode is the last one of an `except`,
    CPython takes the exception for one that the thread handles, from then on.
    """
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(_interrupt_at_each, shared, call, others, are_not_sent).result()


def _interrupt_at_each(
    shared: SharedConnection,
    call: Callable[[], object],
    others: list[Caller],
    are_not_sent: bool,
) -> int:
    for step in itertools.count(1):
        others.clear()
        with (
            suppress(KeyboardInterrupt),
            handled_at(step, interrupt, shared_connection, connection, acknowledgement) as done,
        ):
            call()
        outcomes = [reply_of(caller.outcome) for caller in others]
        errors = [each for each in outcomes if not isinstance(each, bytes)]
        assert all(isinstance(error, StoreUnavailable) for error in errors), (step, outcomes)
        other = Caller(shared, "ECHO", "other thread").outcome
        assert reply_of(other) == b"other thread", step
        assert reply_of(shared.call("ECHO", "same thread")) == b"same thread", step
        if not done:
            assert not errors or are_not_sent
            return step
    raise AssertionError


def reply_of(outcome: object) -> object:
    return outcome.reply if isinstance(outcome, Unacknowledged) else outcome


def test_a_leader_may_be_interrupted_anywhere_while_others_wait(any_shared, impatient, monkeypatch):
    let_others_wait_behind_a_leader(any_shared, monkeypatch)


def test_a_leader_whose_replicas_lag_may_be_interrupted_anywhere(
    redis_server, impatient, monkeypatch
):
    lagging = Acknowledgement(0)
    lagging._replicas = 1  # so the server replies at once that there are too few
    shared = share_to(redis_server, acknowledgement=lagging)
    let_others_wait_behind_a_leader(shared, monkeypatch, are_not_sent=True)


def let_others_wait_behind_a_leader(
    shared: SharedConnection, monkeypatch: pytest.MonkeyPatch, are_not_sent: bool = False
) -> None:
    """Interrupt a leader at each bytecode. Those that wait meanwhile may be failed instead."""
    others: list[Caller] = []

    def exchange_packed(link, packed, replies):
        if b"main" in packed:
            others.extend(start_waiting(shared, ("ECHO", "first"), ("ECHO", "second")))
        return connection.exchange_packed(link, packed, replies)

    monkeypatch.setattr(shared_connection, "exchange_packed", exchange_packed)
    call = partial(shared.call, "ECHO", "main")
    assert interrupt_at_each_bytecode(shared, call, others, are_not_sent) > 200


def test_a_caller_may_be_interrupted_anywhere_from_waiting_to_leading_others(
    any_shared, impatient, monkeypatch
):
    """It waits, is woken, leads a round trip for itself and another, and wakes the next."""
    shared = any_shared
    monkeypatch.setattr(shared_connection, "MAX_COMMANDS", 2)
    others: list[Caller] = []
    leads, released = threading.Event(), threading.Event()

    def exchange_packed(link, packed, replies):
        if b"leader" in packed:
            leads.set()
            assert released.wait(10)
        return connection.exchange_packed(link, packed, replies)

    monkeypatch.setattr(shared_connection, "exchange_packed", exchange_packed)

    def follow(over: threading.Event) -> None:
        wait_until(lambda: shared._waiting or over.is_set(), "the main thread waits")
        others.extend(start_waiting(shared, *[("ECHO", "follower")] * 2))
        released.set()

    def call() -> None:
        leads.clear()
        released.clear()
        others.append(Caller(shared, "ECHO", "leader"))
        assert leads.wait(10)
        over = threading.Event()
        following = threading.Thread(target=follow, args=(over,))
        following.start()
        try:
            shared.call("ECHO", "main")
        finally:
            over.set()
            following.join()

    assert interrupt_at_each_bytecode(shared, call, others) > 200


# Signal handlers

REFUSED = "ReentrantCall"


def outcomes_at_each_step(
    call: Callable[[str], object], *modules: object
) -> Iterator[tuple[str, object]]:
    """Interrupt a call with a handler that makes the same call, before each of its bytecodes.

    Yields what became of the handler's call: the reply, or the name of the error.
    """
    outcomes: list[object] = []

    def handle() -> None:
        try:
            outcomes.append(call("handler"))
        except StreamingError as error:
            outcomes.append(type(error).__name__)

    for step in itertools.count(1):
        with handled_at(step, handle, *modules) as done:
            assert call("main") == b"main"
        if not done:
            return
        yield outcomes[-1]


@pytest.mark.parametrize("server", ["fakeredis", "server"])
def test_a_signal_handler_that_interrupts_a_shared_call_gets_an_error(request, server):
    """The interrupted call completes, wherever it is."""
    client = request.getfixturevalue("fake_client" if server == "fakeredis" else "redis_client")
    shared = share(client)
    outcomes = list(
        outcomes_at_each_step(lambda text: shared.call("ECHO", text), shared_connection, reentrancy)
    )
    # Before and after the call, the handler may call too.
    assert [outcome for outcome, _ in groupby(outcomes)] == [b"handler", REFUSED, b"handler"]
    assert outcomes.count(REFUSED) > 100


def test_a_signal_handler_that_interrupts_a_call_over_the_pool_gets_an_error(
    redis_server, monkeypatch
):
    """The interrupted call completes, wherever it is, and gives its connection back."""
    monkeypatch.setattr(redis_url, "POOL_SIZE", 1)
    monkeypatch.setattr(redis_url, "POOL_WAIT_SECONDS", 0.2)
    client = redis_url.make_client(redis_server.url)
    outcomes = list(
        outcomes_at_each_step(
            lambda text: connection.call(client, "ECHO", text), connection, reentrancy
        )
    )
    assert [outcome for outcome, _ in groupby(outcomes)] == [b"handler", REFUSED, b"handler"]
    assert outcomes.count(REFUSED) > 100


def test_a_signal_handler_never_waits_for_the_lock_of_the_pool(redis_server):
    client = redis_url.make_client(redis_server.url)
    connection.call(client, "PING")
    outcomes = outcomes_at_each_step(
        lambda text: connection.call(client, "ECHO", text), redis.connection
    )
    assert set(outcomes) == {REFUSED}


def test_a_signal_handler_that_interrupts_one_way_of_calling_cannot_use_the_other(
    shared, redis_server
):
    client = redis_url.make_client(redis_server.url)
    for call, other, module in (
        (partial(shared.call, "PING"), partial(connection.call, client, "PING"), shared_connection),
        (partial(connection.call, client, "PING"), partial(shared.call, "PING"), redis.connection),
    ):
        call()
        refused = []

        def handle(other: Callable[[], object] = other, refused: list = refused) -> None:
            with pytest.raises(ReentrantCall):
                other()
            refused.append(True)

        with handled_at(100, handle, module):
            assert call() == b"PONG"
        assert refused == [True]


def test_a_signal_handler_gets_an_error_while_redis_is_away_too(breakable):
    shared, refused = share_to(breakable), []
    shared.call("PING")
    breakable.stop()

    def handle() -> None:
        with pytest.raises(ReentrantCall):
            shared.call("PING")
        refused.append(True)

    with pytest.raises(StreamingError), handled_at(100, handle, shared_connection):
        shared.call("PING")
    assert refused == [True]


# Programs


def output_of(name: str, *arguments: str, gevent: bool = False) -> str:
    """Run a program of tests/programs that does not fail, and return what it prints."""
    ended = run_program(name, *arguments, gevent=gevent)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_a_signal_handler_does_not_wait_for_the_callers_its_thread_waits_for(redis_server, run_id):
    name = "signal_handler_calls_while_its_thread_waits"
    assert output_of(name, redis_server.url, run_id) == "done"


def test_thousands_of_signal_handlers_harm_no_append(redis_server, run_id):
    """A handler either appends or gets ReentrantCall, and the log holds what each was told."""
    assert int(output_of("signal_handler_appends", redis_server.url, run_id)) > 0


def test_thousands_of_signal_handlers_that_raise_leave_no_caller_waiting(redis_server):
    assert output_of("signal_handler_raises", redis_server.url) == "1000"


def test_under_gevent_signal_handlers_append_in_greenlets_of_their_own(redis_server, run_id):
    refused = output_of("signal_handler_appends", redis_server.url, run_id, gevent=True)
    assert refused == "0"


@pytest.mark.parametrize(
    "scene",
    [
        "each_gets_its_own_reply",
        "killed_while_it_waits",
        "timed_out_while_it_waits",
        "killed_after_its_command_was_sent",
        "killed_while_it_leads",
        "killed_while_it_leads_others",
        "killed_when_just_appointed",
        "killed_while_it_connects",
        "many_timeouts_at_random",
        "many_kills_at_random",
    ],
)
def test_a_killed_greenlet_does_not_harm_the_calls_of_others(redis_server, run_id, scene):
    name = "greenlets_share_a_connection"
    assert output_of(name, redis_server.url, run_id, scene, gevent=True) == "done"


@pytest.mark.parametrize(
    "scene", ["one_caller", "while_another_thread_leads", "many_threads_at_once"]
)
def test_a_forked_child_uses_a_connection_of_its_own(redis_server, run_id, scene):
    assert output_of("forked_child_calls_redis", redis_server.url, run_id, scene) == "done"
