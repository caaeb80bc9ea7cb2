"""The waker: it ends the blocking XREAD of a reader whose feeds have changed."""

import logging
import threading
import time

from ..errors import StoreUnavailable
from ..redis.connection import RedisConnection, exchange, translated_errors
from ..redis.sentinel import leads_to_master
from ..redis.server import Server
from .tail_reader import REPLY_TIMEOUT_SECONDS, TailReader

# The pause before the first attempt, so that feeds that join together cost one attempt, and the
# longest pause between two attempts.
INITIAL_PAUSE_SECONDS = 0.008
MAX_PAUSE_SECONDS = 0.05

log = logging.getLogger("tailrace.reader")


class Waker:
    """Ends the blocking XREAD of readers that were given a feed, or were closed, since it began.

    CLIENT UNBLOCK does nothing before the XREAD has begun to block. The waker therefore repeats
    it until the reader's XREAD has returned.
    """

    def __init__(self, server: Server):
        self._server = server
        self._link: RedisConnection | None = None
        self._readers: set[TailReader] = set()
        self._lock = threading.Lock()
        self._has_readers = threading.Event()
        self._started = False

    def wake(self, reader: TailReader) -> None:
        """End the XREAD of a reader soon."""
        with self._lock:
            self._readers.add(reader)
            starts, self._started = not self._started, True
        if starts:
            threading.Thread(target=self._run, name="tailrace-waker", daemon=True).start()
        self._has_readers.set()

    def _run(self) -> None:
        pause = INITIAL_PAUSE_SECONDS
        while True:
            self._has_readers.wait()
            time.sleep(pause)
            self._has_readers.clear()
            with self._lock:
                self._readers = {reader for reader in self._readers if reader.should_wake()}
                blocked = [reader.blocked_client for reader in self._readers]
            if not blocked:
                pause = INITIAL_PAUSE_SECONDS
                continue
            try:
                self._unblock([client_id for client_id in blocked if client_id])
            except StoreUnavailable:
                self._link = None  # the readers have lost Redis too, and reconnect
            except Exception:
                log.exception("could not wake readers; trying again")
                self._link = None
            pause = min(MAX_PAUSE_SECONDS, 2 * pause)
            self._has_readers.set()

    def _unblock(self, client_ids: list[int]) -> None:
        with translated_errors():
            link = self._link
            if link is None or not leads_to_master(link):
                link = self._connect()
            for client_id in client_ids:
                exchange(link, ("CLIENT", "UNBLOCK", client_id))

    def _connect(self) -> RedisConnection:
        link = self._server.connect(REPLY_TIMEOUT_SECONDS)
        # An exchange would connect too, but only `connect` asks the Sentinels for the master.
        link.connect()
        self._link = link
        return link
