"""What a test knows of a run's log: every entry, and when each was added and removed.

A change takes effect at one moment between its two times, which `time.monotonic` tells. The
changes of a run come one after another.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from app.streaming.event_id import ZERO, EventId


@dataclass(eq=False)
class Change:
    """One change of a run's key, or of what the key holds."""

    name: str
    began: float = field(default_factory=time.monotonic)
    ended: float = math.inf

    def __str__(self) -> str:
        return self.name


@dataclass(eq=False)
class Entry:
    """An entry of a log. Its number tells it from all other entries of the run."""

    log: "Log"
    id: EventId
    number: int
    sequence: int | None
    category: str | None
    action: str | None
    added: Change
    removed: Change | None = None

    @property
    def terminal(self) -> bool:
        return self.category == "lifecycle" and self.action == "completed"


@dataclass(eq=False)
class Log:
    """One log under the run's key. A log that is deleted and begun again is another one."""

    born: Change
    entries: list[Entry] = field(default_factory=list)
    retained: list[Entry] = field(default_factory=list)
    gone: Change | None = None

    @property
    def last_id(self) -> EventId:
        return self.entries[-1].id if self.entries else ZERO

    def holds(self, event_id: EventId) -> bool:
        """Return whether an entry has, or had, this id."""
        return any(entry.id == event_id for entry in self.entries)


@dataclass(frozen=True)
class State:
    """What the key held after a change: a log, nothing, or a value of another type."""

    change: Change
    log: Log | None = None
    retained: tuple[Entry, ...] = ()
    last_id: EventId = ZERO
    other_type: bool = False

    @property
    def ended(self) -> bool:
        return bool(self.retained) and self.retained[-1].terminal


class History:
    """Everything that happened to one run's key.

    Attributes:
        log: the log that the key holds now, or None.
        entries: every entry that there ever was, by its number.
        states: what the key held, from its first moment on.
        absences: the changes that took a log away, or put another one in its place.
        removals: the changes that removed entries from a log which stayed.
    """

    def __init__(self) -> None:
        self.log: Log | None = None
        self.logs: list[Log] = []
        self.entries: dict[int, Entry] = {}
        self.states = [State(Change("nothing", -math.inf, -math.inf))]
        self.absences: list[Change] = []
        self.removals: dict[Change, list[Entry]] = {}

    @property
    def retained(self) -> list[Entry]:
        return self.log.retained if self.log else []

    @property
    def last_id(self) -> EventId:
        return self.log.last_id if self.log else ZERO

    @property
    def added(self) -> int:
        """How many entries were ever added to the log."""
        return len(self.log.entries) if self.log else 0

    @property
    def ended(self) -> bool:
        return self.states[-1].ended

    def add(
        self,
        change: Change,
        event_id: EventId,
        number: int,
        sequence: int | None,
        category: str | None,
        action: str | None,
    ) -> None:
        if self.log is None:
            self.log = Log(change)
            self.logs.append(self.log)
        entry = Entry(self.log, event_id, number, sequence, category, action, change)
        self.entries[number] = entry
        self.log.entries.append(entry)
        self.log.retained.append(entry)

    def remove(self, change: Change, entries: list[Entry]) -> None:
        """Note that entries were removed from the log, which stays."""
        for entry in entries:
            entry.removed = change
            entry.log.retained.remove(entry)
        if entries:
            self.removals.setdefault(change, []).extend(entries)

    def take_away(self, change: Change) -> None:
        """Note that the key lost its log: it was deleted, renamed, or overwritten."""
        if self.log is not None:
            self.log.gone = change
            self.absences.append(change)
        self.log = None

    def put_back(self, change: Change, log: Log) -> None:
        """Note that a log which was renamed has its old name again."""
        self.take_away(change)
        log.gone = None
        self.log = log

    def done(self, change: Change, other_type: bool = False) -> None:
        """Note the end of a change, and what the key holds now."""
        change.ended = time.monotonic()
        retained = tuple(self.retained)
        self.states.append(State(change, self.log, retained, self.last_id, other_type))

    def states_between(self, began: float, ended: float) -> Iterator[State]:
        """Yield every state that the key may have had between two moments."""
        following = [*self.states[1:], State(Change("now"))]
        for state, after in zip(self.states, following, strict=True):
            if state.change.began <= ended and after.change.ended >= began:
                yield state

    def story(self) -> Iterator[tuple[float, str]]:
        """Yield each change with the time of its end."""
        for state in self.states[1:]:
            if state.other_type:
                held = "another type"
            else:
                held = f"{len(state.retained)} entries" if state.log else "no log"
            yield state.change.ended, f"{state.change}  ({held})"
