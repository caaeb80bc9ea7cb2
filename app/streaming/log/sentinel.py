"""Redis behind Sentinels: the pool for a `redis+sentinel://` URL, and the watch over the master.

A failover that somebody asks for leaves the former master alive. It goes on taking writes for
about ten seconds, until the Sentinels demote it, and all of those writes are lost. So Tailrace
asks the Sentinels once a second which server is the master.
"""

import contextlib
import os
import re
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from redis import BlockingConnectionPool
from redis.connection import parse_url
from redis.exceptions import RedisError
from redis.sentinel import Sentinel, SentinelConnectionPoolProxy, SentinelManagedConnection

SENTINEL_SCHEME = "redis+sentinel://"
DEFAULT_PORT = 26379
TIMEOUT_SECONDS = 1.0
ASK_INTERVAL_SECONDS = 1.0

_DATABASE = re.compile(r"/?[0-9]*")
_ENDS_HOST = re.compile(r"[/?#]")


class WatchedMaster(SentinelConnectionPoolProxy):
    """redis-py's record of the master. After its first use, a thread renews it once a second."""

    def __init__(self, pool: BlockingConnectionPool, service: str, sentinels: Sentinel):
        self._watched_in: int | None = None  # the process whose thread asks the Sentinels
        super().__init__(  # type: ignore[no-untyped-call]  # redis-py has no types for it
            connection_pool=pool,
            is_master=True,
            check_connection=False,
            service_name=service,
            sentinel_manager=sentinels,
        )

    def is_at(self, link: SentinelManagedConnection) -> bool:
        """Return whether a connection leads to the master that the Sentinels named last."""
        if self._watched_in != os.getpid():  # a forked child has no such thread yet
            self._watched_in = os.getpid()
            threading.Thread(
                target=_watch, args=(weakref.ref(self),), name="tailrace-master", daemon=True
            ).start()
        return self.master_address in (None, (link.host, link.port))


def leads_to_master(link: object) -> bool:
    """Return False if a connection leads to a server that is known not to be the master."""
    if not isinstance(link, SentinelManagedConnection):
        return True
    master = link.connection_pool
    return not isinstance(master, WatchedMaster) or master.is_at(link)


def make_sentinel_pool(
    url: str, make_pool: Callable[[dict[str, Any]], BlockingConnectionPool]
) -> BlockingConnectionPool:
    """Return a pool whose connections lead to the master of the service that the URL names.

    `make_pool` makes a pool from redis-py's settings of a connection. Raises ValueError for a
    URL that cannot be used.
    """
    credentials, at, rest = url.removeprefix(SENTINEL_SCHEME).rpartition("@")
    if _ENDS_HOST.search(credentials):
        raise ValueError("/ ? and # in a user name or password must be percent-encoded")
    hosts, _, rest = rest.partition("/")
    service, _, database = rest.partition("/")
    if not service or not _DATABASE.fullmatch(database.partition("?")[0]):
        raise ValueError("must be redis+sentinel://host:port,host:port/service/database")
    settings = parse_url(f"redis://{credentials}{at}master/{database}")
    del settings["host"]
    pool = make_pool({"connection_class": SentinelManagedConnection, **settings})
    pool.connection_kwargs["connection_pool"] = WatchedMaster(
        pool, service, _sentinels(hosts, pool)
    )
    return pool


def _sentinels(hosts: str, pool: BlockingConnectionPool) -> Sentinel:
    """Return the client of some Sentinels, with the protocol and the retries of the pool."""
    addresses = [parse_url(f"redis://{host}") for host in hosts.split(",")]
    return Sentinel(
        [(each.get("host", "localhost"), each.get("port", DEFAULT_PORT)) for each in addresses],
        sentinel_kwargs={
            "socket_timeout": TIMEOUT_SECONDS,
            "socket_connect_timeout": TIMEOUT_SECONDS,
            "protocol": pool.connection_kwargs["protocol"],
            "retry": pool.connection_kwargs["retry"],
        },
    )


def _watch(reference: "weakref.ref[SentinelConnectionPoolProxy]") -> None:
    """Ask the Sentinels again and again, until nothing else refers to the master."""
    while True:
        time.sleep(ASK_INTERVAL_SECONDS)
        master = reference()
        if master is None:
            return
        with contextlib.suppress(RedisError, OSError):  # the last answer stays valid
            master.get_master_address()
        del master
