"""The contract of a stream: checks a follower's record against the history of its run.

It is exact in what it knows. Where the gateway may have read the log before a change or after
it, both are allowed.
"""

import math
from collections.abc import Iterator

from app.streaming.event_id import ZERO, EventId
from tests.schedules.debts import Debts
from tests.schedules.history import Change, Entry, History, Log
from tests.schedules.places import Place, places_at
from tests.schedules.record import (
    Broken,
    Closed,
    Control,
    Delivered,
    Item,
    Opened,
    Record,
    Refused,
)

REFUSALS = {204, 409, 503}


class Contract:
    """Follows one record, and keeps every place in the logs where its client may stand.

    Attributes:
        history: what happened to the run's log.
        record: the record that is checked.
        misses: the index of an item of the record, and what is wrong with it.
    """

    def __init__(self, history: History, record: Record):
        self.misses: list[tuple[int, str]] = []
        self.history = history
        self.record = record
        self._debts = Debts(history, record.selection)
        self._taken = 0
        self._places: list[Place] = []
        self._since = -math.inf  # the client's place is not older than that
        self._cursor: tuple[list[Place], float] = ([], -math.inf)  # what it reconnects with
        self._opened = Opened(-math.inf, "earliest", "")
        self._answered = False
        self._caught_up = False
        self._has_reset = False
        self._read_after = -math.inf  # the gateway read what it sends now after this moment
        self._used: set[Change] = set()  # causes of the resets so far

    def check(self) -> None:
        """Check the items that are new in the record."""
        for index in range(self._taken, len(self.record.items)):
            if wrong := self._take(self.record.items[index]):
                self.misses.append((index, wrong))
        self._taken = len(self.record.items)

    def settled(self) -> bool:
        """Return whether the client has everything, events and notices, now that all is quiet."""
        self.check()
        return any(self._debts.now(place) is None for place in self._places)

    def finish(self) -> None:
        """Check to the end. What the client still misses is wrong too."""
        if not self.settled():
            missing = {str(self._debts.now(place)) for place in self._places} or {"no stream"}
            self.misses.append((len(self.record.items), f"not settled: {' or '.join(missing)}"))

    def _take(self, item: Item) -> str | None:
        match item:
            case Opened():
                return self._open(item)
            case Refused():
                return self._refused(item)
            case Broken():
                return item.what
            case Closed():
                return None
        if not self._answered:
            self._answered = True
            self._places = self._starts(item.at)
        if isinstance(item, Delivered):
            return self._delivered(item)
        match item.action:
            case "gap":
                return self._gap(item)
            case "reset":
                return self._reset(item)
            case "caught_up":
                return self._take_caught_up(item)
            case "progress":
                return self._move(item)
        return f"an unknown control event: {item.action}"

    # The opening

    def _open(self, item: Opened) -> None:
        self._opened = item
        self._answered = self._caught_up = self._has_reset = False
        self._read_after = item.at
        self._used = set()
        resumes = "-" in item.start
        self._since = self._cursor[1] if resumes else item.at

    def _starts(self, until: float) -> list[Place]:
        """Return where the stream may have started, if its first item came at a time."""
        states = self.history.states_between(self._opened.at, until)
        return _distinct(places_at(self._opened.start, self._cursor[0], states, until))

    def _refused(self, item: Refused) -> str | None:
        states = list(self.history.states_between(self._opened.at, item.at))
        if item.status not in REFUSALS:
            return f"status {item.status}"
        if item.status == 409 and not any(state.other_type for state in states):
            return "409, but the key held no other type"
        if item.status == 204:
            self._places = [
                place
                for state in states
                if state.ended
                for place in places_at(self._opened.start, self._cursor[0], [state], item.at)
                if self._debts.in_state(place, state) is None
            ]
            if not self._places:
                return "204, but events follow"
        return None

    # Events, and the ids of control events

    def _delivered(self, item: Delivered) -> str | None:
        entry = self.history.entries.get(item.number)
        if entry is None or entry.added.began > item.at:
            return "an event that was never appended"
        missed = {place: self._debts.before_event(place, entry, item.at) for place in self._places}
        reached = [place.at(entry.log, entry.id) for place, what in missed.items() if not what]
        # After a miss the check goes on from the event.
        self._places = _distinct(reached) or [Place(entry.log, entry.id, item.at)]
        self._since = max(self._since, entry.added.began)
        self._keep_cursor()
        if (item.id, item.sequence) != (entry.id, entry.sequence):
            return f"altered: the log had id={entry.id} sequence={entry.sequence}"
        if not reached:
            return next(iter(missed.values()), "nothing was asked for")
        return self._stale(entry)

    def _stale(self, entry: Entry) -> str | None:
        removed, gone = entry.removed, entry.log.gone
        if removed and removed.ended < self._read_after:
            return "stale: the entry was removed before"
        if gone and (gone.ended < self._read_after or gone in self._used):
            return "stale: the log was deleted before"
        return None

    def _take_caught_up(self, item: Control) -> str | None:
        again, self._caught_up = self._caught_up, True
        if again:
            return "caught up twice"
        wrong = self._move(item)
        if wrong or self._has_reset:
            return wrong
        if all(self._debts.holds_older(place, self._opened.at, item.at) for place in self._places):
            return "caught up too early"
        return None

    def _move(self, item: Control) -> str | None:
        """Move to the id of a control event."""
        if item.id is None:
            return f"{item.action} has no id"
        reached: list[Place] = []
        reasons: list[str] = []
        for place in self._places:
            for log in [place.log] if place.log else self._candidates(item):
                wrong = self._wrong_move(place, log, item)
                if wrong is None:
                    reached.append(place.at(log, item.id))
                else:
                    reasons.append(wrong)
        self._places = _distinct(reached) or [
            place.at(place.log, item.id) for place in self._places
        ]
        self._keep_cursor()
        return None if reached else next(iter(reasons), "the id of no log")

    def _candidates(self, item: Control) -> Iterator[Log | None]:
        """Yield the logs that a client may be in that had none yet."""
        if item.id == ZERO:
            yield None
            return
        for log in self.history.logs:
            alive = log.gone is None or log.gone.ended >= self._since
            if alive and log.born.began < item.at:
                yield log

    def _wrong_move(self, place: Place, log: Log | None, item: Control) -> str | None:
        if log is None or item.id == place.cursor:
            return None
        if item.id < place.cursor:
            return f"{item.action} moves back from {place.cursor}"
        if item.id > log.last_id:
            return f"{item.action} has an id that the log never had"
        if log.gone and log.gone.began < item.at:
            return None  # the rest of a log that was deleted cannot be sent; a reset will tell
        return self._debts.up_to(place, log, item.id, item.at)

    def _keep_cursor(self) -> None:
        self._cursor = self._places, self._since

    # Notices

    def _gap(self, item: Control) -> str | None:
        wrong = self._wrong_request(item)
        told = [place for place in self._places if self._has_cause(place, item.at)]
        self._places = [place.told(item.at) for place in told or self._places]
        return wrong if told else "gap without a cause"

    def _has_cause(self, place: Place, at: float) -> bool:
        """Return whether entries that come after a place were removed."""
        if place.unsure:
            return True
        # A client that does not ask for what follows an event misses nothing that was gone before.
        # But where the log changes meanwhile, the gateway cannot always tell.
        is_newcomer = "-" not in self._opened.start and not self._has_reset
        states = list(self.history.states_between(self._opened.at, at))
        since = self._opened.at if is_newcomer and len(states) == 1 else -math.inf
        return any(
            since <= removal.ended
            and removal.began < at
            and any(self._comes_after(place, entry) for entry in entries)
            for removal, entries in self.history.removals.items()
        )

    def _comes_after(self, place: Place, entry: Entry) -> bool:
        if place.log is None:
            return entry.log.gone is None or entry.log.gone.ended >= self._since
        return entry.log is place.log and entry.id > place.cursor

    def _reset(self, item: Control) -> str | None:
        wrong = self._wrong_request(item)
        self._has_reset = True
        self._places = [Place(None, ZERO, item.at)]
        for absence in self.history.absences:
            if (
                absence not in self._used
                and absence.began < item.at
                and absence.ended >= self._since
            ):
                self._used.add(absence)
                self._read_after = max(self._read_after, absence.began)
                return wrong
        return "reset without a cause"

    def _wrong_request(self, item: Control) -> str | None:
        """Return an error if a notice names a position at which the client is not."""
        requested = EventId.parse(item.requested)
        if any(self._debts.is_at(place, requested, item.at) for place in self._places):
            return None
        cursors = " or ".join(sorted({str(place.cursor) for place in self._places}))
        return f"wrong request: {item.action} asks for {requested}, but the client is at {cursors}"


def _distinct(places: list[Place]) -> list[Place]:
    return list(dict.fromkeys(places))
