"""The one place that talks to Redis: it makes the connections, with all that must be pinned
about them, sends commands, and turns what goes wrong into the errors of this package."""

# getaddrinfo imports it when it first connects: a child that is forked meanwhile, with the
# import's lock held, could never connect.
import encodings.idna  # noqa: F401
import os
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import hiredis
import redis
from dotenv import dotenv_values
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection, parse_url
from redis.exceptions import (
    BusyLoadingError,
    MasterDownError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelManagedConnection

from ..errors import InvalidInput, NotALog, StoreUnavailable
from .sentinel import WatchedMaster, leads_to_master

SENTINEL_SCHEME = "redis+sentinel://"
DEFAULT_URL = "redis://localhost:6379/0"

POOL_SIZE = 16
POOL_WAIT_SECONDS = 2.0
BLOCKING_POOL_SIZE = 10_000
BLOCK_MARGIN_SECONDS = 5.0
CONNECT_TIMEOUT_SECONDS = 2.0
COMMAND_TIMEOUT_SECONDS = 3.0
SENTINEL_TIMEOUT_SECONDS = 1.0

_DATABASE = re.compile(r"/?[0-9]*")
_ENDS_HOST = re.compile(r"[/?#]")

_PINNED = {
    # RESP3 with maintenance notifications turns off the check for unread replies, after
    # which a command can get the answer of the one before it.
    "protocol": 2,
    "driver_info": None,
    "decode_responses": False,
    # A retried append whose answer was lost is an append made twice.
    "retry": Retry(NoBackoff(), 0),
    "retry_on_timeout": False,
}


# An idle connection to a machine that has gone is found out within seconds, by the system alone.
_KEEPALIVE = {
    getattr(socket, name): value
    for name, value in (("TCP_KEEPIDLE", 2), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", 3))
    if hasattr(socket, name)  # not everywhere
}


def default_url() -> str:
    """REDIS_URL of the environment, else of `.env`, else the local server."""
    return os.environ.get("REDIS_URL") or dotenv_values(".env").get("REDIS_URL") or DEFAULT_URL


def make_client(url: str) -> redis.Redis:
    """A client with short time-outs and a bounded pool that waits; raises InvalidInput.

    `redis+sentinel://user:password@host:port,host:port/service/0` asks those Sentinels, at
    each new connection, which server is the service's master.
    """
    make_pool = _sentinel_pool if url.startswith(SENTINEL_SCHEME) else _server_pool
    try:
        pool = make_pool(url)
        pool.connection_class(**pool.connection_kwargs)  # connects nowhere, but checks them
    except (ValueError, TypeError) as error:
        raise InvalidInput("REDIS_URL", str(error)) from None
    return redis.Redis(connection_pool=pool)


def _server_pool(url: str) -> redis.BlockingConnectionPool:
    if not _DATABASE.fullmatch(urlsplit(url).path) and not url.startswith("unix:"):
        raise ValueError("the path must be the number of a database")
    return _pool(parse_url(url))


def _sentinel_pool(url: str) -> redis.BlockingConnectionPool:
    credentials, at, rest = url.removeprefix(SENTINEL_SCHEME).rpartition("@")
    if _ENDS_HOST.search(credentials):
        raise ValueError("/ ? and # in a user name or password must be percent-encoded")
    hosts, _, rest = rest.partition("/")
    service, _, database = rest.partition("/")
    if not service or not _DATABASE.fullmatch(database.partition("?")[0]):
        raise ValueError("must be redis+sentinel://host:port,host:port/service/database")
    settings = parse_url(f"redis://{credentials}{at}master/{database}")
    del settings["host"]
    pool = _pool({"connection_class": SentinelManagedConnection, **settings})
    pool.connection_kwargs["connection_pool"] = WatchedMaster(
        connection_pool=pool,
        is_master=True,
        check_connection=False,
        service_name=service,
        sentinel_manager=_sentinels(hosts),
    )
    return pool


def _sentinels(hosts: str) -> Sentinel:
    addresses = [parse_url(f"redis://{host}") for host in hosts.split(",")]
    return Sentinel(
        [(each.get("host", "localhost"), each.get("port", 26379)) for each in addresses],
        sentinel_kwargs={
            "socket_timeout": SENTINEL_TIMEOUT_SECONDS,
            "socket_connect_timeout": SENTINEL_TIMEOUT_SECONDS,
            "protocol": 2,
            "retry": _PINNED["retry"],
        },
    )


def _pool(settings: dict[str, Any]) -> redis.BlockingConnectionPool:
    """A pool with what the URL sets, as far as it may."""
    if issubclass(settings.get("connection_class", Connection), SSLConnection):
        settings = {"redis_connect_func": _connect_over_tls, **settings}
    if "path" not in settings:  # of a Unix socket
        settings = {
            "socket_keepalive": True,
            "socket_keepalive_options": _KEEPALIVE,
            **settings,
        }
    return redis.BlockingConnectionPool(
        **{
            "socket_timeout": COMMAND_TIMEOUT_SECONDS,
            "socket_connect_timeout": CONNECT_TIMEOUT_SECONDS,
            **settings,
            **_PINNED,
            "max_connections": POOL_SIZE,
            "timeout": POOL_WAIT_SECONDS,
        }
    )


def _connect_over_tls(link: Connection) -> None:
    """Begin as usual, and read what TLS 1.3 sends unasked: redis-py takes a connection with
    something unread, be it session tickets, for one that is not in order."""
    link.on_connect()
    link.send_command("PING")
    link.read_response()


def make_blocking_client(client: redis.Redis, block_seconds: float) -> redis.Redis:
    """A client to the same server as `client`'s, for reads that block up to `block_seconds`.

    They neither take connections from the others, nor run into their read time-out.
    """
    pool = client.connection_pool
    settings = {**pool.connection_kwargs, "socket_timeout": block_seconds + BLOCK_MARGIN_SECONDS}
    return redis.Redis(
        connection_pool=redis.ConnectionPool(
            connection_class=pool.connection_class, max_connections=BLOCKING_POOL_SIZE, **settings
        )
    )


def make_connection(client: redis.Redis, read_timeout: float | None = None) -> Connection:
    """A connection outside any pool, to the same server as `client`'s, not yet connected.

    `read_timeout` is in seconds and must exceed every BLOCK sent over the connection;
    without it the connection has that of the client's.
    """
    pool = client.connection_pool
    settings = {"retry": _PINNED["retry"]}
    if read_timeout is not None:
        settings["socket_timeout"] = read_timeout
    return pool.connection_class(**{**pool.connection_kwargs, **settings})


def without_password(url: str) -> str:
    """The URL as it may be shown."""
    url = re.sub(r"([?&]password=)[^&]*", r"\1***", url)
    parts = urlsplit(url)
    if parts.password is None:
        return url
    credentials, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{credentials.partition(':')[0]}:***@{host}"))


def call(client: redis.Redis, *command: Any) -> Any:
    """The raw reply to one command, in bytes; raises NotALog or StoreUnavailable."""
    return checked(call_all(client, command)[0])


def call_all(client: redis.Redis, *commands: Sequence[Any]) -> list[Any]:
    """The raw replies to some commands, in one round trip; an error reply is a value.

    Not through `redis.Redis`: its retries may repeat an append, its decoding fails on
    entries that are not UTF-8, and it costs more than twice as much.
    """
    pool = client.connection_pool
    with translated_errors():
        link = pool.get_connection()
        try:
            if not leads_to_master(link):
                link.disconnect()  # the exchange connects it again
            return exchange(link, *commands)
        finally:
            pool.release(link)


def exchange(link: Connection, *commands: Sequence[Any]) -> list[Any]:
    """Send some commands over a connection and read the raw replies, errors as values."""
    return exchange_packed(link, pack(*commands), len(commands))


def pack(*commands: Sequence[Any]) -> bytes:
    """Commands, of text, bytes and integers, as they are sent.

    redis-py's own packer looks at each argument first, which takes twice as long again.
    """
    return b"".join([hiredis.pack_command(tuple(command)) for command in commands])


def exchange_packed(link: Connection, commands: bytes, replies: int) -> list[Any]:
    """The same for commands that are packed already, with as many replies as they have."""
    try:
        _send(link, commands)
        return [_reply(link) for _ in range(replies)]
    except BaseException:
        link.disconnect()  # a reply that was not read would answer the next command
        raise


def checked(reply: Any) -> Any:
    """The reply, unless it is an error: then NotALog, NoScriptError or StoreUnavailable."""
    if not isinstance(reply, ResponseError):
        return reply
    if isinstance(reply, NoScriptError):
        raise reply
    if is_wrong_type(reply):
        raise NotALog("the key in Redis holds something else than a stream")
    raise StoreUnavailable(f"Redis refused: {reply}")


def is_of_no_master(reply: Any) -> bool:
    """Whether the reply says that the server is not, or not any more, the one to write to."""
    return isinstance(reply, ReadOnlyError | MasterDownError)


def is_wrong_type(reply: Any) -> bool:
    """Whether the reply says that a key holds something else than a stream."""
    return isinstance(reply, ResponseError) and "WRONGTYPE" in str(reply)


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn what redis-py raises into StoreUnavailable."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise StoreUnavailable(f"Redis does not answer: {error}") from error


def _send(link: Connection, commands: bytes) -> None:
    if type(link._sock) is not socket.socket:  # TLS, fakeredis, or not connected yet
        link.send_packed_command([commands])
        return
    # gevent's sendall asks the system for the size of its buffer each time.
    sent = link._sock.send(commands)
    if sent < len(commands):
        link._sock.sendall(memoryview(commands)[sent:])


def _reply(link: Connection) -> Any:
    try:
        return link.read_response(disable_decoding=True)
    except ResponseError as error:
        return error
    except BusyLoadingError as error:  # refused too, though redis-py calls it a lost connection
        return ResponseError(str(error))
