"""The archived log: what the archive holds of a run's log, as readers of the log see it."""

import logging
import threading
import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any, NamedTuple, Protocol, TypeVar

from ..errors import ArchiveUnavailable, DamagedArchive, StreamingError, copy_of
from ..event_id import EventId
from ..redis.connection import Reply
from .continuity import Mark
from .log_state import LogState
from .replies import parse_mark
from .run import Run
from .sequence import Uncounted, find_sequence

# A worker remembers for so many seconds what the archive has of a run: of so many runs, which have
# so many parts together.
KNOWN_SECONDS = 5.0
MAX_KNOWN_RUNS = 10_000
MAX_KNOWN_PARTS = 20_000

# After so many seconds a damaged part is read again: it may have been repaired.
DAMAGED_SECONDS = 60.0

# So many entries are read at once where all are wanted, the last one first.
PAGE_COUNT = 256

log = logging.getLogger("tailrace.archive")

_last_id = attrgetter("last_id")

T = TypeVar("T")


class Part(Protocol):
    """Some entries of a log that follow one another, as one object of the storage.

    `first_sequence` is that of the first entry, and `last_sequence` that of the last one; None if
    another program wrote it.
    """

    @property
    def name(self) -> str: ...

    @property
    def first_id(self) -> EventId: ...

    @property
    def last_id(self) -> EventId: ...

    @property
    def first_sequence(self) -> int | None: ...

    @property
    def last_sequence(self) -> int | None: ...

    @property
    def count(self) -> int: ...


class Manifest(Protocol):
    """What an archived log consists of, in the order of the log.

    `state` is that of the log as if Redis had what is archived, and `run` what is known of the run.
    """

    @property
    def state(self) -> LogState: ...

    @property
    def run(self) -> Run: ...

    @property
    def parts(self) -> Sequence[Part]: ...


class Archive(Protocol):
    """Where the logs of ended runs are kept.

    Every method raises ArchiveUnavailable, and DamagedArchive if the storage has something else
    than was written.
    """

    def find(self, run_id: str, epoch: bytes | None = None) -> Any:
        """Return the Manifest of a run's newest log, or of the one with an epoch, or None."""

    def entries(
        self,
        manifest: Any,
        after: EventId,
        upto: EventId,
        count: int,
        *,
        descending: bool = False,
    ) -> list[Reply]:
        """Return up to `count` entries of `after` < id <= `upto`, as Redis replies them.

        They are the first ones, or the last ones in reverse order if `descending`.
        """

    def delete(self, run_id: str, epoch: bytes | None = None) -> bool:
        """Delete all archived logs of a run, and archive the one with the epoch no more.

        Return whether there was one.
        """


