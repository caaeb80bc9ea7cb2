"""Threads that call Redis over one SharedConnection, in an order that the test decides."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from urllib.parse import urlencode

import redis

from app.streaming.errors import StoreUnavailable
from app.streaming.redis import connection, redis_url
from app.streaming.redis.acknowledgement import Acknowledgement
from app.streaming.redis.availability import Availability
from app.streaming.redis.shared_connection import SharedConnection
from tests.servers import RedisServer, wait_until


class Caller(threading.Thread):
    """A thread that makes one call of one or several commands, and keeps the reply or error."""

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


def share(client: redis.Redis, acknowledgement: Acknowledgement | None = None) -> SharedConnection:
    """Return a shared connection to the server of a client."""
    connect = partial(connection.make_connection, client)
    return SharedConnection(connect, Availability(lambda: None), acknowledgement)


def share_to(
    server: RedisServer,
    database: int = 0,
    acknowledgement: Acknowledgement | None = None,
    **settings: object,
) -> SharedConnection:
    """Return a shared connection to a server, with settings of its URL."""
    query = urlencode({"socket_timeout": 20} | settings)
    url = f"redis://127.0.0.1:{server.port}/{database}?{query}"
    return share(redis_url.make_client(url), acknowledgement)


def start_waiting(shared: SharedConnection, *commands: tuple) -> list[Caller]:
    """Start callers that wait in the order of their commands while another one leads."""
    callers = []
    for command in commands:
        waiting = len(shared._waiting)
        callers.append(Caller(shared, *command))
        wait_until(lambda: len(shared._waiting) > waiting, "the caller waits")  # noqa: B023
    return callers


@contextmanager
def blocked_leader(shared: SharedConnection, client: redis.Redis, key: str) -> Iterator[Caller]:
    """Let a caller lead that gets its reply only when the block ends."""
    own_id = shared.call("CLIENT", "ID")
    leader = Caller(shared, "BLPOP", key, 0)
    wait_until(lambda: "b" in client.client_list(client_id=[own_id])[0]["flags"], "it is blocked")
    yield leader
    client.rpush(key, "go on")
    assert leader.outcome == [key.encode(), b"go on"]


def stored(callers: list[Caller]) -> list[bool | None]:
    """Return the `stored` of the error of each caller, all of which failed."""
    assert all(isinstance(caller.outcome, StoreUnavailable) for caller in callers)
    return [caller.outcome.stored for caller in callers]
