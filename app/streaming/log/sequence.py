"""Finds the entry with a sequence. Redis finds entries by id only, so this searches among ids."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..event_id import EventId
from .continuity import Mark
from .log_state import LogState

# As few entries are read at once, and not searched.
MAX_READ_ENTRIES = 32

_MAX_COUNTER = 2**64 - 1

Read = Callable[[EventId, EventId, int], Sequence[Mark]]


class Uncounted(Exception):
    """An entry on the way is another program's: nobody knows its sequence."""


class _Bound(NamedTuple):
    id: EventId
    sequence: int


def find_sequence(sequence: int, state: LogState, read: Read) -> Mark | None:
    """Return the first retained entry with this sequence or a higher one, None if there is none.

    `read(after, upto, count)` reads up to `count` entries of `after` < id <= `upto`. Raises
    Uncounted. The search halves the time between two entries, so it takes some ten reads.
    """
    if state.first_id is None or state.end_id is None:
        return None
    if state.first_sequence is None or state.end_sequence is None:
        raise Uncounted
    below = _Bound(state.first_id.before(), state.first_sequence - 1)
    upto = _Bound(state.end_id, state.end_sequence)
    found: Mark | None = None  # the first that is known to be high enough; it lies after `upto`
    while True:
        middle = (below.id.ms + upto.id.ms) // 2
        if upto.sequence - below.sequence <= MAX_READ_ENTRIES or middle == below.id.ms:
            marks = read(below.id, upto.id, MAX_READ_ENTRIES)
            for mark in marks:
                below = _bound(mark)
                if below.sequence >= sequence:
                    return mark
            if len(marks) < MAX_READ_ENTRIES:
                return found
            continue
        end_of_middle = EventId(middle, _MAX_COUNTER)
        marks = read(end_of_middle, upto.id, 1)
        if not marks:
            upto = _Bound(end_of_middle, upto.sequence)
        elif _bound(marks[0]).sequence < sequence:
            below = _bound(marks[0])
        else:
            found = marks[0]
            upto = _Bound(end_of_middle, _bound(found).sequence - 1)


def _bound(mark: Mark) -> _Bound:
    if mark.sequence is None:
        raise Uncounted
    return _Bound(mark.cursor, mark.sequence)
