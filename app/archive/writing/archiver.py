"""The archiver: copies the logs that are due, one after another, and goes on after failures."""

import contextlib
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Literal

from ...streaming.backoff import backoff
from ...streaming.errors import (
    ArchiveUnavailable,
    DamagedArchive,
    StoreUnavailable,
    StreamingError,
)
from ...streaming.event_store import EventStore
from ..archive import Archive
from .copying import LogChanged, copy_log
from .due import DueLogs
from .metrics import Metrics
from .notes import CLAIM_SECONDS, Notes

# A run that is reopened right after its end is archived once.
GRACE_SECONDS = 10.0

# How often all runs are looked at, at most.
LOOK_SECONDS = 5.0

# So many logs are copied at once, so that a large one does not keep all others waiting.
COPIERS = 2

# After a failure a copier pauses, and tries that log again later.
INITIAL_PAUSE_SECONDS = 0.5
MAX_PAUSE_SECONDS = 60.0
RETRY_SECONDS = 30.0

# There may be none with this id.
_ANY_RUN = "0"

log = logging.getLogger("tailrace.archive")


# A log is left if it is gone, or another archiver has claimed it.
Outcome = Literal["done", "left", "failed"]


class Stopped(Exception):
    """A copy is to end: the archiver stops, or another one has claimed the log."""


class Archiver:
    """Archives the logs of one server.

    Args:
        store: the event store whose runs are archived.
        archive: where they are archived.
        hold_seconds: for how long at most a log is kept beyond its time.
        idle_ttl_seconds: how long a run that goes on is kept after its last event.
        metrics: counts what happens.
    """

    def __init__(
        self,
        store: EventStore,
        archive: Archive,
        *,
        hold_seconds: int,
        idle_ttl_seconds: int,
        metrics: Metrics,
    ):
        self._store = store
        self._archive = archive
        self._metrics = metrics
        self._notes = Notes(store, f"{time.time_ns()}-{secrets.token_hex(4)}")
        self._due = DueLogs(
            store,
            self._notes,
            hold_seconds=hold_seconds,
            idle_ttl_seconds=idle_ttl_seconds,
            metrics=metrics,
        )
        self._stop = threading.Event()
        self._queue = _Queue()
        self._outage = _Outage()
        self._named: set[str] = set()  # failures of single logs that were told

    def start(self) -> list[threading.Thread]:
        """Work in threads from now on, until `stop` is called."""
        jobs = [self._watch, *[self._copy_all] * COPIERS]
        threads = [
            threading.Thread(target=job, name="tailrace-archive", daemon=True) for job in jobs
        ]
        for thread in threads:
            thread.start()
        return threads

    def stop(self) -> None:
        """End soon. A copy that is not finished begins anew the next time."""
        self._stop.set()
        self._queue.close()

    def run_once(self) -> int:
        """Archive all that has ended. Return how many logs could not be archived.

        Raises StoreUnavailable if nobody knows.
        """
        failed: set[str] = set()
        while not self._stop.is_set():
            due = [each.run_id for each in self._due.find(0.0, lambda seconds: None)]
            if not set(due) - failed:
                break
            for run_id in due:
                if run_id in failed or self._stop.is_set():
                    continue
                if self._copy(run_id) != "done":
                    failed.add(run_id)
        return len(self._due.find(0.0, lambda seconds: None))

    def _watch(self) -> None:
        """Look again and again for what is due."""
        self._try_storage()
        while not self._stop.is_set():
            try:
                self._queue.replace(
                    [each.run_id for each in self._due.find(GRACE_SECONDS, self._stop.wait)]
                )
                self._outage.over("redis")
            except StoreUnavailable as error:
                self._outage.tell("redis", error)
            except Exception:
                self._metrics.failures.labels("unexpected").inc()
                log.exception("unexpected error while looking for logs to archive")
            self._stop.wait(LOOK_SECONDS)

    def _try_storage(self) -> None:
        """Tell at once if the storage cannot be read, before a log is due."""
        try:
            self._archive.epochs(_ANY_RUN)
        except ArchiveUnavailable as error:
            self._outage.tell("storage", error)

    def _copy_all(self) -> None:
        """Copy one log that is due after another."""
        pauses = backoff(INITIAL_PAUSE_SECONDS, MAX_PAUSE_SECONDS)
        while (run_id := self._queue.take()) is not None:
            outcome = self._copy(run_id)
            if outcome == "failed":
                self._queue.done(run_id, RETRY_SECONDS)
                self._stop.wait(next(pauses))
            else:
                self._queue.done(run_id)
                pauses = backoff(INITIAL_PAUSE_SECONDS, MAX_PAUSE_SECONDS)

    def _copy(self, run_id: str) -> Outcome:
        """Copy one log, and tell what became of it."""
        try:
            return self._try(run_id)
        except Stopped:
            kind = None
        except LogChanged as error:
            kind = "changed"
            log.info("%s; it is tried again", error)
        except ArchiveUnavailable as error:
            kind = "storage"
            self._outage.tell(kind, error)
        except StoreUnavailable as error:
            kind = "redis"
            self._outage.tell(kind, error)
        except StreamingError as error:
            kind = "damaged" if isinstance(error, DamagedArchive) else "refused"
            self._name(run_id, error)
        except Exception:
            kind = "unexpected"
            log.exception("unexpected error while run %s was archived", run_id)
        if kind is not None:
            self._metrics.failures.labels(kind).inc()
        with contextlib.suppress(StreamingError):  # else the claim ends by itself
            self._notes.give_up(run_id)
        return "failed"

    def _try(self, run_id: str) -> Outcome:
        is_claimed, has_begun_before = self._notes.claim(run_id)
        if not is_claimed:
            return "left"
        began = time.monotonic()
        copied = copy_log(
            self._store, self._archive, run_id, self._keeper(run_id), clean=has_begun_before
        )
        if copied.state is None:
            return "left"
        self._notes.archived(run_id, copied.state)
        self._outage.over("redis", "storage")
        if copied.is_deleted:
            log.info("run %s is not archived: it was deleted", run_id)
        elif copied.has_written:
            self._metrics.runs.inc()
            self._metrics.events.inc(copied.events)
            self._metrics.bytes.inc(copied.size)
            log.info(
                "archived run %s up to %s: %d events, %d bytes, %.1f s",
                *(run_id, copied.state.last_id, copied.events, copied.size),
                time.monotonic() - began,
            )
        return "done"

    def _keeper(self, run_id: str) -> Callable[[], None]:
        """Return what a copy calls while it goes on: it renews the claim, and ends the copy."""
        renewed = time.monotonic()

        def keep_on() -> None:
            nonlocal renewed
            if self._stop.is_set():
                raise Stopped
            if time.monotonic() - renewed > CLAIM_SECONDS / 3:
                if not self._notes.claim(run_id)[0]:
                    raise Stopped
                renewed = time.monotonic()

        return keep_on

    def _name(self, run_id: str, error: StreamingError) -> None:
        """Tell once why a log cannot be archived."""
        if (said := f"{run_id}: {error}") not in self._named:
            self._named = {said} if len(self._named) > 10_000 else {*self._named, said}
            log.error("run %s cannot be archived: %s", run_id, error)


