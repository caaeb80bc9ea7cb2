"""The log of revocations in Redis, which every worker of every gateway follows."""

import json
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from ..streaming.backoff import backoff
from ..streaming.errors import NotALog, StoreUnavailable
from ..streaming.redis.acknowledgement import acknowledged
from ..streaming.redis.connection import Command, Reply, checked
from ..streaming.redis.engine import Engine
from ..streaming.redis.scripts import Connection
from ..streaming.redis.server import MAX_BLOCK_SECONDS
from .identity import RevocationsNotKnown
from .revocations import Revocations, read_revocation

REVOCATIONS = "tailrace:revocations"
_BEGINNING = b"0-0"
READ_COUNT = 1000
INITIAL_RETRY_SECONDS, MAX_RETRY_SECONDS = 0.1, 2.0

# A request waits so long for the first reading of the log. Nobody is let in before.
FIRST_READ_SECONDS = 5.0

log = logging.getLogger("tailrace.auth")


class RevocationLog:
    """Follows the log from its beginning, and keeps what it says in `revocations`."""

    def __init__(self, engine: Engine, changed: Callable[[], None]) -> None:
        """`changed` is called after revocations have come."""
        self.revocations = Revocations()
        self._engine = engine
        self._changed = changed
        self._followed_in: int | None = None  # the process whose thread follows
        self._is_read = threading.Event()
        self._is_failing = False
        self._last_id = _BEGINNING

    def append(self, revocation: dict[str, Any]) -> None:
        """Revoke, for all gateways. Raises StoreUnavailable."""
        entry = "revocation", json.dumps(revocation)
        # A revocation that is lost in a failover would let its token in again.
        [reply] = self._call_all(self._engine.writes, ("XADD", REVOCATIONS, "*", *entry))
        acknowledged(reply)

    @property
    def is_read(self) -> bool:
        """Whether this process has read the revocations, and follows them."""
        return self._is_read.is_set() and self._followed_in == os.getpid()

    def wait_until_read(self) -> None:
        """Return once the log was read up to its end. Raises RevocationsNotKnown."""
        if self.is_read:
            return
        if self._followed_in != os.getpid():
            self._followed_in = os.getpid()
            self._is_read = threading.Event()
            # A read that waits at a node whose slots went to another one hears nothing of it.
            self._engine.watch()
            threading.Thread(
                target=_follow, args=(weakref.ref(self),), name="tailrace-revocations", daemon=True
            ).start()
        if not self._is_read.wait(FIRST_READ_SECONDS):
            raise RevocationsNotKnown("the revocations could not be read yet", stored=False)

    def read(self) -> bool:
        """Read once, and return whether Redis let us. Log only a change of that.

        What is read is what there is, or, after all was read, what comes within 5 seconds.
        """
        try:
            self._read()
        except StoreUnavailable as error:
            if not self._is_failing:
                log.warning("the revocations cannot be read: %s", str(error))
            self._is_failing = True
            self._last_id = _BEGINNING  # the log may be another one when Redis is back
        else:
            if self._is_failing:
                log.info("the revocations are read again")
            self._is_failing = False
        return not self._is_failing

    def _read(self) -> None:
        blocking = ("BLOCK", int(1000 * MAX_BLOCK_SECONDS)) if self._is_read.is_set() else ()
        pool = self._engine.blocking if blocking else self._engine.pool
        last_id = self._last_id
        reply, last = self._call_all(
            pool,
            ("XREAD", "COUNT", READ_COUNT, *blocking, "STREAMS", REVOCATIONS, last_id),
            ("XRANGE", REVOCATIONS, last_id, last_id),
        )
        if not last and last_id != _BEGINNING:  # it has gone, or is another log, or an older state
            self._last_id = _BEGINNING
            return
        if not reply:
            self._is_read.set()
            return
        [(_, entries)] = reply.items() if isinstance(reply, dict) else reply
        try:
            self._take(entries)
        finally:
            self._changed()

    def _take(self, entries: list[Any]) -> None:
        for entry_id, fields in entries:
            self._last_id = entry_id
            found = read_revocation(fields[1] if fields[:1] == [b"revocation"] else b"")
            if found is None:
                log.warning("no revocation: the entry %s of %s", entry_id.decode(), REVOCATIONS)
            else:
                self.revocations.add(found)

    def _call_all(self, pool: Connection, *commands: Command) -> list[Reply]:
        try:
            return [checked(reply) for reply in pool.call_all(*commands)]
        except NotALog:
            raise StoreUnavailable(f"{REVOCATIONS} is not a stream", stored=False) from None


def _follow(reference: "weakref.ref[RevocationLog]") -> None:
    """Read the log again and again, until nothing else refers to it."""
    pauses = backoff(INITIAL_RETRY_SECONDS, MAX_RETRY_SECONDS)
    while (followed := reference()) is not None:
        pause = 0.0
        try:
            if followed.read():
                pauses = backoff(INITIAL_RETRY_SECONDS, MAX_RETRY_SECONDS)
            else:
                pause = next(pauses)
        except Exception:
            pause = next(pauses)
            log.exception("the revocations could not be taken")
        del followed
        time.sleep(pause)
