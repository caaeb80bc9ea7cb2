"""Continuity, against a log in memory that its writers change in every way while it is read."""

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.streaming.event_id import ZERO, EventId
from app.streaming.log.continuity import (
    Mark,
    Stretch,
    continues,
    is_another_log,
    is_at,
    locate,
    stretches,
)
from app.streaming.log.log_state import NO_LOG, LogState
from app.streaming.log.position import START, Position


@dataclass(eq=False)
class Entry:
    """An entry, with its true place: the log, its ordinal there, and what was added before it."""

    cursor: EventId
    log: int
    ordinal: int
    ours: bool
    earlier: list["Entry"] = field(repr=False)

    @property
    def mark(self) -> Mark:
        if self.ours:
            return Mark(self.cursor, b"%d" % self.log, self.ordinal)
        return Mark(self.cursor, b"", None)


@dataclass
class Log:
    """A log as Redis keeps it. `number` tells it from the logs before it.

    `history` has all entries that were ever added to it. `server` changes when an older state was
    restored; then the clock is behind, but no id is given twice.
    """

    number: int = 0
    numbers: int = 0
    clock: int = 0
    added: int = 0
    last_id: EventId = ZERO
    deleted: EventId = ZERO
    entries: list[Entry] = field(default_factory=list)
    history: list[Entry] = field(default_factory=list)
    server: int = 0
    backup: "Log | None" = None

    def add(self, ours: bool, at: int = 1) -> None:
        if self.last_id == ZERO:
            self.number = self.numbers = self.numbers + 1
        self.clock += at
        self.added += 1
        self.last_id = EventId(self.clock, self.server)
        entry = Entry(self.last_id, self.number, self.added, ours, [*self.history])
        self.entries.append(entry)
        self.history.append(entry)

    def back_up(self) -> None:
        copies = {"entries": [*self.entries], "history": [*self.history], "backup": None}
        self.backup = replace(self, **copies)

    def restore(self) -> None:
        if self.backup is not None:
            kept = {"backup": self.backup, "server": self.server + 1, "numbers": self.numbers}
            self.backup.back_up()
            self.__dict__.update(vars(self.backup.backup) | kept)

    def set_id(self, at: int) -> None:
        """Give an id that no entry has, as XSETID does."""
        if self.last_id != ZERO:
            self.clock += at
            self.last_id = EventId(self.clock, self.server)

    def delete_entry(self, index: int) -> None:
        if self.entries:
            entry = self.entries.pop(index % len(self.entries))
            self.deleted = max(self.deleted, entry.cursor)

    def trim(self, length: int) -> None:
        self.entries = self.entries[max(0, len(self.entries) - length) :]

    def drop(self) -> None:
        self.added, self.last_id, self.deleted, self.entries, self.history = 0, ZERO, ZERO, [], []

    @property
    def state(self) -> LogState:
        if self.last_id == ZERO:
            return NO_LOG
        first, last = (self.entries[0], self.entries[-1]) if self.entries else (None, None)
        number: int | None = self.added - len(self.entries) + 1
        if first and self.deleted > first.cursor:
            number = first.mark.sequence
        return LogState(
            length=len(self.entries),
            first_id=first and first.cursor,
            first_sequence=number,
            last_id=self.last_id,
            last_sequence=self.added,
            ended=False,
            end_id=last and last.cursor,
            deleted=self.deleted,
            epoch=b"%d" % self.number,
        )

    def after(self, cursor: EventId, count: int) -> list[Entry]:
        return [entry for entry in self.entries if entry.cursor > cursor][:count]

    def at(self, cursor: EventId, count: int) -> list[Entry]:
        """The entries from a cursor on, its own one too."""
        return [entry for entry in self.entries if entry.cursor >= cursor][:count]