class ArchivedLog:
    """One log as the archive has it. Entries that cannot be read count as missing."""

    def __init__(
        self, run_id: str, manifest: Manifest, archive: Archive, changed: Callable[[str], None]
    ):
        """`changed` is called with the run if the archive has something else of it now."""
        self.run_id = run_id
        self.manifest = manifest
        self._archive = archive
        self._changed = changed
        self._damaged: dict[Part, float] = {}

    @property
    def epoch(self) -> bytes:
        """What tells the log from every other one of the run."""
        return self.manifest.state.epoch

    def state(self) -> LogState:
        """Return the state of the log, where Redis has nothing of it."""
        whole = self.manifest.state
        archived = replace(whole, is_archived=True, archived_upto=whole.last_id, lease_seconds=None)
        return self._with_damage(archived)

    def completed(self, state: LogState) -> LogState:
        """Return the state of a log of which Redis has the end, and this the beginning."""
        whole, upto = self.manifest.state, last_before(state)
        completed = replace(
            state,
            first_id=whole.first_id,
            first_sequence=whole.first_sequence,
            length=self._count_upto(upto, state) + state.length,
            deleted=max(state.deleted, whole.deleted),
            archived_upto=upto,
        )
        if state.end_id is None and whole.last_id <= upto:
            completed = replace(
                completed,
                end_id=whole.end_id,
                end_sequence=whole.end_sequence,
                ended=whole.ended and whole.last_sequence == state.last_sequence,
            )
        sequence = state.first_sequence
        if sequence is not None and whole.last_sequence + 1 < sequence:
            completed = replace(completed, lost_upto=upto)
        return self._with_damage(completed)

    def entries(self, after: EventId, upto: EventId, count: int) -> list[Reply]:
        """Return up to `count` entries of `after` < id <= `upto` that can be read."""
        found: list[Reply] = []
        parts = self.manifest.parts
        for index in range(bisect_right(parts, after, key=_last_id), len(parts)):
            if len(found) >= count or parts[index].first_id > upto:
                break
            found += self._read(parts[index], after, upto, count - len(found))
        return found

    def pages_before(self, upto: EventId, after: EventId) -> Iterator[list[Reply]]:
        """Yield the entries of `after` < id <= `upto`, the last one first, some at a time."""
        for part in reversed(self.manifest.parts):
            if part.last_id <= after:
                return
            page_upto = upto
            while part.first_id <= page_upto:
                entries = self._read(part, after, page_upto, PAGE_COUNT, descending=True)
                if not entries:
                    break
                yield entries
                page_upto = EventId.from_redis(entries[-1][0]).before()

    def find(self, sequence: int, upto: EventId) -> Mark | None:
        """Return the first entry up to an id with at least this sequence.

        It is None too if that cannot be told, since other programs wrote entries. Only the part
        that should have it is read, and the next one if it has not.
        """
        parts = self.manifest.parts
        numbers = [0 if part.first_sequence is None else part.first_sequence for part in parts]
        if 0 in numbers:
            return None
        try:
            for part in parts[max(0, bisect_right(numbers, sequence) - 1) :]:
                if part.first_id > upto:
                    break
                mark = self._find_in(part, sequence)
                if mark is not None:
                    return mark if mark.cursor <= upto else None
        except Uncounted:
            return None
        return None

    def _find_in(self, part: Part, sequence: int) -> Mark | None:
        """Return the first entry of a part with at least a sequence. Raises Uncounted."""

        def read(after: EventId, upto: EventId, count: int) -> list[Mark]:
            return [parse_mark(entry) for entry in self._read(part, after, upto, count)]

        as_log = LogState(
            length=part.count,
            first_id=part.first_id,
            first_sequence=part.first_sequence,
            last_id=part.last_id,
            last_sequence=part.last_sequence or 0,
            ended=False,
            end_id=part.last_id,
            end_sequence=part.last_sequence,
        )
        return find_sequence(sequence, as_log, read)

    def _read(
        self, part: Part, after: EventId, upto: EventId, count: int, *, descending: bool = False
    ) -> list[Reply]:
        """Return entries of a part, none if it is damaged."""
        if self._damaged.get(part, 0.0) > time.monotonic():
            return []
        within = max(after, part.first_id.before()), min(upto, part.last_id)
        try:
            entries = self._archive.entries(self.manifest, *within, count, descending=descending)
        except DamagedArchive as error:
            self._check_unchanged()
            if part not in self._damaged:
                log.error("run %s lacks events: %s", self.run_id, error)
            self._damaged[part] = time.monotonic() + DAMAGED_SECONDS
            return []
        self._damaged.pop(part, None)
        return entries

    def _check_unchanged(self) -> None:
        """Raise ArchiveUnavailable if the archive has another log now, or none: read anew."""
        try:
            is_same = self._archive.find(self.run_id, self.epoch) == self.manifest
        except DamagedArchive:
            is_same = False
        if not is_same:
            self._changed(self.run_id)
            raise ArchiveUnavailable(f"what the archive has of run {self.run_id} has changed")

    def _with_damage(self, state: LogState) -> LogState:
        if not self._damaged:
            return state
        upto = max(part.last_id for part in self._damaged)
        return replace(
            state, deleted=max(state.deleted, upto), lost_upto=max(state.lost_upto, upto)
        )

    def _count_upto(self, upto: EventId, state: LogState) -> int:
        """Return how many entries stand before those that Redis has."""
        count = 0
        for part in self.manifest.parts:
            if part.last_id <= upto:
                count += part.count
            elif state.first_sequence is not None and part.first_sequence is not None:
                return count + max(0, min(part.count, state.first_sequence - part.first_sequence))
        return count


def last_before(state: LogState) -> EventId:
    """Return the greatest id that stands before all that Redis has of a log."""
    return state.last_id if state.first_id is None else state.first_id.before()


class Earlier(NamedTuple):
    """What the archive has before the entries that Redis has: those up to the id `upto`."""

    log: ArchivedLog
    upto: EventId


class _Known(NamedTuple):
    """What was found of a run: the state of Redis then, and until when it counts."""

    log: ArchivedLog | None
    seen: tuple[bytes, EventId | None]
    until: float

    @property
    def parts(self) -> int:
        return len(self.log.manifest.parts) if self.log else 0


