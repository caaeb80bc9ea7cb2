"""Notes of runs that the index could not take at once: they are written once it can."""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from ..backoff import backoff
from ..errors import StoreUnavailable
from ..new_event import NewEvent
from .run_index import Noted

# So many wait at most. The census finds the runs of those that are dropped.
MAX_WAITING = 10_000

INITIAL_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.1, 2.0

Notes = tuple[Sequence[Noted], Sequence[NewEvent]]

log = logging.getLogger("tailrace.runs")


class LateNotes:
    """Writes notes in their order, in a thread that lives while some wait.

    In a cluster the index may be out of reach while the logs are not. No append waits for it.
    """

    def __init__(self, write: Callable[[Notes], None]) -> None:
        """`write` raises StoreUnavailable while the index cannot take the notes."""
        self._write = write
        self._waiting: deque[Notes] = deque(maxlen=MAX_WAITING)
        self._lock = threading.Lock()
        self._written_in: int | None = None  # the process whose thread writes

    @property
    def are_waiting(self) -> bool:
        """Whether notes wait, so that later ones must wait behind them."""
        return bool(self._waiting)

    def add(self, notes: Notes) -> None:
        """Write notes later."""
        with self._lock:
            self._waiting.append(notes)
            starts, self._written_in = self._written_in != os.getpid(), os.getpid()
        if starts:
            threading.Thread(target=self._run, name="tailrace-late-notes", daemon=True).start()

    def _run(self) -> None:
        pauses = backoff(INITIAL_PAUSE_SECONDS, MAX_PAUSE_SECONDS)
        while True:
            try:
                self._write(self._waiting[0])
            except StoreUnavailable:
                time.sleep(next(pauses))
                continue
            except Exception:
                log.exception("notes of runs are dropped")
            with self._lock:
                self._waiting.popleft()
                if not self._waiting:
                    self._written_in = None
                    return