@dataclass
class Follower:
    """Reads a log as the gateway does, and keeps what it was sent: entries and notices."""

    log: Log
    position: Position = START
    got: list[Entry | str] = field(default_factory=list)
    server: int = 0

    def read(self, count: int) -> bool:
        """Read once; return whether there was anything."""
        entries = self.log.after(self.position.id, count)
        marks = [entry.mark for entry in entries]
        if marks and continues(self.position, marks) and self.is_on_the_same_log():
            last = marks[-1]
            self.got += entries
            self.position = Position(last.epoch, last.cursor, last.sequence)
            return True
        entries = self.log.at(self.position.id, count + 1)
        marks = [entry.mark for entry in entries]
        whole = len(entries) <= count
        found = stretches(self.position, marks, self.log.state, whole=whole)
        for stretch in found:
            self._take(stretch, entries)
        return bool(found)

    def is_on_the_same_log(self) -> bool:
        """Return whether the position is still one of this log, as a new connection asks."""
        if self.server == self.log.server or not self.position.is_entry:
            return True
        marks = [entry.mark for entry in self.log.at(self.position.id, 1)]
        if not is_at(self.position, marks):
            return False
        self.server = self.log.server
        return True

    def _take(self, stretch: Stretch, entries: list[Entry]) -> None:
        assert stretch.start == self.position
        if stretch.notice == "reset":
            last = next((each for each in reversed(self.got) if isinstance(each, Entry)), None)
            is_here = last is not None and last in self.log.history
            assert not is_here or self.log.server, "the log has what was read"
        if stretch.notice:
            self.got.append(stretch.notice)
        self.got += entries[stretch.first : stretch.last]
        self.position = stretch.end

    def catch_up(self) -> None:
        for _ in range(200):
            if not self.read(1000):
                return
        raise AssertionError("it never arrives")

    def reconnect(self) -> None:
        """Come back with nothing but the id of the last entry."""
        last = next((each for each in reversed(self.got) if isinstance(each, Entry)), None)
        if last is None:
            self.position = START
            return
        entries = [each.mark for each in self.log.entries if each.cursor >= last.cursor][:1]
        for where in locate(last.cursor, entries, self.log.state):
            if where.notice:
                self.got.append(where.notice)
            self.position = where.end


def check(follower: Follower, exact: bool, reconnected: bool) -> None:
    """Compare what a follower was sent with the truth."""
    before, notices = None, []
    for each in follower.got:
        if isinstance(each, str):
            notices.append(each)
            continue
        if before is not None and before not in each.earlier and "reset" not in notices:
            assert reconnected, follower.got
            assert "gap" in notices, follower.got
        elif before is not None and each.log != before.log:
            assert "reset" in notices or (reconnected and "gap" in notices), follower.got
        elif before is not None and "reset" not in notices:
            assert each.ordinal > before.ordinal, follower.got
            missing = each.ordinal - before.ordinal - 1
            assert not missing or "gap" in notices, follower.got
            if exact and not reconnected:
                assert missing or not notices, follower.got
        elif before is None and each.ordinal > 1:
            assert notices, follower.got
        before = each
        if exact or each.ours:  # a notice stands before the first entry that may be missing
            notices = []


WRITES = (
    st.tuples(st.just("add"), st.booleans(), st.integers(1, 4), st.sampled_from((1, 1, 9))),
    st.tuples(st.just("delete_entry"), st.integers(-3, 3)),
    st.tuples(st.just("trim"), st.integers(0, 5)),
    st.tuples(st.just("drop")),
    st.tuples(st.just("back_up")),
    st.tuples(st.just("restore")),
)
MOVES = st.tuples(st.just("set_id"), st.integers(1, 9))
READS = st.tuples(st.just("read"), st.integers(1, 6))
RECONNECTS = st.tuples(st.just("reconnect"))


def play(steps: list[tuple], ours_only: bool) -> Follower:
    follower = Follower(Log())
    for name, *arguments in steps:
        if name in ("read", "reconnect"):
            getattr(follower, name)(*arguments)
        else:
            if name == "add":
                ours, count, step = arguments
                for _ in range(count):
                    follower.log.add(ours or ours_only, step)
            else:
                getattr(follower.log, name)(*arguments)
    follower.catch_up()
    return follower


def arrives(follower: Follower) -> None:
    """Check that a follower that caught up has the log's last entry."""
    got = [each for each in follower.got if isinstance(each, Entry)]
    if follower.log.entries:
        # An entry that had been deleted may be back; its gap was told.
        was_told = follower.log.server > 0 and "gap" in follower.got
        assert follower.log.entries[-1] in got or was_told
    assert follower.position[:2] == follower.log.state.end[:2]
    assert follower.position.sequence == follower.log.added


