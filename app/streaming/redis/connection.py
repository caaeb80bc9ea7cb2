"""Connections to Redis: commands go out, raw replies come back, and failures become our errors.

A variable that holds one connection is called `link`, since this module is `connection`.
"""

import _socket
import re
import select
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any, Protocol, TypeAlias

import hiredis
import redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    MasterDownError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.retry import Retry

from ...metrics.catalog import REDIS_ERRORS
from ..errors import NotALog, StoreUnavailable, TimedOut, UnsupportedServer, copy_of
from ..reentrancy import one_call_per_thread
from .readable import wait_readable
from .sentinel import leads_to_master

BLOCKING_POOL_SIZE = 10_000
BLOCK_MARGIN_SECONDS = 5.0

# If the reply to an append was lost, a retry would append the event twice.
NO_RETRIES = Retry(NoBackoff(), 0)

Argument: TypeAlias = str | bytes | int
Command: TypeAlias = Sequence[Argument]

# In RESP2: bytes, an int, None, or a list of replies; or a ResponseError, as a value.
Reply: TypeAlias = Any


class Loading(ResponseError):
    """The reply of a server that still reads its data from disk."""


class RedisConnection(Protocol):
    """A redis-py connection, as far as Tailrace uses one. redis-py has no types for most of it."""

    @property
    def _sock(self) -> socket.socket | None: ...

    def connect(self) -> None: ...

    def disconnect(self) -> None: ...

    def can_read(self) -> bool: ...

    def send_packed_command(self, command: Sequence[bytes]) -> None: ...

    def read_response(self, disable_decoding: bool) -> Reply: ...


def make_blocking_client(client: redis.Redis, block_seconds: float) -> redis.Redis:
    """Return a client to the same server, for reads that block for up to `block_seconds`.

    Such a read takes no connection from the pool of `client`, and does not reach its timeout.
    """
    pool = client.connection_pool
    settings = {**pool.connection_kwargs, "socket_timeout": block_seconds + BLOCK_MARGIN_SECONDS}
    return redis.Redis(
        connection_pool=redis.ConnectionPool(
            connection_class=pool.connection_class, max_connections=BLOCKING_POOL_SIZE, **settings
        )
    )


def make_connection(client: redis.Redis, read_timeout: float | None = None) -> RedisConnection:
    """Return a connection outside any pool, to the same server, not yet connected.

    `read_timeout` is in seconds, and must exceed every BLOCK that is sent over the connection.
    Without it the connection has the timeout of `client`.
    """
    pool = client.connection_pool
    settings = {**pool.connection_kwargs, "retry": NO_RETRIES}
    if read_timeout is not None:
        settings["socket_timeout"] = read_timeout
    link: RedisConnection = pool.connection_class(**settings)
    return link


def count_open(client: redis.Redis, others: Iterable[RedisConnection]) -> int:
    """Return how many connections are open: those of a client's pool, and others."""
    pool: Any = client.connection_pool  # has no public way to them
    links: Iterable[RedisConnection | None] = (
        *(*pool._get_free_connections(), *pool._get_in_use_connections()),
        *others,
    )
    return sum(link is not None and link._sock is not None for link in links)


# How the reason begins if a server answers, but lets nobody in with this user and password.
REFUSES = "Redis refuses the user or the password"

# How servers answer SELECT if they have no such database, or the user may not use it. A cluster
# has one database, except that Valkey 9 may have more.
_NO_DATABASE = re.compile(
    "SELECT is not allowed in cluster mode|DB index is out of range|run the 'select' command"
)

# Looks at what has come without taking it, and without waiting.
_PEEK = int(socket.MSG_PEEK | socket.MSG_DONTWAIT)

# Sending commands


def call(client: redis.Redis, *command: Argument) -> Reply:
    """Send one command and return its raw reply.

    Raises NotALog and StoreUnavailable, and ReentrantCall in a signal handler that has
    interrupted a call.
    """
    return checked(call_all(client, command)[0])


