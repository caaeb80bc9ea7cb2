"""Redis behind Sentinels: the pool for a `redis+sentinel://` URL, and the watch over the master.

A failover that somebody asks for leaves the former master alive. It goes on taking writes for
about ten seconds, until the Sentinels demote it, and all of those writes are lost. So Tailrace
listens to the Sentinels, and uses no master that is about to be replaced.
"""

import _socket
import os
import re
import socket
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from redis import BlockingConnectionPool, Redis
from redis.connection import parse_url
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.sentinel import Sentinel, SentinelConnectionPoolProxy, SentinelManagedConnection
from redis.utils import str_if_bytes

SENTINEL_SCHEME = "redis+sentinel://"
DEFAULT_PORT = 26379
TIMEOUT_SECONDS = 1.0

# A Sentinel that publishes nothing is asked so often. What it said counts for so long.
ASK_INTERVAL_SECONDS = 1.0
FRESH_SECONDS = 5.0

# Once a Sentinel is about to promote a replica, what the master acknowledges may be lost. The
# Sentinel finds out a second later that the replica is the master, and then names it.
PROMOTES = "+failover-state-send-slaveof-noone"
GIVES_UP = "-failover-abort-slave-timeout"
CHANNELS = PROMOTES, GIVES_UP, "+promoted-slave", "+switch-master"
MAX_PROMOTION_SECONDS = 5.0

ENCODE = "/ ? and # in a user name or password must be percent-encoded"

_DATABASE = re.compile(r"/?[0-9]*")
_ENDS_HOST = re.compile(r"[/?#]")


class _Statement(NamedTuple):
    """What a Sentinel said: the failovers that it has seen, when it said so, and the master."""

    epoch: int
    at: float
    address: tuple[str, int]


class WatchedMaster(SentinelConnectionPoolProxy):
    """redis-py's record of the master. After its first use, a thread listens to each Sentinel."""

    def __init__(self, pool: BlockingConnectionPool, service: str, sentinels: Sentinel):
        super().__init__(  # type: ignore[no-untyped-call]  # redis-py has no types for it
            connection_pool=pool,
            is_master=True,
            check_connection=False,
            service_name=service,
            sentinel_manager=sentinels,
        )
        self._sentinels: list[Redis] = list(sentinels.sentinels)
        self._watched_in: int | None = None  # the process whose threads listen
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._links: weakref.WeakSet[SentinelManagedConnection] = weakref.WeakSet()
        self._statements: dict[int, _Statement] = {}
        self._promotion_ends = 0.0  # until then, a replica is being promoted

    # For connections

    def get_master_address(self) -> tuple[str, int]:
        """Return the host and port of the master. Raises ConnectionError if nobody knows it."""
        self._watch()
        if self._is_promoting():
            raise RedisConnectionError("the Sentinels are about to name another master")
        if not self._fresh():
            for number in range(len(self._sentinels)):
                with suppress(RedisError, OSError):
                    self._ask(number)
                    break
        if self.master_address is None:
            raise RedisConnectionError(f"no Sentinel names a master for {self.service_name!r}")
        host, port = self.master_address
        return host, port

    def add(self, link: SentinelManagedConnection) -> None:
        """Drop a connection when the server that it leads to is not the master any more."""
        with self._lock:
            self._links.add(link)

    def is_at(self, link: SentinelManagedConnection) -> bool:
        """Return whether a connection leads to the master that the Sentinels named last."""
        self._watch()
        return not self._is_promoting() and self.master_address in (None, (link.host, link.port))

    # For the threads

    def hear(self, number: int, message: dict[str, Any] | None) -> None:
        """Take in what a Sentinel published, and ask it. Raises what redis-py raises."""
        if message is not None:
            about = str_if_bytes(message["data"]).split()
            if self.service_name not in about:
                return
            channel = str_if_bytes(message["channel"])
            if channel == PROMOTES:
                self._promotion_ends = time.monotonic() + MAX_PROMOTION_SECONDS
                self._drop_links()
                return
            if channel == GIVES_UP:
                self._promotion_ends = 0.0
        self._ask(number)

    def _ask(self, number: int) -> None:
        sentinel: Any = self._sentinels[number]
        named = sentinel.sentinel_get_master_addr_by_name(self.service_name)
        # Asked second, so that a failover meanwhile makes the statement too new, not too old.
        epoch = sentinel.sentinel_master(self.service_name)["config-epoch"]
        address = str_if_bytes(named[0]), named[1]
        with self._lock:
            self._statements[number] = _Statement(epoch, time.monotonic(), address)
            # A Sentinel that was away may still name a former master.
            master = max(self._fresh()).address
            changed = master != self.master_address
            self.master_address = master
            if changed:
                self._promotion_ends = 0.0
        if changed:
            self._drop_links()

    def _fresh(self) -> list[_Statement]:
        since = time.monotonic() - FRESH_SECONDS
        return [each for each in list(self._statements.values()) if each.at > since]

    def _is_promoting(self) -> bool:
        return time.monotonic() < self._promotion_ends

    def _drop_links(self) -> None:
        """Break the connections to a former master, also those on which somebody waits."""
        with self._lock:
            links = list(self._links)
        for link in links:
            if not self.is_at(link):
                _shut_down(link)

    def _watch(self) -> None:
        if self._watched_in == os.getpid():
            return
        if self._watched_in is not None:  # this is a forked child; the links are its parent's
            self._reset()
        self._watched_in = os.getpid()
        for number in range(len(self._sentinels)):
            threading.Thread(
                target=_listen,
                args=(weakref.ref(self), number, self._sentinels[number]),
                name="tailrace-master",
                daemon=True,
            ).start()


