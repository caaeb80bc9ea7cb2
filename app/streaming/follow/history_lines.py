"""The history of a run as lines of JSON, read while they are sent."""

import errno
import logging
from collections.abc import Iterator, Sequence

from ..errors import StreamingError
from ..event_id import ZERO, EventId
from ..event_store import EventStore
from ..log.continuity import Mark, is_another_log
from ..log.replies import has_names, parse_mark
from ..redis.connection import Reply
from ..wire.formats import JsonLines
from ..wire.frame import frames_from
from .standing import Standing

log = logging.getLogger("tailrace.stream")


class LogChanged(Exception):
    """Entries that were there at the beginning are gone."""


class HistoryLines:
    """The events of a run up to the moment at which it is asked, as an open stream.

    It holds one page of the log at a time. If it breaks off, the connection is cut, so that the
    client can tell. The client goes on after the last line that it has.
    """

    kind = "history"

    def __init__(
        self,
        run_id: str,
        store: EventStore,
        *,
        after: EventId | None,
        before: EventId | None,
        from_sequence: int | None,
        descending: bool,
        limit: int | None,
        categories: Sequence[str],
        actions: Sequence[str],
    ):
        """For the keywords see `EventStore.page`. Raises NotALog and StoreUnavailable."""
        self.run_id = run_id
        self.followed = ()
        self.reason: str | None = None
        self.events = self.bytes = 0
        self._cursor: str | None = None
        self._store = store
        self._limit = limit
        self._accepted = frozenset(categories), frozenset(actions)
        self._began = state = store.state(run_id)
        if from_sequence is not None:
            way, state = store.locate_sequence(run_id, from_sequence)
            is_beyond = from_sequence > state.last_sequence
            after = max(after or ZERO, state.last_id if is_beyond else way[-1].end.id)
        self._range = after, before, descending

    def chunks(self) -> Iterator[bytes]:
        """Yield the lines; raises ConnectionResetError if the rest cannot be sent."""
        encode = JsonLines().frame
        try:
            for entries in self._known_pages():
                if self.reason is not None:
                    break
                chosen = [each for each in entries if has_names(each, *self._accepted)]
                if self._limit is not None:
                    del chosen[self._limit - self.events :]
                if chosen:
                    lines = b"".join([encode(each) for each in frames_from(self.run_id, chosen)])
                    yield lines
                    self.bytes += len(lines)
                    del lines  # a slow client holds them once
                    self._cursor = chosen[-1][0].decode()
                self.events += len(chosen)
                if self.events == self._limit:
                    self._check(None)
                    break
        except GeneratorExit:  # the server gives up, since its client has gone
            self.reason = self.reason or "disconnected"
            raise
        except LogChanged:
            log.warning("the history of run %s breaks off: its log has changed", self.run_id)
            self.reason = "changed"
        except StreamingError as error:
            log.warning("the history of run %s breaks off: %s", self.run_id, error)
            self.reason = "failed"
        if self.reason is not None:
            raise ConnectionResetError(errno.ECONNRESET, self.reason)
        self.reason = "ended"

    def _known_pages(self) -> Iterator[list[Reply]]:
        """Yield the raw entries that there were at the beginning; raises LogChanged.

        Entries may be trimmed, or the log deleted, before a slow client has got them.
        """
        began, (_, before, descending) = self._began, self._range
        last: Mark | None = None
        for entries in self._store.scan_pages(self.run_id, *self._range):
            known = [each for each in entries if EventId.from_redis(each[0]) <= began.last_id]
            if known:
                if last is not None and not descending and not _follows(last, known[0]):
                    self._check(last)
                last = parse_mark(known[-1])
                yield known
            if len(known) < len(entries) and not descending:
                break  # else a log that grows would never end
        if last is None or last.cursor != began.end_id:
            self._check(None if descending or before is not None else last)

    def _check(self, last: Mark | None) -> None:
        """Raise LogChanged if it is another log, or was trimmed behind the last entry."""
        began, end = self._began, self._began.end
        entries, now = self._store.read(self.run_id, end.id, 1)
        is_another = (now.exists, now.epoch) != (began.exists, began.epoch) and began.exists
        is_older = is_another_log(end, now, [parse_mark(entry) for entry in entries])
        if (
            is_another
            or is_older
            or (last is not None and (now.first_id is None or now.first_id > last.cursor))
        ):
            raise LogChanged

    def standing(self) -> Standing:
        """Return what was sent."""
        return Standing("writing", self.events, self.bytes, self._cursor)

    def end(self, reason: str) -> None:
        """Break off soon."""
        self.reason = self.reason or reason

    def warn(self, seconds: int) -> None:
        """Do nothing: lines have no place for it."""

    def cut(self) -> None:
        """Do nothing: the server has a limit for clients that do not read."""


def _follows(mark: Mark, entry: Reply) -> bool:
    """Return whether an entry proves that it comes right after another one."""
    after = parse_mark(entry)
    return mark.sequence is not None and after.sequence == mark.sequence + 1