@settings(max_examples=500)
@given(st.lists(st.one_of(*WRITES, MOVES, READS), max_size=40))
def test_every_hole_and_every_other_log_is_told_and_nothing_else(steps):
    follower = play(steps, ours_only=True)
    check(follower, exact=True, reconnected=False)
    arrives(follower)


@settings(max_examples=500)
@given(st.lists(st.one_of(*WRITES, READS), max_size=40))
def test_holes_among_entries_of_other_programs_are_told(steps):
    follower = play(steps, ours_only=False)
    check(follower, exact=False, reconnected=False)
    arrives(follower)


@settings(max_examples=500)
@given(st.lists(st.one_of(*WRITES, READS, RECONNECTS), max_size=40), st.booleans())
def test_a_client_that_knows_only_an_id_is_told_too(steps, ours_only):
    follower = play(steps, ours_only)
    check(follower, exact=False, reconnected=True)
    arrives(follower)


# Examples. Entries are written as their ids: a number is one of Tailrace's, whose sequence is the
# number too; a text is one of another program.

EPOCH, OTHER_EPOCH = b"1", b"2"


def at(number: int, sequence: int | None = -1, epoch: bytes = EPOCH) -> Position:
    return Position(epoch, EventId(number, 0), number if sequence == -1 else sequence)


def marks(*entries: int | str, epoch: bytes = EPOCH) -> list[Mark]:
    return [
        Mark(EventId(int(entry), 0), b"", None)
        if isinstance(entry, str)
        else Mark(EventId(entry, 0), epoch, entry)
        for entry in entries
    ]


def state_of(*entries: int | str, last: int | None = None, deleted: int = 0, **more) -> LogState:
    """The state of a log with these entries, of which `last` was the last ever added."""
    last = last or int(entries[-1])
    ids = [EventId(int(entry), 0) for entry in entries]
    number: int | None = last - len(ids) + 1
    if ids and EventId(deleted, 0) > ids[0]:
        number = entries[0] if isinstance(entries[0], int) else None
    known = {
        "length": len(ids),
        "first_id": ids[0] if ids else None,
        "first_sequence": number,
        "last_id": EventId(last, 0),
        "last_sequence": last,
        "ended": False,
        "end_id": ids[-1] if ids else None,
        "deleted": EventId(deleted, 0),
        "epoch": EPOCH,
    }
    return LogState(**known | more)


def told(position: Position, entries: list[Mark], state: LogState, whole: bool) -> list[int | str]:
    """What a follower is sent: ids and notices."""
    found, here = [], position
    for stretch in stretches(position, entries, state, whole=whole):
        assert stretch.start is here
        here = stretch.end
        found += [stretch.notice] if stretch.notice else []
        found += [entry.cursor.ms for entry in entries[stretch.first : stretch.last]]
    return found


@pytest.mark.parametrize(
    ("position", "entries", "expected"),
    [
        (at(4), marks(5, 6), True),
        (START, marks(1, 2), True),
        (at(0, epoch=OTHER_EPOCH), marks(1, 2), True),
        (START, marks(2, 3), False),
        (at(4), marks(6), False),
        (at(4), marks(5, 7), False),
        (at(4), marks(5, epoch=OTHER_EPOCH), False),
        (at(4), [*marks(5), *marks(6, epoch=OTHER_EPOCH)], False),
        (at(4, None), marks(5), False),
        (at(4, 5), marks(5), False),
        (at(4), marks("5"), False),
        (at(4), marks(5, "6"), False),
        (at(4, epoch=b""), marks(5), False),
    ],
)
def test_entries_prove_that_they_continue_a_position(position, entries, expected):
    assert continues(position, entries) is expected


WHOLE = (1, 2, 3, 4, 5, 6)


