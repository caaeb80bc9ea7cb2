"""Reads of whole logs: from Redis, and from the archive what Redis no longer has."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from ..errors import ArchiveUnavailable, NotALog, StoreUnavailable
from ..event import OwnLog
from ..event_id import LAST, ZERO, EventId
from ..redis.connection import Reply
from ..redis.engine import Engine
from .archived_log import Archive, ArchivedLogs, Earlier, last_before
from .continuity import Mark, is_at
from .lease import Leases
from .log_state import LogState
from .position import Between, Position
from .reader import INITIAL_COUNT, FoundLog, Located, LogReader, next_count
from .replies import parse_log_state, parse_mark
from .run import Run

# In so many logs of the archive clients are located at once.
MAX_LOOK_UPS = 8


class WholeLogReader(LogReader):
    """Reads the logs in Redis, and in the archive what stood before that, if there is one.

    The archive is asked only where Redis has not all: there is no log, or its first entry is not
    the first of the run. Then every method raises ArchiveUnavailable too. What is trimmed, expires
    or is deleted while it is read is read on from the archive.

    A run that began again after its log had gone has another epoch. What the archive has of the
    log before is then no part of it.
    """

    def __init__(
        self,
        engine: Engine,
        leases: Leases,
        archive: Archive | None = None,
    ):
        super().__init__(engine, leases)
        self._archived = None if archive is None else ArchivedLogs(archive)

    def may_be_archived(self, run_id: str, position: Position, state: LogState) -> bool:
        """Return whether what follows a position, or that nothing does, only the archive can tell.

        `state` is that of the log in Redis.
        """
        if self._archived is None or isinstance(run_id, OwnLog):
            return False
        if position.is_start:  # there was no log, and now there may be one without its beginning
            return state.exists and not _is_whole(state)
        if not state.exists:
            return True
        if _is_whole(state) or position.epoch != state.epoch:
            return False
        return state.end_id is None or position.id < last_before(state)

    def entries(self, run_id: str, after: EventId, upto: EventId, count: int) -> list[Reply]:
        """Return up to `count` raw entries of `after` < id <= `upto`.

        What the archive has is among them if that is known already, as it is after every read of
        the log's state.
        """
        earlier = self._known_earlier(run_id)
        if earlier is None or after >= earlier.upto:
            return super().entries(run_id, after, upto, count)
        found = earlier.log.entries(after, min(upto, earlier.upto), count)
        if len(found) < count and upto > earlier.upto:
            found += super().entries(run_id, earlier.upto, upto, count - len(found))
        return found

    def entries_after(
        self, run_id: str, position: Position, upto: EventId, count: int
    ) -> tuple[list[Reply], bool]:
        """Return what `entries` does, and whether the position is certainly one of this log.

        Where the archive has what follows, the position's own entry must be there too. Then those
        of Redis are not among the entries: only `read` tells whether they are of the same log.
        """
        earlier = self._known_earlier(run_id)
        if earlier is None or position.id >= earlier.upto:
            return super().entries_after(run_id, position, upto, count)
        upto = min(upto, earlier.upto)
        if not position.is_entry:
            return earlier.log.entries(position.id, upto, count), True
        found = earlier.log.entries(position.id.before(), upto, count + 1)
        is_here = is_at(position, [parse_mark(entry) for entry in found[:1]])
        return found[1:] if is_here else found[:count], is_here

    def scan_pages(
        self,
        run_id: str,
        after: EventId | None = None,
        before: EventId | None = None,
        descending: bool = False,
    ) -> Iterator[list[Reply]]:
        """Yield the raw entries strictly between two ids. Each page is read when it is needed."""
        if self._archived is None or isinstance(run_id, OwnLog) or after == LAST or before == ZERO:
            yield from super().scan_pages(run_id, after, before, descending)
        elif descending:
            yield from self._scan_down(run_id, after or ZERO, before)
        else:
            yield from self._scan_up(run_id, after or ZERO, before)

    def _scan_up(
        self, run_id: str, after: EventId, before: EventId | None
    ) -> Iterator[list[Reply]]:
        """Yield the entries after an id.

        A page that does not prove that it follows the one before is read once more, with the state
        of the log: what should have come first may be in the archive. So is the last one, if Redis
        had not all before: it may have lost more meanwhile.
        """
        count, last = INITIAL_COUNT, Mark(after, b"", None)
        upto = LAST if before is None else before.before()
        while True:
            entries = [] if last.sequence is None else self.entries(run_id, after, upto, count)
            may_lack_some = len(entries) < count and self._known_earlier(run_id) is not None
            if may_lack_some or not _follows(last, entries):
                entries = self._read_after(run_id, after, upto, count)
            yield entries
            if len(entries) < count:
                return
            last = parse_mark(entries[-1])
            after = last.cursor
            count = next_count(_size(entries), len(entries))

    def _read_after(self, run_id: str, after: EventId, upto: EventId, count: int) -> list[Reply]:
        """Return up to `count` entries of `after` < id <= `upto`, wherever they are."""
        # One more, for the entry at the id itself.
        entries, _ = self._read(run_id, after, count + 1)
        ids = [EventId.from_redis(entry[0]) for entry in entries]
        pairs = zip(entries, ids, strict=True)
        return [entry for entry, its_id in pairs if after < its_id <= upto][:count]

    def _scan_down(
        self, run_id: str, after: EventId, before: EventId | None
    ) -> Iterator[list[Reply]]:
        """Yield the entries before an id, the last one first: those of Redis, then the others."""
        lowest: Mark | None = None
        for entries in super().scan_pages(run_id, after, before, descending=True):
            yield entries
            if entries:
                lowest = parse_mark(entries[-1])
        if lowest is not None and lowest.sequence == 1:
            return
        earlier = self._earlier(run_id, self._state_in_redis(run_id))
        if earlier is None or (lowest is not None and lowest.epoch not in (b"", earlier.log.epoch)):
            return
        bound = before if lowest is None else lowest.cursor
        upto = LAST if bound is None else bound.before()
        yield from earlier.log.pages_before(min(upto, earlier.upto), after)

    def _locate_all(self, found: Sequence[FoundLog]) -> list[Located | NotALog | StoreUnavailable]:
        if self._archived is None or all(_has_first(each.reply) for each in found):
            return super()._locate_all(found)
        with ThreadPoolExecutor(MAX_LOOK_UPS) as threads:
            return list(threads.map(self._try_to_locate, found))

    def _read(self, run_id: str, start: EventId, count: int) -> tuple[list[Reply], LogState]:
        earlier = self._known_earlier(run_id)
        if count and earlier is not None and start <= earlier.upto:
            # Most likely the archive has all of them, and Redis need not send its own.
            _, state = self._read_in_redis(run_id, ZERO, 0)
            entries, state = self._whole(run_id, start, [], state, count)
            if len(entries) == count or state.is_archived:
                return entries, state
        return self._whole(run_id, start, *self._read_in_redis(run_id, start, count), count)

    def _whole(
        self, run_id: str, start: EventId, entries: list[Reply], state: LogState, count: int
    ) -> tuple[list[Reply], LogState]:
        if not count or (state.exists and start > last_before(state)):
            return entries, self._whole_state(run_id, state)
        earlier = self._earlier(run_id, state)
        if earlier is None:
            return entries, state
        older = earlier.log.entries(start.before(), earlier.upto, count)
        return [*older, *entries[: count - len(older)]], _completed(earlier, state)

    def _whole_state(self, run_id: str, state: LogState) -> LogState:
        try:
            earlier = self._earlier(run_id, state)
        except ArchiveUnavailable:
            if not state.exists:
                raise
            return replace(state, is_incomplete=True)
        return state if earlier is None else _completed(earlier, state)

    def _run(self, run_id: str, found: Reply, state: LogState) -> Run:
        earlier = self._known_earlier(run_id)
        if earlier is None:
            return super()._run(run_id, found, state)
        archived = earlier.log.manifest.run
        if state.is_archived:
            return replace(archived, log=state)
        run = super()._run(run_id, found, state)
        last = run.last_event or archived.last_event
        return replace(run, first_event=archived.first_event, last_event=last)

    def _before_sequence(self, run_id: str, sequence: int, state: LogState) -> Position:
        earlier = self._known_earlier(run_id)
        if state.is_incomplete and sequence < (state.first_sequence or 0):
            raise ArchiveUnavailable("the archive cannot say now what it has")
        if earlier is not None and sequence <= state.last_sequence:
            mark = earlier.log.find(sequence, earlier.upto)
            if mark is not None and mark.sequence is not None:
                return Between(state.epoch, mark.cursor.before(), mark.sequence - 1)
        return super()._before_sequence(run_id, sequence, state)

    def _delete_archived(self, run_id: str) -> bool:
        """Delete what the archive has of a run; return whether there was anything."""
        if self._archived is None:
            return False
        return self._archived.delete(run_id, self._state_in_redis(run_id).epoch)

    def _state_in_redis(self, run_id: str) -> LogState:
        return self._read_in_redis(run_id, ZERO, 0)[1]

    def _earlier(self, run_id: str, state: LogState) -> Earlier | None:
        """Return what the archive has before what Redis has; `state` is that of Redis."""
        if self._archived is None or isinstance(run_id, OwnLog):
            return None
        if _is_whole(state):
            self._archived.leave(run_id)
            return None
        return self._archived.earlier(run_id, state)

    def _known_earlier(self, run_id: str) -> Earlier | None:
        return None if self._archived is None else self._archived.known(run_id)


def _is_whole(state: LogState) -> bool:
    """Return whether nothing stood before what Redis has of a log."""
    return state.exists and state.first_sequence == 1


def _has_first(reply: Reply) -> bool:
    """Return whether a reply of `read.lua` is of a log whose first entry Redis has."""
    return isinstance(reply, list) and bool(reply) and _is_whole(parse_log_state(reply[0]))


def _completed(earlier: Earlier, state: LogState) -> LogState:
    return earlier.log.completed(state) if state.exists else earlier.log.state()


def _follows(mark: Mark, entries: list[Reply]) -> bool:
    """Return whether entries prove that they come right after another one, without a hole."""
    if not entries or mark.sequence is None:
        return False
    first, last = parse_mark(entries[0]), parse_mark(entries[-1])
    return (
        first.sequence == mark.sequence + 1
        and last.sequence == mark.sequence + len(entries)
        and first.epoch == last.epoch == mark.epoch
    )


def _size(entries: list[Reply]) -> int:
    return sum(sum(map(len, fields)) + 200 for _, fields in entries)
