"""The state of a run's log at one moment."""

from dataclasses import dataclass

from ..errors import ArchiveUnavailable
from ..event_id import ZERO, EventId
from .position import START, Between, Position


@dataclass(frozen=True, slots=True)
class LogState:
    """A run's log at one moment.

    What the archive has of it is retained too.

    Attributes:
        length: how many entries the log retains.
        first_id: the id of the first retained entry, or None.
        first_sequence: the sequence of the first retained entry, or of the next one if none is
            retained; None if nobody knows.
        last_id: the last id that was ever given, retained or not.
        last_sequence: how many entries were ever added.
        ended: whether the last retained entry is terminal.
        end_id: the id of the last retained entry, or None.
        deleted: the greatest id of an entry that was deleted, not trimmed.
        lease_seconds: how long the run may be silent, or None.
        ttl: after how many seconds Redis removes the log, or None.
        epoch: what tells this log from every other one under its key; empty if nobody knows.
        has_no_epoch: whether it is known that the log never had an epoch. Redis takes no writes.
        end_sequence: the sequence of the last retained entry; None if another program wrote it.
        is_archived: whether Redis has nothing of the log any more, but the archive has it.
        archived_upto: up to this id, only the archive has entries.
        lost_upto: up to this id, entries are missing that nobody has trimmed or deleted from
            what is retained: the archive is damaged, or ends before what Redis has.
        is_incomplete: whether the archive may have what stood before, but cannot say now.
    """

    length: int
    first_id: EventId | None
    first_sequence: int | None
    last_id: EventId
    last_sequence: int
    ended: bool
    end_id: EventId | None = None
    deleted: EventId = ZERO
    lease_seconds: int | None = None
    ttl: int | None = None
    epoch: bytes = b""
    has_no_epoch: bool = False
    end_sequence: int | None = None
    is_archived: bool = False
    archived_upto: EventId = ZERO
    lost_upto: EventId = ZERO
    is_incomplete: bool = False

    @property
    def exists(self) -> bool:
        return self.last_id > ZERO

    @property
    def beginning(self) -> Position:
        """The position before the first retained entry; raises ArchiveUnavailable."""
        if self.is_incomplete:
            raise ArchiveUnavailable("the archive cannot say now where the log begins")
        if self.first_id is None:
            return self.end
        sequence = None if self.first_sequence is None else self.first_sequence - 1
        return Between(self.epoch, self.first_id.before(), sequence)

    @property
    def end(self) -> Position:
        """The position after the last entry that was ever added."""
        if not self.exists:
            return START
        # Else the last entry is there, or was deleted or trimmed, or the archive lacks it.
        known = self.end_id and max(self.end_id, self.deleted, self.lost_upto)
        was_moved = known is not None and known < self.last_id
        kind = Between if was_moved else Position
        return kind(self.epoch, self.last_id, self.last_sequence)

    @property
    def version(self) -> tuple[bytes, int]:
        """What changes when entries were deleted from between others, or it is another log.

        Trimming does not change it, unless there are holes: then nobody can tell the two apart.
        """
        has_holes = self.first_id is None or self.deleted > self.first_id
        return self.epoch, self.last_sequence - self.length if has_holes else 0

    def control_data(self, requested: str) -> dict[str, str | None]:
        """Return the data of a control event: the requested cursor, and the ids there are now."""
        return {
            "requested": requested,
            "earliest": str(self.first_id) if self.first_id else None,
            "latest": str(self.last_id) if self.exists else None,
        }


NO_LOG = LogState(0, None, 1, ZERO, 0, ended=False)
"""The state of a log that does not exist."""