class MasterConnection(SentinelManagedConnection):
    """A connection to the master, which ends when another server becomes the master."""

    connection_pool: WatchedMaster

    def connect_to(self, address: tuple[str, int]) -> None:
        self.connection_pool.add(self)
        super().connect_to(address)  # type: ignore[no-untyped-call]
        if not self.connection_pool.is_at(self):
            self.disconnect()  # type: ignore[no-untyped-call]
            raise RedisConnectionError("another server has just become the master")


def leads_to_master(link: object) -> bool:
    """Return False if a connection leads to a server that is known not to be the master."""
    return not isinstance(link, MasterConnection) or link.connection_pool.is_at(link)


def make_sentinel_pool(
    url: str, make_pool: Callable[[dict[str, Any]], BlockingConnectionPool]
) -> BlockingConnectionPool:
    """Return a pool whose connections lead to the master of the service that the URL names.

    `make_pool` makes a pool from redis-py's settings of a connection. Raises ValueError for a
    URL that cannot be used.
    """
    credentials, at, rest = url.removeprefix(SENTINEL_SCHEME).rpartition("@")
    if _ENDS_HOST.search(credentials):
        raise ValueError(ENCODE)
    hosts, _, rest = rest.partition("/")
    service, _, database = rest.partition("/")
    if not service or not _DATABASE.fullmatch(database.partition("?")[0]):
        raise ValueError("must be redis+sentinel://host:port,host:port/service/database")
    settings = dict(parse_url(f"redis://{credentials}{at}master/{database}"))
    del settings["host"]
    login = {name: settings.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    pool = make_pool({"connection_class": MasterConnection, **settings})
    pool.connection_kwargs["connection_pool"] = WatchedMaster(
        pool, service, _sentinels(hosts, pool, login)
    )
    return pool


def _sentinels(hosts: str, pool: BlockingConnectionPool, login: dict[str, Any]) -> Sentinel:
    """Return the client of some Sentinels, with the protocol and the retries of the pool."""
    addresses = [parse_url(f"redis://{host}") for host in hosts.split(",")]
    return Sentinel(
        [(each.get("host", "localhost"), each.get("port", DEFAULT_PORT)) for each in addresses],
        sentinel_kwargs={
            "socket_timeout": TIMEOUT_SECONDS,
            "socket_connect_timeout": TIMEOUT_SECONDS,
            "protocol": pool.connection_kwargs["protocol"],
            "retry": pool.connection_kwargs["retry"],
            **login,
        },
    )


def _listen(reference: "weakref.ref[WatchedMaster]", number: int, sentinel: Redis) -> None:
    """Listen to a Sentinel, and connect again and again, until nothing refers to the master."""
    while reference() is not None:
        with suppress(RedisError, OSError), sentinel.pubsub() as published:
            published.subscribe(*CHANNELS)
            message = None
            while True:
                master = reference()
                if master is None:
                    return
                master.hear(number, message)
                del master
                message = published.get_message(True, timeout=ASK_INTERVAL_SECONDS)
        time.sleep(ASK_INTERVAL_SECONDS)


def _shut_down(link: SentinelManagedConnection) -> None:
    """End a connection without closing it: its descriptor belongs to its user."""
    connected = link._sock
    # The sockets of gevent wrap one. Those of TLS have a `shutdown` that breaks a reader.
    wrapped = getattr(connected, "_sock", connected)
    if isinstance(wrapped, _socket.socket):
        with suppress(OSError):
            _socket.socket.shutdown(wrapped, socket.SHUT_RDWR)
