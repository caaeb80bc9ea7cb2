"""Threads for the calls to a storage, so that a gevent worker does not stand still meanwhile."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

import gevent
from gevent.threadpool import ThreadPool

from ..streaming.errors import ArchiveUnavailable

# So many calls are under way at once.
MAX_THREADS = 16

# A call is given up after so many seconds, and then the storage is left alone for a while.
CALL_SECONDS = 5.0
PAUSE_SECONDS = 2.0

log = logging.getLogger("tailrace.archive")

T = TypeVar("T")


class StorageThreads:
    """Makes calls in threads of its own, and waits for each of them for a limited time.

    While the storage is left alone, every call raises ArchiveUnavailable at once. The next one
    then tries it out, and the others still do not wait. A thread that was given up is not free
    before its call returns. In a thread without the worker's hub, calls are made there.
    """

    def __init__(self, seconds: float = CALL_SECONDS, pause_seconds: float = PAUSE_SECONDS):
        self._seconds = seconds
        self._pause_seconds = pause_seconds
        self._pool: ThreadPool | None = None
        self._left_alone_until = 0.0
        self._failed = False

    def __call__(self, function: Callable[[], T]) -> T:
        now = time.monotonic()
        if now < self._left_alone_until:
            raise ArchiveUnavailable("the storage of the archive does not respond")
        if self._failed:
            self._left_alone_until = now + self._seconds
        timeout = gevent.Timeout(self._seconds)
        try:
            with timeout:
                outcome: Callable[[], T] = self._threads().apply(_called, (function,))
        except gevent.Timeout as raised:
            if raised is not timeout:
                raise
            self._fail()
            raise ArchiveUnavailable(
                f"the storage of the archive did not respond within {self._seconds:g} s"
            ) from None
        self._recover()
        return outcome()

    def _threads(self) -> ThreadPool:
        if self._pool is None:  # threads do not outlive a fork
            self._pool = ThreadPool(MAX_THREADS)
        return self._pool

    def _fail(self) -> None:
        self._left_alone_until = time.monotonic() + self._pause_seconds
        if not self._failed:
            self._failed = True
            log.warning("the storage does not respond; trying again")

    def _recover(self) -> None:
        if self._failed:
            self._failed, self._left_alone_until = False, 0.0
            log.info("the storage responds again")


def _called(function: Callable[[], T]) -> Callable[[], T]:
    """Call a function, and return one that returns or raises what it did.

    gevent prints what is raised in a thread.
    """
    try:
        result = function()
    except Exception as raised:
        error = raised

        def fail() -> T:
            raise error

        return fail
    return lambda: result