class _Outage:
    """Tells once that Redis or the storage is away, and once that it is back."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def tell(self, kind: str, error: StreamingError) -> None:
        if kind not in self._told:
            self._told.add(kind)
            log.warning("cannot archive now, and will go on trying: %s", error)

    def over(self, *kinds: str) -> None:
        before, self._told = self._told, self._told - set(kinds)
        if before and not self._told:
            log.warning("archiving again")


class _Queue:
    """The logs that are due, for several copiers. None of them gets one that another one has."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._due: deque[str] = deque()
        self._taken: set[str] = set()
        self._later: dict[str, float] = {}
        self._is_closed = False

    def replace(self, run_ids: list[str]) -> None:
        """Set what is due now, in its order."""
        with self._changed:
            now = time.monotonic()
            self._later = {run_id: at for run_id, at in self._later.items() if at > now}
            self._due = deque(run_id for run_id in run_ids if run_id not in self._later)
            self._changed.notify_all()

    def take(self) -> str | None:
        """Return the next log, as soon as there is one; None after the end."""
        with self._changed:
            while not self._is_closed:
                while self._due:
                    run_id = self._due.popleft()
                    if run_id not in self._taken:
                        self._taken.add(run_id)
                        return run_id
                self._changed.wait()
            return None

    def done(self, run_id: str, pause: float = 0.0) -> None:
        """Give a log back, which is not to be taken again for some seconds."""
        with self._changed:
            self._taken.discard(run_id)
            if pause:
                self._later[run_id] = time.monotonic() + pause

    def close(self) -> None:
        """Give out nothing more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
