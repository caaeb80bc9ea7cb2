"""Notes of runs that a thread writes, and repeats until the index of runs has taken them."""

import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence

from ..backoff import backoff
from ..errors import StoreUnavailable, StreamingError
from ..new_event import NewEvent
from .run_index import Noted

# So many wait at most. The census finds the runs of those that are dropped, the oldest first.
MAX_WAITING = 10_000

# An append waits no longer for its note.
PATIENCE_SECONDS = 0.25

INITIAL_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.1, 2.0

log = logging.getLogger("tailrace.runs")


class Notes:
    """What is noted of some runs, and what is still to be told of them, in this order."""

    __slots__ = ("_settled", "changes", "noted")

    def __init__(self, noted: Sequence[Noted], changes: Sequence[NewEvent]) -> None:
        self.noted = noted
        self.changes = list(changes)
        self._settled = threading.Lock()  # an Event would break if an exception ended its methods
        self._settled.acquire()

    def settle(self) -> None:
        """End the wait for them: they were written, or cannot be written now."""
        if self._settled.locked():
            self._settled.release()

    def wait(self) -> bool:
        """Wait until they are settled; return False if that takes longer than PATIENCE_SECONDS."""
        return self._settled.acquire(timeout=PATIENCE_SECONDS)


class LateNotes:
    """Writes notes in their order, in a thread that lives while there are some.

    In a cluster the index may be out of reach while the logs are not.
    """

    def __init__(self, write: Callable[[Notes], None]) -> None:
        """`write` raises StoreUnavailable while the index cannot take the notes.

        It is called again with what it has left of them.
        """
        self._write = write
        self._reset()
        # The notes of the parent are the parent's, and so is its thread.
        reset = weakref.WeakMethod(self._reset)
        os.register_at_fork(after_in_child=lambda: (method := reset()) and method())

    def _reset(self) -> None:
        self._waiting: deque[Notes] = deque(maxlen=MAX_WAITING)
        self._lock = threading.RLock()  # a signal handler may append too
        self._is_writing = False
        self._is_stuck = False

    @property
    def are_waiting(self) -> bool:
        """Whether notes are being written, so that later ones must wait behind them."""
        return self._is_writing

    def add(self, notes: Notes) -> None:
        """Write notes later."""
        with self._lock:
            self._waiting.append(notes)
            starts, self._is_writing = not self._is_writing, True
        if starts:
            self._start()

    def write(self, notes: Notes) -> None:
        """Write notes, and wait a moment for that; not at all while the index takes none."""
        self.add(notes)
        if not self._is_stuck and not notes.wait():
            self._is_stuck = True

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="tailrace-late-notes", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter ends
            while (notes := self._take()) is not None:
                self._try(notes)

    def _run(self) -> None:
        while (notes := self._take()) is not None:
            pauses = backoff(INITIAL_PAUSE_SECONDS, MAX_PAUSE_SECONDS)
            while not self._try(notes):
                time.sleep(next(pauses))

    def _take(self) -> Notes | None:
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._is_writing = False
            return None

    def _try(self, notes: Notes) -> bool:
        """Write notes; return False if the index cannot take them now."""
        try:
            self._write(notes)
        except StoreUnavailable as error:
            if not self._is_stuck:
                log.warning("the index of runs cannot be written now: %s", error)
            self._is_stuck = True
            return False
        except StreamingError as error:
            log.warning("notes of runs are dropped: %s", error)
        except Exception:
            log.exception("notes of runs are dropped")
        else:
            self._is_stuck = False
        finally:
            notes.settle()
        return True
