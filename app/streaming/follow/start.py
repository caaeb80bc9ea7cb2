"""Where a stream starts in its run's log."""

from dataclasses import dataclass

from ..errors import InvalidInput
from ..event_id import EventId
from ..log.log_state import LogState


@dataclass(frozen=True, slots=True)
class Start:
    """Where a stream starts.

    After the event `id`, at the end of the log (`latest`), or `tail` events before its end. With
    none of the three, at the first event of the log.
    """

    id: EventId | None = None
    latest: bool = False
    tail: int | None = None

    @classmethod
    def parse(cls, text: str, field: str) -> "Start":
        """Read an event id, `earliest` or `latest`; raises InvalidInput, which names `field`."""
        if text == "earliest":
            return cls()
        if text == "latest":
            return cls(latest=True)
        try:
            return cls(id=EventId.parse(text))
        except InvalidInput:
            message = "must be an event id (<ms>-<n>), 'earliest' or 'latest'"
            raise InvalidInput(field, message) from None

    def nothing_follows(self, state: LogState) -> bool:
        """Return whether the run has ended, and no event comes after this start."""
        if not state.ended:
            return False
        at_the_end = (
            self.id is not None
            and state.end_id is not None
            and max(state.end_id, state.deleted) <= self.id <= state.last_id
        )
        return self.latest or self.tail == 0 or at_the_end

    def __str__(self) -> str:
        if self.tail is not None:
            return f"tail={self.tail}"
        return str(self.id) if self.id else "latest" if self.latest else "earliest"