@pytest.mark.parametrize(
    ("position", "retained", "changes", "expected"),
    [
        # Nothing is missing.
        (START, WHOLE, {}, [1, 2, 3, 4, 5, 6]),
        (at(4), WHOLE, {}, [5, 6]),
        (at(6), WHOLE, {}, []),
        (at(4, None), WHOLE, {}, [5, 6]),
        # A gap stands exactly where entries are missing.
        (START, (4, 5, 6), {}, ["gap", 4, 5, 6]),
        (at(2), (4, 5, 6), {}, ["gap", 4, 5, 6]),
        (at(3), (4, 5, 6), {}, [4, 5, 6]),
        (at(1), (1, 2, 4, 6), {"deleted": 5}, [2, "gap", 4, "gap", 6]),
        (at(4), (1, 2, 3, 4, 5), {"last": 6, "deleted": 6}, [5, "gap"]),
        (at(5), (1, 2, 3, 4, 5), {"last": 6, "deleted": 6}, ["gap"]),
        (at(6), (1, 2, 3, 4, 5), {"last": 6, "deleted": 6}, []),
        (at(4), (), {"last": 6}, ["gap"]),
        (at(6), (), {"last": 6}, []),
        # Who knows no sequence is told of what may be missing.
        (at(1, None), (4, 5, 6), {}, ["gap", 4, 5, 6]),
        (at(3, None), (1, 2, 3, 4, 6), {"deleted": 5}, ["gap", 4, "gap", 6]),
        (at(5, None), (1, 2, 3, 4, 6), {"deleted": 5}, [6]),
    ],
)
def test_what_a_follower_is_told(position, retained, changes, expected):
    state = state_of(*retained, **changes)
    entries = [mark for mark in marks(*retained) if mark.cursor >= position.id]
    assert told(position, entries, state, whole=True) == expected


@pytest.mark.parametrize(
    ("position", "retained", "changes"),
    [
        (at(3, epoch=OTHER_EPOCH), WHOLE, {}),
        (at(9, epoch=OTHER_EPOCH), WHOLE, {}),
        (at(9), WHOLE, {}),
        (at(6, 7), WHOLE, {}),
        # A failover lost entry 4 and what came after it, and others were added since.
        (at(4), (1, 2, 3, 8), {"last_sequence": 4, "first_sequence": 1}),
        (at(4, 4), (), {"last": 9, "last_sequence": 3}),
    ],
    ids=["another log", "beyond another log", "beyond", "numbered", "failover", "failover, empty"],
)
def test_another_log_or_one_that_lost_its_end_is_a_reset(position, retained, changes):
    state = state_of(*retained, **changes)
    after = [
        Mark(EventId(each, 0), EPOCH, 4 if each == 8 else each)
        for each in retained
        if each > position.id.ms
    ]
    assert is_another_log(position, state, after)
    reset, *gap = stretches(position, after, state, whole=True)
    assert (reset.notice, reset.end) == ("reset", Position(EPOCH, ZERO, 0))
    assert [each.notice for each in gap] == ([] if retained else ["gap"])


@pytest.mark.parametrize("entries", [(), marks(8, 9)])
def test_an_entry_that_was_trimmed_and_never_archived_is_no_reset(entries):
    """The archive has the entries up to 3, and Redis those after 7, if any."""
    last, lost = (9 if entries else 7), EventId(7, 0)
    state = state_of(1, 2, 3, *(entry.sequence for entry in entries), last=last, lost_upto=lost)
    state = replace(state, first_sequence=1)
    for number in (4, 7):
        assert not is_another_log(at(number), state, entries)
    assert is_another_log(at(8), state_of(1, 2, 9, last=9, lost_upto=lost), marks(9))


def test_a_log_that_is_gone_is_a_reset_to_the_start_of_every_log():
    [stretch] = stretches(at(5), [], NO_LOG, whole=True)
    assert (stretch.notice, stretch.end) == ("reset", Position(b"", ZERO, 0))


def test_who_has_read_nothing_continues_in_every_log():
    for position in (START, at(0, epoch=OTHER_EPOCH)):
        assert not is_another_log(position, state_of(*WHOLE))
        assert told(position, marks(*WHOLE), state_of(*WHOLE), whole=True) == [*WHOLE]
    assert stretches(START, [], NO_LOG, whole=True) == []


