"""Restores a log from the archive: it is built beside its place, and then takes it in one step."""

import contextlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..streaming.errors import StoreUnavailable, StreamingError
from ..streaming.event import text
from ..streaming.event_id import ZERO, EventId
from ..streaming.event_store import EventStore
from ..streaming.log.continuity import Mark, is_another_log
from ..streaming.log.log_state import LogState
from ..streaming.log.reader import ENTRY_OVERHEAD, INITIAL_COUNT, next_count
from ..streaming.log.redis_keys import redis_keys, restoring_key
from ..streaming.log.replies import parse_mark
from ..streaming.redis.connection import Command, Reply, checked
from ..streaming.runs.run_index import Noted
from .archive import Archive
from .manifest import Manifest

HERE = Path(__file__).parent

# A log that is not finished goes after that, if nothing is added to it.
UNFINISHED_SECONDS = 600


class CannotRestore(StreamingError):
    """A log was not restored: it is not archived, or another one is in its place."""


class Restorer:
    """Writes archived logs back to Redis.

    Args:
        store: the event store whose runs are restored.
        archive: where they are archived.
        ended_ttl_seconds: how long a restored log is kept, if its run has ended.
        idle_ttl_seconds: how long it is kept if its run goes on.
    """

    def __init__(
        self, store: EventStore, archive: Archive, *, ended_ttl_seconds: int, idle_ttl_seconds: int
    ):
        self._store = store
        self._archive = archive
        self._ttl_seconds = {True: ended_ttl_seconds, False: idle_ttl_seconds}
        self._take_place = store.script(HERE / "restore.lua", keys=4)

    def restore(self, run_id: str) -> LogState | None:
        """Restore the newest archived log of a run. Return its state, None if nothing was missing.

        Ids, sequences and the epoch are what they were. If Redis holds the end of the same log,
        what it lacks is restored before it.

        Raises CannotRestore, and the errors of the store and the archive: the log is as before.
        """
        _, now = self._store.read(run_id, ZERO, 0)
        manifest = self._find(run_id, now)
        if now.exists:
            if is_another_log(manifest.state.end, now, self._marks(run_id, manifest)):
                raise CannotRestore(
                    f"run {run_id}: Redis lacks the end of its log; delete it first"
                )
            if not _lacks_beginning(manifest, now):
                return None
        key = restoring_key(run_id, secrets.token_hex(8))
        try:
            state = self._build(key, manifest, now)
            self._finish(key, run_id, now, state)
        except BaseException:
            with contextlib.suppress(StoreUnavailable):  # then it expires
                checked(self._store.engine.pool.call("DEL", key))
            raise
        if self._archive.version(manifest.log_name).is_deleted:
            self._store.delete(run_id)
            raise CannotRestore(f"run {run_id} was deleted meanwhile")
        noted = Noted(run_id, "ended" if state.ended else "active", state.last_id.ms)
        self._store.runs.index.note([noted])
        return state

    def _find(self, run_id: str, now: LogState) -> Manifest:
        manifest = self._archive.find(run_id, now.epoch or None)
        if manifest is None:
            if now.exists and self._archive.find(run_id) is not None:
                raise CannotRestore(f"run {run_id}: Redis has another log of it; delete that first")
            raise CannotRestore(f"run {run_id} is not archived")
        return manifest

    def _marks(self, run_id: str, manifest: Manifest) -> list[Mark]:
        entries, _ = self._store.read(run_id, manifest.state.last_id, 2)
        return [parse_mark(entry) for entry in entries]

    def _build(self, key: str, manifest: Manifest, now: LogState) -> LogState:
        """Write the whole log under a key of its own, and return its state."""
        group = f"tailrace:{manifest.log_name.epoch.decode()}"
        self._send(key, [("XGROUP", "CREATE", key, group, "0", "MKSTREAM")])
        upto = manifest.state.last_id
        if now.exists:
            upto = now.first_id.before() if now.first_id else now.last_id
        count, last = 0, None
        for entries in _batches(partial(self._archive.entries, manifest), upto):
            self._add(key, entries)
            count, last = count + len(entries), entries[-1]
        if not now.exists:
            return self._set_state(key, manifest.state, count)
        if now.end_id is not None:
            read = partial(self._store.entries, manifest.log_name.run_id)
            for entries in _batches(read, now.end_id, after=upto):
                self._add(key, entries)
                count += len(entries)
        return self._set_state(key, _joined(manifest.state, now, last), count)

    def _set_state(self, key: str, state: LogState, count: int) -> LogState:
        """Set what a log knows beside its entries. Raises CannotRestore if there are too many."""
        if count > state.last_sequence:
            raise CannotRestore(
                f"other programs have set the count of its entries to {state.last_sequence}, "
                f"and it has {count}"
            )
        setting = "ENTRIESADDED", state.last_sequence, "MAXDELETEDID", str(state.deleted)
        self._send(key, [("XSETID", key, str(state.last_id), *setting)])
        return replace(state, length=count)

    def _add(self, key: str, entries: Sequence[Reply]) -> None:
        self._send(key, [("XADD", key, entry_id, *fields) for entry_id, fields in entries])

    def _send(self, key: str, commands: list[Command]) -> None:
        expiry: Command = ("EXPIRE", key, UNFINISHED_SECONDS)
        for reply in self._store.engine.pool.call_all(*commands, expiry):
            checked(reply)

    def _finish(self, key: str, run_id: str, now: LogState, state: LogState) -> None:
        """Put the whole log in its place. Raises CannotRestore."""
        log, *others = redis_keys(run_id)
        ttl = self._ttl_seconds[state.ended] * 1000
        before = (str(now.last_id), now.last_sequence, now.length) if now.exists else ("", 0, 0)
        reply = self._take_place.run(log, key, *others, ttl, *before)
        if isinstance(reply, bytes):
            raise CannotRestore(
                f"run {run_id}: its log in Redis has consumer groups of other programs, which "
                f"would be lost: {text(reply)}"
            )
        if not reply:
            raise CannotRestore(f"run {run_id}: its log has changed meanwhile; try again")


def _batches(
    read: Callable[[EventId, EventId, int], list[Reply]], upto: EventId, *, after: EventId = ZERO
) -> Iterator[list[Reply]]:
    """Yield all entries of `after` < id <= `upto`, as many at a time as may be sent together."""
    count = INITIAL_COUNT
    while after < upto and (entries := read(after, upto, count)):
        yield entries
        after = EventId.from_redis(entries[-1][0])
        size = sum(sum(map(len, fields)) + ENTRY_OVERHEAD for _, fields in entries)
        count = next_count(size, len(entries))


def _lacks_beginning(manifest: Manifest, now: LogState) -> bool:
    first_id = manifest.state.first_id
    return first_id is not None and (now.first_id is None or first_id < now.first_id)


def _joined(archived: LogState, now: LogState, last: Reply | None) -> LogState:
    """Return the state of a log whose beginning is archived, up to the entry `last`."""
    mark = parse_mark(last) if last else None
    deleted = max(now.deleted, min(archived.deleted, now.last_id))
    if mark is None or mark.sequence is None or mark.sequence + 1 != now.first_sequence:
        # Nobody can tell that nothing is missing in between. It is as if it had been deleted.
        deleted = max(deleted, now.first_id.before() if now.first_id else now.last_id)
    return replace(
        now, first_id=archived.first_id, first_sequence=archived.first_sequence, deleted=deleted
    )
