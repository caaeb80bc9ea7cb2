"""The position: how far a log was read, and which log it was."""

from typing import NamedTuple, Protocol

from ..event_id import ZERO, Cursor, EventId


class Place(Protocol):
    """How far a client has come: in one log, or in several."""

    @property
    def id(self) -> Cursor: ...

    @property
    def is_start(self) -> bool: ...


class Position(NamedTuple):
    """How far a log was read: up to the event `id`.

    Attributes:
        epoch: what tells the log from every other one under its key; empty if there is no log,
            or if nobody knows.
        id: the event, or an id between two events.
        sequence: how many entries the log had ever had up to there; None if nobody knows, since
            other programs wrote them.
    """

    epoch: bytes
    id: EventId
    sequence: int | None

    @property
    def is_start(self) -> bool:
        """Whether nothing was read yet, so that every log continues from here."""
        return self.id == ZERO

    @property
    def is_entry(self) -> bool:
        """Whether the log had an entry with the id, so that it still has, unless that is gone."""
        return self.id != ZERO

    def is_same_place(self, other: "Position") -> bool:
        """Return whether nothing lies between two positions, as far as both know the sequence."""
        if self[:2] != other[:2]:
            return False
        return self.sequence == other.sequence or None in (self.sequence, other.sequence)


class Between(Position):
    """A position whose id no entry of the log has or had. It equals one that has the same parts."""

    __slots__ = ()

    @property
    def is_entry(self) -> bool:
        return False


START = Position(b"", ZERO, 0)
"""Before the first entry of any log."""
