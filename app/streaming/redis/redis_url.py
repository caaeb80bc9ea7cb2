"""Clients made from URLs or from other clients, with settings that neither can change."""

# getaddrinfo imports it at the first connection. A child that is forked during that import, with
# the import's lock held, could never connect.
import encodings.idna  # noqa: F401
import os
import re
import socket
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import redis
from dotenv import dotenv_values
from redis.connection import Connection, SSLConnection, parse_url
from redis.exceptions import RedisError

from ..errors import InvalidInput
from .connection import NO_RETRIES
from .own_server import running_server_url
from .sentinel import ENCODE, SENTINEL_SCHEME, make_sentinel_pool

DEFAULT_URL = "redis://localhost:6379/0"

POOL_SIZE = 16
POOL_WAIT_SECONDS = 2.0
CONNECT_TIMEOUT_SECONDS = 2.0
COMMAND_TIMEOUT_SECONDS = 3.0

# What Valkey calls the schemes of Redis.
_SCHEMES = {"valkey": "redis", "valkeys": "rediss"}

_DATABASE_PATH = re.compile(r"/?[0-9]*")

_PINNED = {
    # With RESP3 and maintenance notifications redis-py does not check for unread replies. A
    # command can then get the reply to the one before it.
    "protocol": 2,
    "driver_info": None,
    "decode_responses": False,
    "retry": NO_RETRIES,
    "retry_on_timeout": False,
}

# The operating system finds out within seconds when the machine at the other end of an idle
# connection is gone.
_KEEPALIVE = {
    getattr(socket, name): value
    for name, value in (("TCP_KEEPIDLE", 2), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", 3))
    if hasattr(socket, name)  # not everywhere
}


def default_url() -> str:
    """Return REDIS_URL from the environment, else from `.env`, else the URL of a local server.

    That is the server of a gateway which runs in this directory, if it started one.
    """
    given = os.environ.get("REDIS_URL") or dotenv_values(".env").get("REDIS_URL")
    return given or running_server_url() or DEFAULT_URL


def make_client(url: str) -> redis.Redis:
    """Return a client with short timeouts, and with a bounded pool whose callers wait.

    With `redis+sentinel://user:password@host:port,host:port/service/0`, each new connection asks
    those Sentinels for the master of the service. Raises InvalidInput for a URL that cannot be
    used.
    """
    try:
        if url.startswith(SENTINEL_SCHEME):
            pool = make_sentinel_pool(url, make_pool)
        else:
            pool = make_pool(_server_settings(url))
        check_settings(pool)
    except (ValueError, TypeError, RedisError) as error:
        raise InvalidInput("REDIS_URL", explained(url, error)) from None
    return redis.Redis(connection_pool=pool)


def check_settings(pool: redis.BlockingConnectionPool) -> None:
    """Raise what redis-py raises for settings that no connection can have; connect nowhere."""
    pool.connection_class(**pool.connection_kwargs)


def explained(url: str, error: Exception) -> str:
    """Return what is wrong with a URL. It quotes nothing that may be a part of a password."""
    authority = re.split("[/?#]", url.partition("://")[2], maxsplit=1)[0]
    if "@" in url and "@" not in authority:
        return ENCODE
    try:
        urlsplit(url).port  # noqa: B018  # raises ValueError
    except ValueError:
        return "behind // must stand host:port, and [ ] around an IPv6 address"
    if isinstance(error, RedisError):  # of the options, redis-py checks only this one like that
        return "ssl_cert_reqs must be none, optional or required"
    if unknown := re.search(r"unexpected keyword argument '(\w+)'", str(error)):
        return f"{unknown[1]} is no option of a connection like this"
    return str(error).rstrip(".")


def pinned(client: redis.Redis) -> redis.Redis:
    """Return a client to the server of another one, with the settings that Tailrace relies on.

    The other one may cache, decode, retry, or speak RESP3.
    """
    pool = client.connection_pool
    settings = {
        name: value
        for name, value in pool.connection_kwargs.items()
        if not name.startswith("maint_notifications_")
    }
    return redis.Redis(
        connection_pool=redis.BlockingConnectionPool(
            **{
                **settings,
                **_PINNED,
                "connection_class": pool.connection_class,
                "max_connections": POOL_SIZE,
                "timeout": POOL_WAIT_SECONDS,
            }
        )
    )


def _server_settings(url: str) -> dict[str, Any]:
    scheme, colon, rest = url.partition(":")
    if scheme not in ("redis", "rediss", "unix", *_SCHEMES):
        raise ValueError(
            "it must begin with redis://, rediss://, valkey://, valkeys://, unix://, "
            "redis+sentinel://, redis+cluster:// or rediss+cluster://"
        )
    url = f"{_SCHEMES.get(scheme, scheme)}{colon}{rest}"
    if urlsplit(url).fragment:
        raise ValueError(ENCODE)
    if not _DATABASE_PATH.fullmatch(urlsplit(url).path) and not url.startswith("unix:"):
        raise ValueError("the path must be the number of a database")
    return dict(parse_url(url))


def make_pool(settings: dict[str, Any], size: int | None = None) -> redis.BlockingConnectionPool:
    """Return a pool with the settings of a URL, except that those in _PINNED stay as they are."""
    if issubclass(settings.get("connection_class", Connection), SSLConnection):
        settings = {"redis_connect_func": _connect_over_tls, **settings}
    if "path" not in settings:  # else it is a Unix socket
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
            "max_connections": size or POOL_SIZE,
            "timeout": POOL_WAIT_SECONDS,
        }
    )


def _connect_over_tls(link: Connection) -> None:
    """Connect as usual, and read the session tickets that a TLS 1.3 server sends.

    redis-py takes a connection with unread bytes for a broken one.
    """
    link.on_connect()
    link.send_command("PING")
    link.read_response()


def without_password(url: str) -> str:
    """Return a URL with *** instead of its password, for logs and messages."""
    url, question_mark, query = url.partition("?")
    options = [each.partition("=") for each in query.split("&")]
    hidden = [
        f"{name}={'***' if 'password' in unquote(name).lower() else value}" if equals else name
        for name, equals, value in options
    ]
    url = f"{url}{question_mark}{'&'.join(hidden)}"
    parts = urlsplit(url)
    if parts.password is None:
        return url
    credentials, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{credentials.partition(':')[0]}:***@{host}"))
