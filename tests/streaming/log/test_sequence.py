"""The search for the entry with a sequence, among logs in memory."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.streaming.event_id import EventId
from app.streaming.log.continuity import Mark
from app.streaming.log.log_state import LogState
from app.streaming.log.sequence import MAX_READ_ENTRIES, Uncounted, find_sequence

EPOCH = b"1"


class Entries:
    """The retained entries of a log, which counts how often it is read."""

    def __init__(self, marks: Sequence[Mark]):
        self.marks = list(marks)
        self.reads = 0

    @property
    def state(self) -> LogState:
        first, last = self.marks[0], self.marks[-1]
        return LogState(
            length=len(self.marks),
            first_id=first.cursor,
            first_sequence=first.sequence,
            last_id=last.cursor,
            last_sequence=last.sequence or 0,
            ended=False,
            end_id=last.cursor,
            end_sequence=last.sequence,
            epoch=EPOCH,
        )

    def read(self, after: EventId, upto: EventId, count: int) -> list[Mark]:
        self.reads += 1
        assert self.reads < 1000
        return [mark for mark in self.marks if after < mark.cursor <= upto][:count]

    def find(self, sequence: int) -> Mark | None:
        return find_sequence(sequence, self.state, self.read)


def log_of(steps: Sequence[tuple[int, int]], first: int = 1) -> Entries:
    """Return a log of entries, each so many milliseconds and sequences after the one before."""
    marks, ms, n, sequence = [], 1_795_000_000_000, 0, first
    for later, missing in steps:
        n = n + 1 if not later else 0
        ms, sequence = ms + later, sequence + missing
        marks.append(Mark(EventId(ms, n), EPOCH, sequence))
        sequence += 1
    return Entries(marks)


steps = st.tuples(
    st.sampled_from([0, 0, 0, 1, 2, 40, 60_000, 10**9]), st.sampled_from([0, 0, 0, 0, 1, 50])
)


@given(st.lists(steps, min_size=1, max_size=200), st.integers(1, 40), st.integers(0, 400))
def test_the_first_entry_with_the_sequence_or_a_higher_one_is_found(steps, first, sequence):
    log = log_of(steps, first)
    expected = next((mark for mark in log.marks if (mark.sequence or 0) >= sequence), None)
    assert log.find(sequence) == expected


@pytest.mark.parametrize("ms", [1, 17, 3_600_000])
def test_a_long_log_is_searched_and_not_read(ms):
    log = log_of([(ms, 0)] * 10_000)
    found = log.find(7_654)
    assert found is not None
    assert found.sequence == 7_654
    assert log.reads < 25


def test_entries_of_one_millisecond_are_read_in_pages():
    log = log_of([(1, 0)] + [(0, 0)] * 3000)
    found = log.find(2_999)
    assert found is not None
    assert found.sequence == 2_999
    assert log.reads <= 3000 // MAX_READ_ENTRIES + 1


@pytest.mark.parametrize("at", [0, 1, 50, 98, 99])
def test_entries_that_nobody_has_counted_are_not_searched(at):
    log = log_of([(1, 0)] * 100)
    log.marks[at] = Mark(log.marks[at].cursor, b"", None)
    try:
        found = log.find(at + 2)
    except Uncounted:
        return
    assert found == (log.marks[at + 1] if at < 99 else None)