def call_all(client: redis.Redis, *commands: Command) -> list[Reply]:
    """Send commands in one round trip and return their raw replies, error replies as values.

    `redis.Redis` is not used for that: its retries may repeat an append, its decoding fails on
    entries that are not UTF-8, and it costs more than twice as much.

    Raises StoreUnavailable, whose `stored` is None if Redis may have executed the commands, and
    ReentrantCall in a signal handler that has interrupted a call: that call may hold the lock of
    the pool.
    """
    thread = one_call_per_thread.check()
    try:
        one_call_per_thread.enter(thread)
        with translated_errors():
            return _exchange_over(client.connection_pool, commands)
    finally:
        one_call_per_thread.leave(thread)


def _exchange_over(pool: redis.ConnectionPool, commands: Sequence[Command]) -> list[Reply]:
    link = pool.get_connection()
    try:
        if not leads_to_master(link):
            link.disconnect()
            link.connect()  # an exchange would connect too, but asks no Sentinel for the master
        with _lost_replies:
            return exchange(link, *commands)
    finally:
        pool.release(link)


def close_pool(client: redis.Redis) -> None:
    """Close the connections of a client's pool. Calls that are in progress fail."""
    pool: Any = client.connection_pool  # has no public way to those in use
    pool.disconnect(inuse_connections=False)
    for link in pool._get_in_use_connections():
        hang_up(link)


def hang_up(link: RedisConnection) -> None:
    """End a connection that another thread uses, which then fails and disconnects it.

    To disconnect it would take the socket away while redis-py waits for it.
    """
    connected = link._sock
    if isinstance(connected, socket.socket):  # else fakeredis, or not connected
        with suppress(OSError):  # the server has ended it
            # Not that of a TLS socket, which does what `disconnect` does.
            socket.socket.shutdown(connected, socket.SHUT_RDWR)


def exchange(link: RedisConnection, *commands: Command) -> list[Reply]:
    """Send commands over a connection and return the raw replies, error replies as values."""
    return exchange_packed(link, pack(*commands), len(commands))


def pack(*commands: Command) -> bytes:
    """Return commands as the bytes that are sent.

    redis-py's own packer looks at each argument first, which takes three times as long.
    """
    # hiredis declares a tuple of exactly one argument.
    return b"".join([hiredis.pack_command(tuple(each)) for each in commands])  # type: ignore[arg-type]


def exchange_packed(link: RedisConnection, commands: bytes, replies: int) -> list[Reply]:
    """Send packed commands, and return that many replies, as `exchange` does."""
    if not replies:  # nothing was sent, and no reply would come
        return []
    try:
        _send(link, commands)
        return [_read_reply(link) for _ in range(replies)]
    except BaseException:
        link.disconnect()  # else the next command would get a reply that was not read
        raise


def _send(link: RedisConnection, commands: bytes) -> None:
    connected = link._sock
    if type(connected) is not socket.socket:  # TLS, fakeredis, or not connected yet
        link.send_packed_command([commands])
        return
    # gevent's sendall asks the operating system for the size of its buffer each time.
    sent = connected.send(commands)
    if sent < len(commands):
        connected.sendall(memoryview(commands)[sent:])
    wait_readable(connected)


def _read_reply(link: RedisConnection) -> Reply:
    try:
        return link.read_response(disable_decoding=True)
    except ResponseError as error:
        return error
    except BusyLoadingError as error:  # an error reply too, though not a ResponseError
        return Loading(str(error))


def has_nothing_to_read(link: RedisConnection) -> bool:
    """Return False if something came unasked: the end of the connection, or a late reply."""
    connected = link._sock
    if not isinstance(connected, socket.socket):
        return True  # fakeredis
    # The sockets of gevent wrap one that never waits.
    wrapped: _socket.socket | None = getattr(connected, "_sock", None)
    if wrapped is not None:
        return _is_silent(wrapped)
    poll = select.poll()  # `can_read` of redis-py takes 50 µs, and this 2
    poll.register(connected, select.POLLIN)
    return not poll.poll(0)