def test_entries_that_were_written_again_after_a_failover_are_told_by_their_sequence():
    """The log is as long as before, so only the numbers of the entries tell."""
    state = state_of(1, 2, 3, 8, 9, last=9, last_sequence=5, first_sequence=1)
    entries = [Mark(EventId(8, 0), EPOCH, 4), Mark(EventId(9, 0), EPOCH, 5)]
    assert is_another_log(at(5), state, entries)
    assert told(at(5), entries, state, whole=True) == ["reset"]
    assert told(at(3), marks(3) + entries, state, whole=True) == [8, 9]


@pytest.mark.parametrize(
    ("position", "retained", "changes", "whole", "expected"),
    [
        # Without a hole, the entries of other programs are counted.
        (START, ("1", "2", "3"), {}, True, [1, 2, 3]),
        (at(1), ("1", "2", "3"), {}, True, [2, 3]),
        (at(2), (1, 2, "3", "4", 5), {}, True, [3, 4, 5]),
        (at(1, None), ("1", "2", "3"), {}, True, [2, 3]),
        # A number after them tells that one is missing, not which: the gap comes before all.
        (at(2), (1, 2, "3", 5), {"deleted": 4}, True, ["gap", 3, 5]),
        (at(1), (1, 2, "3", "5", 6), {"deleted": 4}, True, [2, "gap", 3, 5, 6]),
        (at(2), (1, 2, "3", "5"), {"deleted": 4}, True, ["gap", 3, 5]),
        (at(2), ("4", "5"), {}, True, ["gap", 4, 5]),
        # The last one is missing, and it is the last that was ever added.
        (at(2), (1, 2, "3"), {"last": 4, "deleted": 4}, True, [3, "gap"]),
        # Not all was read, so counting cannot tell yet.
        (at(1), ("1", "2", "3", "4"), {}, False, [2, 3]),
        (at(1), ("1", "2", "3", "5"), {"deleted": 4}, False, ["gap", 2, 3]),
        (at(4), ("1", "2", "4", "5", "6", "7"), {"deleted": 3}, False, [5, 6]),
    ],
)
def test_what_a_follower_is_told_of_entries_of_other_programs(
    position, retained, changes, whole, expected
):
    state = state_of(*retained, **changes)
    entries = [mark for mark in marks(*retained) if mark.cursor >= position.id]
    assert told(position, entries if whole else entries[:3], state, whole) == expected


def test_where_nobody_may_give_a_log_an_epoch_the_numbers_of_its_entries_still_count():
    state = state_of(1, 2, 4, deleted=3, epoch=b"")
    assert told(at(2), marks(4), state, whole=True) == ["gap", 4]
    assert told(at(9), [], state, whole=True) == ["reset"]


def test_a_sequence_that_was_set_by_hand_is_a_gap_forwards_and_a_reset_backwards():
    """XSETID changes how many entries were ever added."""
    forwards = state_of(1, 2, 3, last_sequence=100)
    assert told(at(3), [], forwards, whole=True) == ["gap"]
    assert stretches(at(3), [], forwards, whole=True)[-1].end == at(3, 100)
    backwards = state_of(1, 2, 3, last_sequence=1)
    assert told(at(3), [], backwards, whole=True) == ["reset"]


def test_the_last_stretch_ends_at_the_end_of_the_log():
    state = state_of(1, 2, 3, last=5, deleted=5)
    assert stretches(at(1), marks(2, 3), state, whole=True)[-1].end == state.end
    assert stretches(at(3, None), [], state_of(1, 2, 3), whole=True)[-1].end == at(3)


# Where a client stands that knows only an id


