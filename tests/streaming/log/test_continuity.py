"""Continuity, against a log in memory that its writers change in every way while it is read."""

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from app.streaming.event_id import ZERO, EventId
from app.streaming.log.continuity import Mark, Stretch, continues, locate, stretches
from app.streaming.log.log_state import NO_LOG, LogState
from app.streaming.log.position import START, Position


@dataclass
class Entry:
    """An entry, with its true place: the number of its log, and its ordinal there."""

    cursor: EventId
    log: int
    ordinal: int
    ours: bool

    @property
    def mark(self) -> Mark:
        if self.ours:
            return Mark(self.cursor, b"%d" % self.log, self.ordinal)
        return Mark(self.cursor, b"", None)


@dataclass
class Log:
    """A log as Redis keeps it. `number` tells it from the logs before it."""

    number: int = 0
    clock: int = 0
    added: int = 0
    last_id: EventId = ZERO
    deleted: EventId = ZERO
    entries: list[Entry] = field(default_factory=list)

    def add(self, ours: bool, at: int = 1) -> None:
        if self.last_id == ZERO:
            self.number += 1
        self.clock += at
        self.added += 1
        self.last_id = EventId(self.clock, 0)
        self.entries.append(Entry(self.last_id, self.number, self.added, ours))

    def delete_entry(self, index: int) -> None:
        if self.entries:
            entry = self.entries.pop(index % len(self.entries))
            self.deleted = max(self.deleted, entry.cursor)

    def trim(self, length: int) -> None:
        self.entries = self.entries[max(0, len(self.entries) - length) :]

    def drop(self) -> None:
        self.added, self.last_id, self.deleted, self.entries = 0, ZERO, ZERO, []

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


@dataclass
class Follower:
    """Reads a log as the gateway does, and keeps what it was sent: entries and notices."""

    log: Log
    position: Position = START
    got: list[Entry | str] = field(default_factory=list)

    def read(self, count: int) -> bool:
        """Read once; return whether there was anything."""
        entries = self.log.after(self.position.id, count)
        marks = [entry.mark for entry in entries]
        if marks and continues(self.position, marks):
            last = marks[-1]
            self.got += entries
            self.position = Position(last.epoch, last.cursor, last.sequence)
            return True
        whole = len(entries) < count
        found = stretches(self.position, marks, self.log.state, whole=whole)
        for stretch in found:
            self._take(stretch, entries)
        return bool(found)

    def _take(self, stretch: Stretch, entries: list[Entry]) -> None:
        assert stretch.start == self.position
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
        where = locate(last.cursor, entries, self.log.state)
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
        if before is not None and each.log != before.log:
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
    st.tuples(st.just("add"), st.booleans(), st.integers(1, 4)),
    st.tuples(st.just("delete_entry"), st.integers(-3, 3)),
    st.tuples(st.just("trim"), st.integers(0, 5)),
    st.tuples(st.just("drop")),
)
READS = st.tuples(st.just("read"), st.integers(1, 6))
RECONNECTS = st.tuples(st.just("reconnect"))


def play(steps: list[tuple], ours_only: bool) -> Follower:
    follower = Follower(Log())
    for name, *arguments in steps:
        if name in ("read", "reconnect"):
            getattr(follower, name)(*arguments)
        else:
            if name == "add":
                ours, count = arguments
                for _ in range(count):
                    follower.log.add(ours or ours_only)
            else:
                getattr(follower.log, name)(*arguments)
    follower.catch_up()
    return follower


def arrives(follower: Follower) -> None:
    """Check that a follower that caught up has the log's last entry."""
    got = [each for each in follower.got if isinstance(each, Entry)]
    if follower.log.entries:
        assert follower.log.entries[-1] in got
    assert follower.position[:2] == follower.log.state.end[:2]
    assert follower.position.sequence == follower.log.added


@settings(max_examples=500, deadline=None)
@given(st.lists(st.one_of(*WRITES, READS), max_size=40))
def test_every_hole_and_every_other_log_is_told_and_nothing_else(steps):
    follower = play(steps, ours_only=True)
    check(follower, exact=True, reconnected=False)
    arrives(follower)


@settings(max_examples=500, deadline=None)
@given(st.lists(st.one_of(*WRITES, READS), max_size=40))
def test_holes_among_entries_of_other_programs_are_told(steps):
    follower = play(steps, ours_only=False)
    check(follower, exact=False, reconnected=False)
    arrives(follower)


@settings(max_examples=500, deadline=None)
@given(st.lists(st.one_of(*WRITES, READS, RECONNECTS), max_size=40), st.booleans())
def test_a_client_that_knows_only_an_id_is_told_too(steps, ours_only):
    follower = play(steps, ours_only)
    check(follower, exact=False, reconnected=True)
    arrives(follower)
