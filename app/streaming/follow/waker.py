"""The waker: it gets readers out of a blocking XREAD that is out of date."""

import logging
import threading
import time

from ..errors import StoreUnavailable
from ..event_store import EventStore
from ..log.connection import exchange, translated_errors
from .tail_reader import REPLY_TIMEOUT_SECONDS, TailReader

# Before the waker's first attempt, so that feeds that join together cost one waking; and
# at the most between two attempts.
INITIAL_WAKING_SECONDS = 0.008
MAX_WAKING_SECONDS = 0.05

log = logging.getLogger("tailrace.reader")


class Waker:
    """Wakes readers out of a blocking XREAD that feeds have joined since, or that is to end.

    CLIENT UNBLOCK before the block has begun does nothing, so it is repeated until the
    reader has left.
    """

    def __init__(self, store: EventStore):
        self._store = store
        self._link = None
        self._readers: set[TailReader] = set()
        self._lock = threading.Lock()
        self._wanted = threading.Event()
        self._started = False

    def wake(self, reader: TailReader) -> None:
        with self._lock:
            self._readers.add(reader)
            starts, self._started = not self._started, True
        if starts:
            threading.Thread(target=self._run, name="tailrace-waker", daemon=True).start()
        self._wanted.set()

    def _run(self) -> None:
        pause = INITIAL_WAKING_SECONDS
        while True:
            self._wanted.wait()
            time.sleep(pause)
            self._wanted.clear()
            with self._lock:
                self._readers = {reader for reader in self._readers if reader.should_wake()}
                blocked = [reader.blocked_client for reader in self._readers]
            if not blocked:
                pause = INITIAL_WAKING_SECONDS
                continue
            try:
                self._unblock([client_id for client_id in blocked if client_id])
            except StoreUnavailable:
                self._link = None  # the readers have lost Redis too, and reconnect
            except Exception:
                log.exception("waking failed, and goes on")
                self._link = None
            pause = min(MAX_WAKING_SECONDS, 2 * pause)
            self._wanted.set()

    def _unblock(self, client_ids: list[int]) -> None:
        with translated_errors():
            self._link = self._link or self._store.connect(REPLY_TIMEOUT_SECONDS)
            for client_id in client_ids:
                exchange(self._link, ("CLIENT", "UNBLOCK", client_id))
