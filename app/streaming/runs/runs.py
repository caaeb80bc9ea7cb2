"""The runs of a store: keeps the index and the log of changes, and lists the runs."""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

from ..errors import StoreUnavailable, StreamingError
from ..event import LIFECYCLE, Event
from ..event_id import EventId
from ..log.reader import MAX_DESCRIBED, LogReader
from ..log.run import Run
from ..log.writer import LogWriter
from ..new_event import MAX_EVENTS, Append, Appended, NewEvent
from .changes import CHANGES, change_of, deletion_of, key_of
from .late_notes import LateNotes, Notes
from .run_index import Noted, Place, RunIndex

# How many runs of the index one page looks at, and into how many logs.
MAX_SCANNED_RUNS = 2_000
MAX_LOGS = 400

log = logging.getLogger("tailrace.runs")


class RunsPage(NamedTuple):
    """Some runs, the latest activity first, and where the next page goes on (None at the end).

    `unavailable` are the ids of runs that belong there, but whose logs cannot be read now: they are
    on nodes of a cluster that do not serve.
    """

    runs: list[Run]
    next: Place | None
    unavailable: Sequence[str] = ()


class Runs:
    """All runs.

    The log of a run is the truth. What is noted here may be missing after a crash, or when other
    programs write logs: the census finds it.
    """

    def __init__(
        self, reader: LogReader, writer: LogWriter, index: RunIndex, *, is_apart: bool = False
    ):
        """`is_apart` says whether the index may be away while the logs are not."""
        self.index = index
        self._is_apart = is_apart
        self._reader = reader
        self._writer = writer
        self._late = LateNotes(self._write)

    def appended(self, appends: Iterable[tuple[Append, Appended]]) -> None:
        """Note what appends say of their runs: the first event, and lifecycle events."""
        noted: list[Noted] = []
        changes: list[NewEvent] = []
        for append, appended in appends:
            if events := _telling(append, appended):
                changes += map(change_of, events)
                state = _state(append.new_events[-1].terminal)
                noted.append(Noted(append.run_id, state, appended.first_id.ms))
        if noted:
            self._try(noted, changes)

    def lost(self, run_id: str) -> None:
        """Note that a run was lost."""
        try:
            run = self._reader.run(run_id)
        except StreamingError as error:
            log.warning("a lost run cannot be noted now: %s", error)
        else:
            if run is not None and run.last_event is not None:
                self._try([noted_of(run)], [change_of(run.last_event)])

    def deleted(self, run_id: str) -> None:
        """Note that the log of a run was deleted."""
        self._try([Noted(run_id, "gone", time.time_ns() // 1_000_000)], [deletion_of(run_id)])

    def note(self, noted: Sequence[Noted], change: Callable[[str], NewEvent | None]) -> None:
        """Note what was found of some runs, and tell of those for which it is news.

        `change` returns the entry for the log of changes, or None. The index is written last: after
        a crash in between, the census tells it again. It does so one by one: what the log of
        changes has is not entered twice. Raises StoreUnavailable.
        """
        news = zip(noted, self.index.ask(noted), strict=True)
        for each, is_news in news:
            if is_news and (told := change(each.run_id)) is not None:
                self._tell([told])
        self.index.note(noted)

    def page(
        self,
        *,
        state: Literal["active", "ended"] | None = None,
        prefix: str = "",
        after: Place | None = None,
        limit: int = 100,
        allowed: Callable[[str], bool] = lambda run_id: True,
    ) -> RunsPage:
        """Return up to `limit` runs behind a place, the latest activity first.

        A page may be shorter before the end: it looks at about MAX_SCANNED_RUNS of the index, and
        into about MAX_LOGS logs. Raises StoreUnavailable.
        """
        unavailable: list[str] = []
        places = self.index.places(state, after)
        place, last = next(places, None), after
        found: list[tuple[Place, Run]] = []
        scanned = logs = 0
        while place is not None and len(found) <= limit:
            is_enough = scanned >= MAX_SCANNED_RUNS or logs >= MAX_LOGS
            if is_enough and last is not None and place.score != last.score:
                return RunsPage([run for _, run in found], last.behind, unavailable)
            chosen: list[Place] = []
            while place is not None and len(chosen) < max(MAX_DESCRIBED, limit - len(found)):
                if scanned >= MAX_SCANNED_RUNS and last is not None and place.score != last.score:
                    break
                scanned, last = scanned + 1, place
                if place.run_id.startswith(prefix) and allowed(place.run_id):
                    chosen.append(place)
                place = next(places, None)
            logs += len(chosen)
            runs = self._reader.describe([each.run_id for each in chosen])
            for each, run in zip(chosen, runs, strict=True):
                if isinstance(run, StoreUnavailable):
                    unavailable.append(each.run_id)
                elif run is not None and state in (None, _state(run.log.ended)):
                    found.append((each, run))
        is_whole = len(found) <= limit and place is None
        del found[limit:]
        following = None if is_whole else found[-1][0]
        return RunsPage([run for _, run in found], following, unavailable)

    def _try(self, noted: Sequence[Noted], changes: Sequence[NewEvent]) -> None:
        """Note and tell, now or later: what was appended is stored in any case."""
        notes = Notes(noted, changes)
        if self._is_apart:
            self._late.write(notes)
            return
        if self._late.are_waiting:
            self._late.add(notes)
            return
        try:
            self._write(notes)
        except StreamingError as error:
            log.warning("the index of runs cannot be written now: %s", error)
            if isinstance(error, StoreUnavailable):
                self._late.add(notes)

    def _write(self, notes: Notes) -> None:
        """Tell and note. What was told is taken out of the notes, so that nobody repeats it."""
        while notes.changes:
            self._tell(notes.changes[:MAX_EVENTS])
            del notes.changes[:MAX_EVENTS]
        self.index.note(notes.noted)

    def _tell(self, changes: list[NewEvent]) -> None:
        """Enter changes in their log; a repeat after a lost reply enters nothing."""
        self._writer.append(Append(CHANGES, changes, key_of(changes)))


def noted_of(run: Run) -> Noted:
    """Return what a run's log says of it."""
    return Noted(run.run_id, _state(run.log.ended), run.log.last_id.ms)


def _state(has_ended: bool) -> Literal["active", "ended"]:
    return "ended" if has_ended else "active"


def _telling(append: Append, appended: Appended) -> list[Event]:
    """Return the events of an append that tell something of the run as a whole."""
    if appended.repeated:
        return []
    first = appended.first_id
    return [
        new_event.as_stored(
            append.run_id,
            appended._replace(
                first_id=EventId(first.ms, first.n + number),
                first_sequence=appended.first_sequence + number,
            ),
        )
        for number, new_event in enumerate(append.new_events)
        if new_event.category == LIFECYCLE or appended.first_sequence + number == 1
    ]
