"""The state of a run's log at one moment, and what it means for a follower's cursor."""

from dataclasses import dataclass
from typing import Literal

from ..event_id import ZERO, EventId


@dataclass(frozen=True, slots=True)
class LogState:
    """A run's log at one moment.

    Attributes:
        length: how many entries the log retains.
        first_id: the id of the first retained entry, or None.
        first_sequence: the sequence of the first retained entry.
        last_id: the last id that was ever given, retained or not.
        last_sequence: how many entries were ever added.
        ended: whether the last retained entry is terminal.
        end_id: the id of the last retained entry, or None.
        deleted: the greatest id of an entry that was deleted, not trimmed.
        lease_seconds: how long the run may be silent, or None.
        ttl: after how many seconds Redis removes the log, or None.
    """

    length: int
    first_id: EventId | None
    first_sequence: int
    last_id: EventId
    last_sequence: int
    ended: bool
    end_id: EventId | None = None
    deleted: EventId = ZERO
    lease_seconds: int | None = None
    ttl: int | None = None

    @property
    def exists(self) -> bool:
        return self.last_id > ZERO

    def continuity(self, cursor: EventId, added: int = 0) -> Literal["gap", "reset"] | None:
        """Compare the log with what a follower has that got everything up to `cursor`.

        `added` is how many entries the follower knows to have been added. In one log that number
        never falls.

        Returns:
            "gap" if entries after the cursor were trimmed, or deleted one by one.
            "reset" if the cursor is not of this log: the log was deleted, or begun again.
            None if the follower misses nothing.
        """
        if cursor > self.last_id or added > self.last_sequence:
            return "reset"
        if self.first_id is None:
            return "gap" if cursor < self.last_id else None
        if cursor < self.first_id.before():
            if self.first_sequence > 1:
                return "gap"
            if cursor > ZERO:
                return "reset"
        return "gap" if cursor < self.deleted else None

    def control_data(self, requested: str) -> dict[str, str | None]:
        """Return the data of a control event: the requested cursor, and the ids there are now."""
        return {
            "requested": requested,
            "earliest": str(self.first_id) if self.first_id else None,
            "latest": str(self.last_id) if self.exists else None,
        }


NO_LOG = LogState(0, None, 1, ZERO, 0, ended=False)