def _is_silent(connected: _socket.socket) -> bool:
    try:
        connected.recv(1, _PEEK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


# What an error or a reply says


def reason_of(error: Exception) -> str:
    """Return why a server cannot be used, of an error that redis-py has raised."""
    if isinstance(error, AuthenticationError):
        return f"{REFUSES} in REDIS_URL: {error}"
    if _NO_DATABASE.search(str(error)):
        return (
            f"Redis refuses the database in REDIS_URL: {error}; "
            "a server in cluster mode needs redis+cluster://host:port,…, without a database"
        )
    return f"Redis does not answer: {error}"


def kind_of(error: Exception) -> type[StoreUnavailable]:
    """Return which of our errors stands for one that redis-py has raised."""
    if _is_timeout(error):
        return TimedOut
    return UnsupportedServer if _NO_DATABASE.search(str(error)) else StoreUnavailable


def _is_timeout(error: Exception) -> bool:
    return isinstance(error, redis.TimeoutError | TimeoutError)


def checked(reply: Reply) -> Reply:
    """Return a reply, or raise NotALog, NoScriptError or StoreUnavailable for an error reply.

    The reply of a node of a cluster that does not answer is a StoreUnavailable: it is raised.
    """
    if not isinstance(reply, Exception):
        return reply
    if isinstance(reply, StoreUnavailable):
        raise copy_of(reply)
    if not isinstance(reply, ResponseError):
        return reply
    if isinstance(reply, NoScriptError):
        raise reply
    if is_wrong_type(reply):
        raise NotALog("a key of the run in Redis is of another type")
    if str(reply).startswith("user_script:"):  # a script failed on what it found there
        raise NotALog(f"the keys of the run in Redis hold something unexpected: {reply}")
    count_error(reply)
    raise StoreUnavailable(f"Redis refused: {reply}")


def is_not_master(reply: Reply) -> bool:
    """Return whether the reply says that the server is not the master."""
    return isinstance(reply, ReadOnlyError | MasterDownError)


def is_wrong_type(reply: Reply) -> bool:
    """Return whether the reply says that a key does not hold a stream."""
    return isinstance(reply, ResponseError) and "WRONGTYPE" in str(reply)


def count_error(error: Exception) -> None:
    """Count a failure of Redis: of a connection, or an error reply."""
    text = str(error)
    kinds = (kind for kind, is_it in _KINDS_OF_ERRORS if is_it(error, text))
    REDIS_ERRORS.of(next(kinds, "other")).add()


_KINDS_OF_ERRORS: tuple[tuple[str, Callable[[Exception, str], bool]], ...] = (
    ("timeout", lambda error, text: _is_timeout(error)),
    (
        "loading",
        lambda error, text: "LOADING" in text or isinstance(error, BusyLoadingError | Loading),
    ),
    ("read_only", lambda error, text: is_not_master(error)),
    ("forbidden", lambda error, text: "NOPERM" in text or isinstance(error, NoPermissionError)),
    ("full", lambda error, text: isinstance(error, OutOfMemoryError) or text.startswith("OOM")),
    ("connection", lambda error, text: isinstance(error, redis.ConnectionError | OSError)),
)


class _TranslatedErrors:
    """Raises StoreUnavailable for every error that redis-py raises.

    It stands around every read of a reader. A generator in its place would cost four times as much.
    """

    def __init__(self, stored: bool | None):
        self._stored = stored

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, RedisError | OSError):
            count_error(error)
            raise kind_of(error)(reason_of(error), self._stored) from error


_translated_errors = _TranslatedErrors(stored=False)

# Stands around commands that are sent: if their replies are lost, nobody knows what they did.
_lost_replies = _TranslatedErrors(stored=None)


def translated_errors() -> AbstractContextManager[None]:
    """Raise StoreUnavailable for every error that redis-py raises."""
    return _translated_errors
