"""The state of a run's log at one moment, and what a follower has to be sent about it."""

from dataclasses import dataclass
from typing import Literal

from ..event_id import ZERO, EventId


@dataclass(frozen=True, slots=True)
class LogState:
    """A run's log at one moment.

    `first_id` and `end_id` are the first and last retained entry (None: none is retained),
    `last_id` is the last id ever given, retained or not; `last_sequence` counts the entries
    ever added; `deleted` is the greatest id that was deleted (not trimmed); `lease_seconds`
    is how long the run may be silent; `ttl` is in seconds, None without one.
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
        """What a follower who has got everything up to `cursor` must be told.

        A gap: entries after the cursor were trimmed, or deleted one by one. A reset: the
        cursor is none of this log's, which was deleted or begun anew. `added` is how many
        entries the follower knows to have been added: in one log that number never falls.
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
        """The data of a control event: what was asked for, and what there is now."""
        return {
            "requested": requested,
            "earliest": str(self.first_id) if self.first_id else None,
            "latest": str(self.last_id) if self.exists else None,
        }


NO_LOG = LogState(0, None, 1, ZERO, 0, ended=False)
