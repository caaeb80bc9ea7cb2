"""Copies one log from Redis into the archive: what was added since, then the manifest.

Others may append to the log, trim, delete or replace it at any moment. So its state is compared
before and after it was read: only a log that was the same all the time is archived.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from ...streaming.errors import StreamingError
from ...streaming.event import Event, timestamp_now
from ...streaming.event_id import ZERO, EventId
from ...streaming.log.continuity import Mark, is_another_log
from ...streaming.log.log_state import LogState
from ...streaming.log.reader import ENTRY_OVERHEAD, INITIAL_COUNT, LogReader, next_count
from ...streaming.log.replies import parse_event, parse_mark, without_large_data
from ...streaming.redis.connection import Reply
from ..archive import Archive, Version
from ..manifest import Manifest, Part
from ..names import LogName
from ..parts import PART_BYTES, PartWriter

# A last part that is smaller is written again with what is new, so that there are not many.
MIN_PART_BYTES = PART_BYTES // 4


class LogChanged(StreamingError):
    """The log was changed while it was copied, or another archiver was faster. Try again."""


class CannotArchive(StreamingError):
    """The log cannot be archived as it is."""


class Copied(NamedTuple):
    """What became of a log.

    Attributes:
        state: how far it is archived; None if there is no log.
        events: how many events were written.
        size: how many bytes.
        has_written: whether there is a new manifest.
        is_deleted: whether the run was deleted, so that nothing of it is archived.
    """

    state: LogState | None
    events: int = 0
    size: int = 0
    has_written: bool = False
    is_deleted: bool = False


class _Kept(NamedTuple):
    """What of an archived log stays: parts, and entries after them that are written again.

    The sequence is None if nobody knows it.
    """

    parts: tuple[Part, ...]
    entries: Sequence[Reply]
    last_id: EventId
    last_sequence: int | None


def copy_log(
    reader: LogReader,
    archive: Archive,
    run_id: str,
    keep_on: Callable[[], None],
    *,
    clean: bool = False,
) -> Copied:
    """Archive a log as far as it goes.

    `keep_on` is called again and again, and may raise to end it. With `clean`, what an earlier
    attempt may have left is deleted first.

    Raises LogChanged, CannotArchive, and the errors of the reader and the archive. Then nothing
    is archived, or what was before.
    """
    _, state = reader.read(run_id, ZERO, 0)
    if not state.exists:
        return Copied(None)
    if not state.epoch:
        raise CannotArchive(f"run {run_id}: nobody can tell which log it is; allow XGROUP CREATE")
    log_name = LogName(run_id, state.epoch)
    version = archive.version(log_name)
    if version.is_deleted:
        _delete_unnamed(archive, archive.part_names(log_name), version)
        return Copied(state, is_deleted=True)
    if clean:
        version = _clean(archive, log_name, version)
    if version.manifest is not None and version.manifest.covers(state):
        return Copied(state)
    return _Copy(reader, archive, log_name, version, keep_on).run()


def _clean(archive: Archive, log_name: LogName, version: Version) -> Version:
    """Delete the parts that no manifest will ever name.

    They were there before the fence. So they are of archivers who cannot commit any more; what
    comes after it may be of one who can.
    """
    before = archive.part_names(log_name)
    fenced = archive.fence(log_name, version)
    if fenced is None:
        raise LogChanged(f"run {log_name.run_id}: another archiver was faster")
    _delete_unnamed(archive, before, fenced)
    return fenced


def _delete_unnamed(archive: Archive, names: Sequence[str], version: Version) -> None:
    named = {part.name for part in version.manifest.parts} if version.manifest else set()
    archive.delete_objects([name for name in names if name not in named])


class _Copy:
    """One attempt to archive a log."""

    def __init__(
        self,
        reader: LogReader,
        archive: Archive,
        log_name: LogName,
        version: Version,
        keep_on: Callable[[], None],
    ):
        self._reader = reader
        self._archive = archive
        self._log_name = log_name
        self._base, self._version = version.manifest, version.version
        self._keep_on = keep_on
        self._writer = PartWriter(log_name)
        self._parts: list[Part] = []  # those that were written
        self._first: Reply | None = None  # of the entries that were read
        self._last: Reply | None = None
        self._count = 0

    def run(self) -> Copied:
        """Copy the log. See `copy_log`."""
        run_id = self._log_name.run_id
        start = self._base.state.last_id if self._base else ZERO
        entries, state = self._reader.read(run_id, start, 2)
        if state.epoch != self._log_name.epoch:
            raise LogChanged(f"run {run_id}: it is another log now")
        kept = self._keep(state, [parse_mark(entry) for entry in entries])
        for entry in kept.entries:
            self._writer.add(entry)
        self._read(kept.last_id, state)
        _, after = self._reader.read(run_id, ZERO, 0)
        if after != state or (self._base is None and self._count != state.length):
            self._abandon()
            raise LogChanged(f"run {run_id}: its log was changed meanwhile")
        manifest = self._manifest(kept, state)
        self._keep_on()
        if not self._archive.commit(manifest, self._version):
            self._abandon()
            raise LogChanged(f"run {run_id}: another archiver was faster, or the run was deleted")
        replaced = self._base.parts[len(kept.parts) :] if self._base else ()
        self._archive.delete_objects([part.name for part in replaced])
        size = sum(part.size for part in self._parts)
        return Copied(state, self._count, size, has_written=True)

    def _keep(self, state: LogState, marks: Sequence[Mark]) -> _Kept:
        """Return what of an earlier archive stays.

        All of it, unless the log has lost its end since, as after a failover. Then that stays which
        Redis had trimmed before.
        """
        if self._base is None:
            return _Kept((), [], ZERO, None)
        old, parts = self._base.state, self._base.parts
        upto: EventId = old.last_id
        last_sequence: int | None = old.last_sequence
        if has_lost_end := is_another_log(old.end, state, marks):
            upto = state.first_id.before() if state.first_id else state.last_id
        whole = [part for part in parts if part.last_id <= upto]
        if whole and whole[-1].unpacked_size < MIN_PART_BYTES:
            whole.pop()
        after = whole[-1].last_id if whole else ZERO
        entries = self._archive.entries(self._base, after, upto, sum(p.count for p in parts))
        if has_lost_end:
            last = parse_mark(entries[-1]).sequence if entries else None
            last_sequence = last or (whole[-1].last_sequence if whole and not entries else None)
        return _Kept(tuple(whole), entries, upto, last_sequence)

    def _read(self, after: EventId, state: LogState) -> None:
        """Write the entries after an id into parts."""
        upto, count = state.end_id or ZERO, INITIAL_COUNT
        while after < upto:
            self._keep_on()
            entries = self._reader.entries(self._log_name.run_id, after, upto, count)
            for entry in entries:
                self._writer.add(entry)
                if self._writer.is_full:
                    self._put()
            if not entries:
                break
            self._first, self._last = self._first or entries[0], entries[-1]
            self._count += len(entries)
            after = EventId.from_redis(self._last[0])
            size = sum(sum(map(len, fields)) + ENTRY_OVERHEAD for _, fields in entries)
            count = next_count(size, len(entries))
        if self._writer.count:
            self._put()

    def _put(self) -> None:
        part, data = self._writer.finish()
        self._keep_on()
        self._archive.put_part(part, data)
        self._parts.append(part)

    def _abandon(self) -> None:
        """Delete what was written, unless a manifest names it after all."""
        names = [part.name for part in self._parts]
        _delete_unnamed(self._archive, names, self._archive.version(self._log_name))

    def _manifest(self, kept: _Kept, state: LogState) -> Manifest:
        parts = (*kept.parts, *self._parts)
        first, last = self._first_event(parts), self._last_event(kept)
        return Manifest(
            self._log_name,
            self._state(kept, state, parts, last),
            parts,
            first and without_large_data(first),
            last and without_large_data(last),
            archived_at=timestamp_now(),
        )

    def _first_event(self, parts: Sequence[Part]) -> Event | None:
        base = self._base
        if base and base.first_event and parts and parts[0].first_id == base.state.first_id:
            return base.first_event
        return parse_event(self._log_name.run_id, self._first) if self._first else None

    def _last_event(self, kept: _Kept) -> Event | None:
        last = self._last
        if last is None and self._base is not None:
            found = self._archive.entries(self._base, ZERO, kept.last_id, 1, descending=True)
            last = found[0] if found else None
        return parse_event(self._log_name.run_id, last) if last else None

    def _state(
        self, kept: _Kept, state: LogState, parts: Sequence[Part], last: Event | None
    ) -> LogState:
        """Return the state of the log as if Redis had kept what the archive has kept."""
        if self._base is None:
            return state
        old = self._base.state
        deleted = min(max(old.deleted, state.deleted), state.last_id)
        if kept.parts or kept.entries:
            state = replace(
                state,
                length=sum(part.count for part in parts),
                first_id=parts[0].first_id,
                first_sequence=old.first_sequence,
            )
            if not self._follows(kept, state):
                # Entries are missing where the old ones end. It is as if they had been deleted.
                gap = EventId.from_redis(self._first[0]).before() if self._first else state.last_id
                deleted = max(deleted, gap)
        if self._first is None and last is not None:
            state = replace(
                state,
                ended=last.terminal,
                end_id=parts[-1].last_id,
                end_sequence=parts[-1].last_sequence,
                lease_seconds=None if last.terminal else old.lease_seconds,
            )
        return replace(state, deleted=deleted)

    def _follows(self, kept: _Kept, state: LogState) -> bool:
        """Return whether what was read follows what is kept without a hole."""
        if kept.last_sequence is None:
            return False
        if self._first is None:
            return kept.last_sequence == state.last_sequence
        first = parse_mark(self._first)
        sequence = first.sequence
        if (
            sequence is None and state.deleted <= first.cursor
        ):  # another program's: they are counted
            sequence = state.last_sequence - self._count + 1
        return sequence == kept.last_sequence + 1