@pytest.mark.parametrize(
    ("cursor", "retained", "changes", "notice", "end"),
    [
        # At an entry, and just before the first one.
        (3, WHOLE, {}, None, at(3)),
        (6, WHOLE, {}, None, at(6)),
        (4, (4, 5, 6), {}, None, at(4)),
        (3, ("3", "4"), {"last": 4}, None, at(3)),
        (3, ("2", "3", "4"), {"last": 4}, None, at(3, None)),
        (0, WHOLE, {}, None, Position(EPOCH, EventId(1, 0).before(), 0)),
        # Before the first retained entry.
        (2, (4, 5, 6), {}, "gap", Position(EPOCH, EventId(4, 0).before(), 3)),
        (0, (4, 5, 6), {}, "gap", Position(EPOCH, EventId(4, 0).before(), 3)),
        (2, (4, 5, 6), {"first_sequence": 1}, "reset", Position(EPOCH, EventId(4, 0).before(), 0)),
        # Beyond the last id that was ever given.
        (7, WHOLE, {}, "reset", Position(EPOCH, ZERO, 0)),
        # Its entry is missing: deleted, if something at least so far on was, else of another log.
        (3, (1, 2, 4, 5), {"deleted": 3}, None, at(3, None)),
        (3, (1, 2, 4, 6), {"deleted": 5}, None, at(3, None)),
        (3, (1, 2, 4, 5), {"first_sequence": 1}, "reset", Position(EPOCH, ZERO, 0)),
        # Nothing is left after it.
        (6, (), {"last": 6}, None, at(6)),
        (5, (), {"last": 6}, "gap", at(6)),
        (4, (1, 2, 3), {"last": 5, "deleted": 5}, "gap", at(5)),
        (5, (1, 2, 3), {"last": 5, "deleted": 5}, None, at(5)),
    ],
)
def test_where_a_client_stands_that_knows_only_an_id(cursor, retained, changes, notice, end):
    state = state_of(*retained, **changes)
    entries = [mark for mark in marks(*retained) if mark.cursor >= EventId(cursor, 0)][:1]
    [where] = locate(EventId(cursor, 0), entries, state)
    assert where.start == Position(b"", EventId(cursor, 0), None)
    assert (where.notice, where.end) == (notice, end)


def test_the_id_just_before_the_first_retained_entry_misses_nothing():
    """No entry can have stood between the two."""
    state = state_of(4, 5, 6)
    assert locate(EventId(3, 2**64 - 1), marks(4), state)[0].notice is None
    assert locate(EventId(3, 1), marks(4), state)[0].notice == "gap"


@pytest.mark.parametrize("n", [1, 2**64 - 1])
def test_an_id_before_the_first_entry_that_a_log_ever_had_is_of_another_log(n):
    [where] = locate(EventId(3, n), marks(4), state_of(4, 5, 6, first_sequence=1))
    assert where.notice == "reset"
    assert where.end.is_start or where.end.sequence == 0


def test_no_log_holds_only_the_start():
    assert locate(ZERO, [], NO_LOG) == [Stretch(Position(b"", ZERO, None), START, None)]
    [reset] = locate(EventId(1, 0), [], NO_LOG)
    assert reset.notice == "reset"


@pytest.mark.parametrize("retained", [(4, 5, 6), ()])
def test_after_a_reset_the_way_leads_to_the_beginning_of_what_is_retained(retained):
    """So nothing that the log has lost is served from memory."""
    state = state_of(*retained, last=6)
    for way in (
        locate(EventId(9, 0), [], state),
        stretches(at(9, epoch=b"other"), marks(*retained), state, whole=True),
    ):
        assert [each.notice for each in way] == ["reset", "gap"]
        assert way[-1].end == state.beginning


@pytest.mark.parametrize(
    ("retained", "deleted", "expected"),
    [
        (("1", 2, 3, 5), 4, [1, 2, 3, "gap", 5]),
        (("1", 2, 4), 3, [1, 2, "gap", 4]),
        (("2", "3", 5, 6), 4, ["gap", 2, 3, 5, 6]),  # some are missing before entry 5
        (("1", "3"), 2, ["gap", 1, 3]),
    ],
)
def test_after_a_reset_the_entries_tell_what_the_state_does_not_know(retained, deleted, expected):
    """The first entry is another program's, and one behind it was deleted."""
    state = state_of(*retained, deleted=deleted)
    [reset] = stretches(at(9, epoch=OTHER_EPOCH), marks(*retained), state, whole=True)
    assert reset.notice == "reset"
    assert told(reset.end, marks(*retained), state, whole=True) == expected


def test_where_nobody_knows_the_epoch_the_entry_itself_must_be_there():
    state = state_of("1", "2", "4", "5", epoch=b"")
    position = Position(b"", EventId(3, 0), 3)
    assert told(position, marks("4", "5"), state, whole=True)[0] == "reset"
    assert "reset" not in told(position, marks("3", "4", "5"), state, whole=True)