class ArchivedLogs:
    """The archived logs as one process knows them. What it has found it remembers for a while."""

    def __init__(self, archive: Archive):
        self._archive = archive
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._earlier: OrderedDict[str, Earlier] = OrderedDict()
        self._parts = 0
        self._lock = threading.Lock()
        self._flights = _Flights()

    def earlier(self, run_id: str, state: LogState) -> Earlier | None:
        """Return what the archive has of a log before what Redis has of it.

        `state` is that of the log in Redis. Raises ArchiveUnavailable.
        """
        found = self._find(run_id, state)
        earlier = None
        if found is not None:
            whole = found.manifest.state
            upto = last_before(state) if state.exists else whole.last_id
            is_same = not state.exists or found.epoch == state.epoch
            if is_same and whole.first_id is not None and whole.first_id <= upto:
                earlier = Earlier(found, upto)
        with self._lock:
            self._earlier.pop(run_id, None)
            if earlier is not None:
                self._earlier[run_id] = earlier
            if len(self._earlier) > MAX_KNOWN_RUNS:
                self._earlier.popitem(last=False)
        return earlier

    def known(self, run_id: str) -> Earlier | None:
        """Return what `earlier` returned last for a run, without asking anybody."""
        return self._earlier.get(run_id)

    def leave(self, run_id: str) -> None:
        """Forget what `known` returns, since Redis has the whole log."""
        if run_id in self._earlier:
            with self._lock:
                self._earlier.pop(run_id, None)

    def delete(self, run_id: str, epoch: bytes) -> bool:
        """Delete what the archive has of a run; return whether there was anything.

        `epoch` is that of the log in Redis, empty if there is none.
        """
        try:
            return self._archive.delete(run_id, epoch or None)
        finally:
            self.forget(run_id)

    def forget(self, run_id: str) -> None:
        """Forget what was found of a run."""
        with self._lock:
            self._take(run_id)
            self._earlier.pop(run_id, None)

    def _find(self, run_id: str, state: LogState) -> ArchivedLog | None:
        """Return what the archive has of a run.

        What was found does not count any more once Redis has lost more of the log. While a run
        goes on, its log is trimmed again and again, but not archived.
        """
        seen = state.epoch, state.first_id if state.ended else None
        known = self._known.get(run_id)
        if known is not None and known.seen == seen and time.monotonic() < known.until:
            return known.log
        manifest = self._flights.join((run_id, seen), lambda: self._look(run_id, state))
        with self._lock:
            known = self._take(run_id)
            if manifest is None:
                found = None
            elif known is not None and known.log and known.log.manifest == manifest:
                found = known.log
            else:
                found = ArchivedLog(run_id, manifest, self._archive, self.forget)
            known = _Known(found, seen, time.monotonic() + KNOWN_SECONDS)
            self._known[run_id] = known
            self._parts += known.parts
            while len(self._known) > MAX_KNOWN_RUNS or (
                self._parts > MAX_KNOWN_PARTS and len(self._known) > 1
            ):
                self._take(next(iter(self._known)))
        return found

    def _look(self, run_id: str, state: LogState) -> Manifest | None:
        try:
            manifest: Manifest | None = self._archive.find(run_id, state.epoch or None)
        except DamagedArchive as error:
            if not state.exists:
                raise ArchiveUnavailable(str(error)) from error
            log.error("run %s lacks events: %s", run_id, error)
            return None
        return manifest

    def _take(self, run_id: str) -> _Known | None:
        known = self._known.pop(run_id, None)
        if known is not None:
            self._parts -= known.parts
        return known


class _Flight:
    """A call that is under way."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.result: Any = None
        self.error: StreamingError | None = None


class _Flights:
    """Calls that are made once for all who want the same at the same time."""

    def __init__(self) -> None:
        self._flights: dict[object, _Flight] = {}
        self._lock = threading.Lock()

    def join(self, key: object, call: Callable[[], T]) -> T:
        """Return what `call` returns, or what it returned to a caller with the same key."""
        with self._lock:
            flight = self._flights.get(key)
            leads = flight is None
            if flight is None:
                flight = self._flights[key] = _Flight()
        if not leads:
            flight.done.wait()
            if flight.error is not None:
                raise copy_of(flight.error)
            result: T = flight.result
            return result
        try:
            result = flight.result = call()
        except StreamingError as error:
            flight.error = error
            raise
        finally:
            with self._lock:
                del self._flights[key]
            flight.done.set()
        return result
