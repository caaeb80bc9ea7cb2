"""Where a stream starts in its run's log."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import ArchiveUnavailable, InvalidInput, NotALog, StoreUnavailable
from ..event_id import EventId
from ..event_store import EventStore
from ..log.continuity import Stretch
from ..log.log_state import LogState
from ..log.position import Position


@dataclass(frozen=True, slots=True)
class Start:
    """Where a stream starts.

    After the event `id`, with the event that has the `sequence`, at the end of the log (`latest`),
    or `tail` events before its end. With none of the four, at the first event of the log.
    """

    id: EventId | None = None
    latest: bool = False
    tail: int | None = None
    sequence: int | None = None

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

    def find(self, store: EventStore, run_id: str) -> "Beginning":
        """Return where a stream begins in the log as it is now.

        Raises NotALog and StoreUnavailable.
        """
        if self.id is not None:
            return Beginning(*store.locate(run_id, self.id))
        if self.sequence is not None:
            return Beginning(*store.locate_sequence(run_id, self.sequence))
        if self.tail:
            position, state = store.before_tail(run_id, self.tail)
        else:
            state = store.state(run_id)
            position = state.end if self.latest or self.tail == 0 else state.beginning
        return Beginning([Stretch(position, position, None)], state)

    def is_awaited(self, state: LogState) -> bool:
        """Whether events may still come that lie before the start."""
        return self.sequence is not None and self.sequence > state.last_sequence + 1

    def may_be_next(self, position: Position) -> bool:
        """Whether what follows a position may be the event to start with, or a later one."""
        if self.sequence is None or position.sequence is None:
            return True
        return position.sequence >= self.sequence - 1

    def __str__(self) -> str:
        if self.sequence is not None:
            return f"from_sequence={self.sequence}"
        if self.tail is not None:
            return f"tail={self.tail}"
        return str(self.id) if self.id else "latest" if self.latest else "earliest"


def find_each(
    store: EventStore, starts: Mapping[str, Start]
) -> "list[Beginning | NotALog | StoreUnavailable]":
    """Return where a stream begins in each of several logs, in a few round trips.

    Each start is an id, the first event or the end. For a run that cannot be read now it is the
    error. Raises StoreUnavailable if Redis has none of them now.
    """
    located = store.locate_each([(run_id, start.id) for run_id, start in starts.items()])
    if located and all(map(_is_out_of_reach, located)):
        assert isinstance(located[0], StoreUnavailable)
        raise located[0]
    found: list[Beginning | NotALog | StoreUnavailable] = []
    for start, each in zip(starts.values(), located, strict=True):
        if isinstance(each, NotALog | StoreUnavailable):
            found.append(each)
        else:
            way, state = each
            at_end = [Stretch(state.end, state.end, None)]
            found.append(Beginning(at_end if start.latest else way, state))
    return found


def _is_out_of_reach(located: object) -> bool:
    """Return whether Redis does not serve a log; that the archive does not is another matter."""
    return isinstance(located, StoreUnavailable) and not isinstance(located, ArchiveUnavailable)


class Beginning(NamedTuple):
    """Where a stream begins: the way to a position, perhaps with notices, and the log's state."""

    way: list[Stretch]
    state: LogState

    @property
    def nothing_follows(self) -> bool:
        """Whether the run has ended, and there is nothing to send: no event, and no notice."""
        state, position = self.state, self.way[-1].end
        if not state.ended or state.end_id is None or any(each.notice for each in self.way):
            return False
        return position.id >= max(state.end_id, state.deleted)
