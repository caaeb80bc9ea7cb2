"""Greenlets share one connection to Redis, and some of them are killed or time out.

Arguments: the URL of the server, a key that nobody else uses, and the name of a scene. Run it
under `gevent.monkey`.
"""

import random
import sys
from collections.abc import Callable
from functools import partial

import gevent

from app.streaming.errors import StoreUnavailable
from app.streaming.redis import connection, redis_url
from app.streaming.redis.availability import Availability
from app.streaming.redis.shared_connection import SharedConnection
from tests.servers import wait_until

URL, KEY, SCENE = sys.argv[1:]
COUNTER = f"{KEY}-counter"

client = redis_url.make_client(URL)
shared = SharedConnection(partial(connection.make_connection, client), Availability(lambda: None))
own_id = shared.call("CLIENT", "ID")


def is_blocked() -> bool:
    listed = connection.call(client, "CLIENT", "LIST", "ID", own_id)
    return any(b" flags=b " in line for line in listed.splitlines())


def start_leader() -> gevent.Greenlet:
    """Start a caller that leads until `release` is called."""
    leader = gevent.spawn(shared.call, "BLPOP", KEY, 0)
    wait_until(is_blocked, "it leads")
    return leader


def release() -> None:
    connection.call(client, "RPUSH", KEY, "go on")


def start_waiting(*commands: tuple[str | int, ...]) -> list[gevent.Greenlet]:
    """Start callers that wait in the order of their commands."""
    callers = [gevent.spawn(shared.call, *command) for command in commands]
    wait_until(lambda: len(shared._waiting) == len(callers), "they wait")
    return callers


def stored_or_reply(caller: gevent.Greenlet) -> object:
    try:
        return caller.get(timeout=10)
    except StoreUnavailable as error:
        return error.stored


def each_gets_its_own_reply() -> None:
    def echo(number: int) -> None:
        for turn in range(20):
            text = b"%d-%d" % (number, turn)
            assert shared.call("ECHO", text) == text

    gevent.joinall([gevent.spawn(echo, number) for number in range(64)], raise_error=True)
    assert shared.call("CLIENT", "ID") == own_id


def killed_while_it_waits() -> None:
    leader = start_leader()
    first, killed, last = start_waiting(*[("INCR", COUNTER)] * 3)
    killed.kill()
    release()
    assert [first.get(timeout=10), last.get(timeout=10)] == [1, 2]
    assert leader.get(timeout=10) == [KEY.encode(), b"go on"]


def timed_out_while_it_waits() -> None:
    leader = start_leader()
    with gevent.Timeout(0.05, False):
        raise AssertionError(shared.call("INCR", COUNTER))
    release()
    leader.get(timeout=10)
    assert shared.call("INCR", COUNTER) == 1


def killed_after_its_command_was_sent() -> None:
    leader = start_leader()
    first, killed, last = start_waiting(("BLPOP", KEY, 0), *[("INCR", COUNTER)] * 2)
    release()
    leader.get(timeout=10)
    wait_until(is_blocked, "the batch has been sent")
    killed.kill()
    release()
    assert first.get(timeout=10)
    assert last.get(timeout=10) == 2


def killed_while_it_leads() -> None:
    leader = start_leader()
    others = start_waiting(*[("INCR", COUNTER)] * 2)
    leader.kill()
    assert [other.get(timeout=10) for other in others] == [1, 2]


def killed_while_it_leads_others() -> None:
    leader = start_leader()
    killed, companion = start_waiting(("BLPOP", KEY, 0), ("ECHO", "companion"))
    release()
    leader.get(timeout=10)
    wait_until(is_blocked, "the batch has been sent")
    [other] = start_waiting(("ECHO", "other"))
    killed.kill()
    assert stored_or_reply(companion) is None
    assert other.get(timeout=10) == b"other"


def killed_when_just_appointed() -> None:
    leader = start_leader()
    first, second, last = start_waiting(*[("INCR", COUNTER)] * 3)
    for each in (leader, first, second):
        each.kill(block=False)
    assert last.get(timeout=10) == 1


def killed_while_it_connects() -> None:
    leader = start_leader()
    killed, companion = start_waiting(*[("INCR", COUNTER)] * 2)
    leader.kill()
    killed.kill()
    assert stored_or_reply(companion) is False
    assert shared.call("INCR", COUNTER) == 1


def many_timeouts_at_random() -> None:
    errors: list[StoreUnavailable] = []

    def echo(number: int) -> None:
        for turn in range(30):
            text = b"%d-%d" % (number, turn)
            with gevent.Timeout(random.choice([None, 0.0001, 0.0005, 0.001, 0.002]), False):
                try:
                    assert shared.call("ECHO", text) == text
                except StoreUnavailable as error:
                    errors.append(error)

    gevent.joinall([gevent.spawn(echo, number) for number in range(30)], raise_error=True)
    assert all(error.stored is not True for error in errors)


def many_kills_at_random() -> None:
    """Whoever is killed, the others are answered, and soon."""
    errors: list[StoreUnavailable] = []

    def echo(number: int) -> None:
        for turn in range(30):
            text = b"%d-%d" % (number, turn)
            try:
                assert shared.call("ECHO", text) == text
            except StoreUnavailable as error:
                errors.append(error)

    callers = [gevent.spawn(echo, number) for number in range(60)]
    for victim in random.sample(callers, 30):
        gevent.sleep(random.choice([0, 0, 0.0003]))
        victim.kill(block=random.choice([True, False]))
    with gevent.Timeout(10):
        gevent.joinall(callers, raise_error=True)
    assert all(error.stored is not True for error in errors)


SCENES: list[Callable[[], None]] = [
    each_gets_its_own_reply,
    killed_while_it_waits,
    timed_out_while_it_waits,
    killed_after_its_command_was_sent,
    killed_while_it_leads,
    killed_while_it_leads_others,
    killed_when_just_appointed,
    killed_while_it_connects,
    many_timeouts_at_random,
    many_kills_at_random,
]

if __name__ == "__main__":
    {scene.__name__: scene for scene in SCENES}[SCENE]()
    with gevent.Timeout(10):
        assert shared.call("ECHO", "afterwards") == b"afterwards"
    print("done")
