"""Continuity: how a log goes on from a position, and what a follower has to be told about it.

The log and the entries were read in one atomic step. The sequence of an entry says how many were
added before it, so a missing number is a missing entry. Other programs write entries without
one. Those are counted, and where counting cannot tell which entry is missing, the notice comes
before the first that it may be.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

from ..event_id import ZERO, EventId
from .log_state import LogState
from .position import Position

Notice = Literal["gap", "reset"]


class Marked(Protocol):
    """An entry, as far as its place in the log goes.

    `epoch` is empty and says nothing about `sequence` if another program wrote the entry.
    """

    @property
    def cursor(self) -> EventId: ...

    @property
    def epoch(self) -> bytes: ...

    @property
    def sequence(self) -> int | None: ...


class Mark(NamedTuple):
    """The place of an entry in its log."""

    cursor: EventId
    epoch: bytes
    sequence: int | None


class Stretch(NamedTuple):
    """Entries without a hole from one position to the next, or a notice instead of them.

    The entries are those from index `first` up to `last` (exclusive). A stretch with neither a
    notice nor entries only says that the second position is the same place.
    """

    start: Position
    end: Position
    notice: Notice | None
    first: int = 0
    last: int = 0


def continues(position: Position, entries: Sequence[Marked]) -> bool:
    """Return whether entries that were read after a position follow it without a hole.

    It is False too if that cannot be told from the entries alone.
    """
    first, last, sequence = entries[0], entries[-1], position.sequence
    return (
        sequence is not None
        and first.sequence == sequence + 1
        and last.sequence == sequence + len(entries)
        and (first.epoch == position.epoch or position.is_start)
        and first.epoch == last.epoch != b""
    )


def is_at(position: Position, entries: Sequence[Marked]) -> bool:
    """Return whether entries begin with that of a position, which is then of the same log.

    It is False too if that cannot be told from the entries alone.
    """
    if not entries or entries[0].cursor != position.id:
        return False
    own = entries[0]
    if not own.epoch or not position.epoch or own.sequence is None or position.sequence is None:
        return own.epoch == position.epoch
    # After a gap, the sequence of a position is higher.
    return own.epoch == position.epoch and own.sequence <= position.sequence


def stretches(
    position: Position, entries: Sequence[Marked], state: LogState, *, whole: bool
) -> list[Stretch]:
    """Return how a log goes on from a position.

    `entries` are those from the position on, its own one first if the log retains it; all of
    them if `whole`. Then the last stretch ends at the end of the log. After a reset the log must
    be read again from its beginning.
    """
    if is_another_log(position, state, entries):
        return _reset(position, state)
    passed = 1 if entries and entries[0].cursor == position.id else 0
    walk = _Walk(position, entries, passed, state)
    for index, entry in enumerate(entries[passed:], passed):
        number = _number(entry, state)
        if number is not None:
            walk.pass_numbered(index, number)
    walk.finish(whole)
    return walk.stretches


def is_another_log(position: Position, state: LogState, entries: Sequence[Marked] = ()) -> bool:
    """Return whether a position is not of this log, or the log has lost its end since then.

    `entries` are some from the position on, its own one first if the log retains it. None at all
    were read if there are none, though the log has later ones.
    """
    if position.is_start:
        return False
    is_known = state.has_no_epoch or state.epoch != b""
    if position.epoch and is_known and position.epoch != state.epoch:
        return True
    if position.id > state.last_id or _lacks(position, state, entries):
        return True
    if position.sequence is None or _holds(position, state, entries):
        return False
    later = (entry for entry in entries if entry.cursor > position.id)
    numbers = (number for entry in later if (number := _number(entry, state)) is not None)
    return position.sequence > min(state.last_sequence, next(numbers, position.sequence + 1) - 1)


def _holds(position: Position, state: LogState, entries: Sequence[Marked]) -> bool:
    """Return whether the very entry of a position is here.

    Then it is the same log, though other programs may have set its count back, or added an entry
    once more with the sequence that it had.
    """
    here = {(state.epoch, state.end_id, state.end_sequence)}
    here.update((entry.epoch, entry.cursor, entry.sequence) for entry in entries[:1])
    return position.epoch != b"" and position in here


def _lacks(position: Position, state: LogState, entries: Sequence[Marked]) -> bool:
    """Return whether the log would retain the entry of a position, but does not have it.

    Then an older state of the log was restored, and went on from there.
    """
    if not position.is_entry or state.first_id is None or state.end_id is None:
        return False
    if position.id < state.first_id or position.id <= max(state.deleted, state.lost_upto):
        return False  # it was trimmed or deleted, or the archive lacks it
    if entries:
        return entries[0].cursor != position.id or _is_later(entries[0], position, state)
    return state.end_id < position.id


def _is_later(own: Marked, position: Position, state: LogState) -> bool:
    """Return whether the entry at a position has a higher sequence."""
    if own.sequence is None or position.sequence is None:
        return False
    return state.epoch in (b"", own.epoch) and own.sequence > position.sequence


def _reset(start: Position, state: LogState) -> list[Stretch]:
    """Return the way from a position that is not of this log to the beginning of what there is.

    Where the state does not know what is missing before the first entry, the entries tell it.
    """
    zero = Position(state.epoch, ZERO, 0)
    way = [Stretch(start, zero, "reset")]
    if state.exists and state.first_sequence not in (1, None):
        way.append(Stretch(zero, state.beginning, "gap"))
    return way


def locate(cursor: EventId, entries: Sequence[Marked], state: LogState) -> list[Stretch]:
    """Return the way to where a client stands in a log, which knows only the id of its last event.

    `entries` begin with the one at the cursor, if it is retained, or with the next one. The way
    has one stretch with a notice or without, or two after a reset.
    """
    start = Position(b"", cursor, None)
    if cursor > state.last_id:
        return _reset(start, state)
    if entries and entries[0].cursor == cursor:
        return [Stretch(start, Position(state.epoch, cursor, _number(entries[0], state)), None)]
    if state.first_id is None or not entries:  # nothing is left after the cursor
        is_gone = state.first_id is None or state.deleted > cursor
        return [Stretch(start, state.end, "gap" if is_gone and cursor < state.last_id else None)]
    if cursor < state.first_id:
        return [Stretch(start, state.beginning, _before_first(cursor, state))]
    if cursor > state.deleted:  # it never was in this log
        return _reset(start, state)
    return [Stretch(start, Position(state.epoch, cursor, None), None)]


def _before_first(cursor: EventId, state: LogState) -> Notice | None:
    """Return what to tell a client whose cursor lies before the first retained entry."""
    if state.first_sequence == 1:  # of this log's entries there was none
        return "reset" if cursor > ZERO else None
    is_next = state.first_id is not None and cursor == state.first_id.before()
    return None if is_next else "gap"


def _number(entry: Marked, state: LogState) -> int | None:
    """Return the sequence of an entry; None for one of another program, unless counting tells."""
    if entry.epoch and state.epoch in (b"", entry.epoch):
        return entry.sequence
    if entry.cursor == state.last_id:
        return state.last_sequence
    return state.first_sequence if entry.cursor == state.first_id else None


class _Walk:
    """Divides entries into stretches, which lead from the position to where the walk is now."""

    def __init__(self, position: Position, entries: Sequence[Marked], passed: int, state: LogState):
        self.stretches: list[Stretch] = []
        self._entries = entries
        self._state = state
        self._at = position
        self._first = passed  # of the entries that belong to no stretch yet
        self._counted = passed  # from here on entries are only counted, since others wrote them
        here = position._replace(epoch=state.epoch or position.epoch)
        floor = state.first_id.before() if state.first_id else state.last_id
        if position.sequence is None and position.id < max(floor, state.deleted):
            self._go_to(here, "gap")
        else:
            self._go_to(here)

    def pass_numbered(self, index: int, sequence: int) -> None:
        """Pass an entry whose sequence is known."""
        expected = self._expected(index)
        if expected is not None and sequence < expected:
            return  # another program has set the count back, or copied an entry: count on
        if sequence != expected:
            self._take(self._counted)
            if expected is not None:
                self._tell_gap(index, sequence)
            self._take(index)
            self._go_to(self._at._replace(sequence=sequence - 1))
        self._counted = index + 1

    def finish(self, whole: bool) -> None:
        """Take the entries that are left; if `whole`, arrive at the end of the log."""
        entries, state = self._entries, self._state
        counted = len(entries) - self._counted
        if not whole:
            known = entries[self._counted - 1].cursor if self._counted else self._at.id
            if counted and self._at.sequence is not None and state.deleted > known:
                self._take(self._counted)
                self._go_to(self._at._replace(sequence=None), "gap")
            self._take(len(entries))
            return
        expected = self._expected(len(entries))
        missing = 0 if expected is None else state.last_sequence + 1 - expected
        is_at_end = not counted or (missing == 1 and entries[-1].cursor < state.last_id)
        if missing > 0 and not is_at_end:
            self._take(self._counted)
            self._go_to(self._at._replace(sequence=None), "gap")
        self._take(len(entries))
        self._go_to(state.end, "gap" if missing > 0 and is_at_end else None)

    def _tell_gap(self, index: int, sequence: int) -> None:
        """Tell of entries that are missing before the one at an index.

        If others wrote entries before it, nobody knows which ones are missing, and the sequences
        of those are not known either.
        """
        is_located = index == self._first
        self._go_to(self._at._replace(sequence=sequence - 1 if is_located else None), "gap")

    def _expected(self, index: int) -> int | None:
        """Return the sequence of the entry at an index, unless some before it are missing."""
        sequence = self._at.sequence
        return None if sequence is None else sequence + 1 + index - self._first

    def _take(self, last: int) -> None:
        """Go past the entries up to an index (exclusive)."""
        if last > self._first:
            sequence = self._at.sequence
            sequence = None if sequence is None else sequence + last - self._first
            end = self._at._replace(id=self._entries[last - 1].cursor, sequence=sequence)
            self.stretches.append(Stretch(self._at, end, None, self._first, last))
            self._at, self._first = end, last

    def _go_to(self, end: Position, notice: Notice | None = None) -> None:
        """Go to a position without entries; it is the same place unless there is a notice."""
        if notice or end != self._at:
            self.stretches.append(Stretch(self._at, end, notice))
            self._at = end
