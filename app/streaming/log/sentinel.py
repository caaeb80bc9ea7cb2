"""The watch over a master behind Sentinels: which server it is now, asked once a second.

A failover that somebody asks for leaves the former master alive, and it goes on taking writes,
all of them lost, for the ten seconds or so until the Sentinels demote it.
"""

import contextlib
import os
import threading
import time
import weakref

from redis.connection import Connection
from redis.exceptions import RedisError
from redis.sentinel import SentinelConnectionPoolProxy

ASK_INTERVAL_SECONDS = 1.0


class WatchedMaster(SentinelConnectionPoolProxy):
    """redis-py's knowledge of the master, kept up to date from the first question on."""

    _watched_in: int | None = None

    def is_at(self, link: Connection) -> bool:
        """Whether a connection leads to the master, as far as the Sentinels said last."""
        if self._watched_in != os.getpid():  # a forked child has no thread yet
            self._watched_in = os.getpid()
            watch = threading.Thread(
                target=_watch, args=(weakref.ref(self),), name="tailrace-master", daemon=True
            )
            watch.start()
        return self.master_address in (None, (link.host, link.port))


def leads_to_master(link: Connection) -> bool:
    """Whether a connection is to the server that is to be written to, as far as is known."""
    master = getattr(link, "connection_pool", None)
    return not isinstance(master, WatchedMaster) or master.is_at(link)


def _watch(kept: "weakref.ref[WatchedMaster]") -> None:
    """Ask again and again, for as long as somebody else keeps the master."""
    while True:
        time.sleep(ASK_INTERVAL_SECONDS)
        master = kept()
        if master is None:
            return
        with contextlib.suppress(RedisError, OSError):  # what was said last holds
            master.get_master_address()
        del master
