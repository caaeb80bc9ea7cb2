"""The check of a follower's record, which the schedules and the chaos suite share."""

import asyncio

import pytest

from app.streaming.event_id import ZERO, EventId
from tests.schedules.contract import Contract
from tests.schedules.history import Change, History
from tests.schedules.record import Control, Delivered, Item, Opened, Record, Refused, Selection
from tests.schedules.schedule import settle


class Story:
    """A run's changes and one follower's items, in order, at the moments 1, 2, 3 …"""

    def __init__(self, selection: Selection = Selection()):  # noqa: B008
        self.history = History()
        self.record = Record("follower", selection)
        self._moment = 0

    @property
    def misses(self) -> list[str]:
        contract = Contract(self.history, self.record)
        contract.finish()
        return [what.partition(":")[0] for _, what in contract.misses]

    def add(self, *numbers: int, category: str = "tool", action: str = "called") -> "Story":
        """Add entries; number N of log L has the id L-N."""
        with self._change() as change:
            for number in numbers:
                log = len(self.history.logs) + (self.history.log is None)
                event_id = EventId(log, number + 1)
                self.history.add(change, event_id, number, number + 1, category, action)
        return self

    def remove(self, *numbers: int) -> "Story":
        with self._change() as change:
            self.history.remove(change, [self.history.entries[number] for number in numbers])
        return self

    def delete(self) -> "Story":
        with self._change() as change:
            self.history.take_away(change)
        return self

    def asks(self, start: str = "earliest") -> "Story":
        return self._note(Opened(self._next(), start, "directly"))

    def gets(self, *numbers: int) -> "Story":
        for number in numbers:
            entry = self.history.entries[number]
            self._note(Delivered(self._next(), entry.id, number, entry.sequence))
        return self

    def caught_up(self, ms: int = 0, n: int = 0) -> "Story":
        return self._note(Control(self._next(), "caught_up", EventId(ms, n), "earliest"))

    def progress(self, ms: int, n: int) -> "Story":
        return self._note(Control(self._next(), "progress", EventId(ms, n), None))

    def told(self, action: str, requested: str) -> "Story":
        return self._note(Control(self._next(), action, None, requested))

    def refused(self, status: int) -> "Story":
        return self._note(Refused(self._next(), status))

    def _note(self, item: Item) -> "Story":
        self.record.items.append(item)
        return self

    def _next(self) -> float:
        self._moment += 1
        return float(self._moment)

    def _change(self) -> "_Moment":
        return _Moment(self.history, Change("", self._next()), self._next())


class _Moment:
    def __init__(self, history: History, change: Change, ended: float):
        self._history, self._change, self._ended = history, change, ended

    def __enter__(self) -> Change:
        return self._change

    def __exit__(self, *exc_info: object) -> None:
        self._history.done(self._change)
        self._change.ended = self._ended


def live(*numbers: int) -> Story:
    """A follower that has these entries of the first log."""
    return Story().add(*numbers).asks().gets(*numbers).caught_up(1, numbers[-1] + 1)


KEPT = [
    pytest.param(live(0, 1), id="all events"),
    pytest.param(live(0).add(1).gets(1), id="a live event"),
    pytest.param(live(0).add(1, 2).remove(1).told("gap", "1-1").gets(2), id="a gap is told"),
    pytest.param(live(0).add(1, 2).gets(1).remove(1).gets(2), id="removed once it was sent"),
    pytest.param(live(0).add(1).remove(1).told("gap", "1-1"), id="a gap at the end is told"),
    pytest.param(live(0).delete().told("reset", "1-1"), id="a reset is told"),
    pytest.param(live(0).delete().add(1).told("reset", "1-1").gets(1), id="then the new log"),
    pytest.param(Story().add(0, 1).remove(0).asks().gets(1).caught_up(1, 2), id="old hole"),
    pytest.param(Story().asks("latest").caught_up().add(0).gets(0), id="latest, no log"),
    pytest.param(Story().add(0).asks("latest").caught_up(1, 1), id="latest"),
    pytest.param(Story().add(0, 1).asks("tail=1").gets(1).caught_up(1, 2), id="tail"),
    pytest.param(live(0).asks("1-1").add(1).gets(1).caught_up(1, 2), id="resumed"),
    pytest.param(
        live(0).add(1).remove(1).told("gap", "1-1").asks("1-1").told("gap", "1-1").caught_up(1, 2),
        id="a gap is told again",
    ),
    pytest.param(
        live(0).delete().add(1).asks("1-1").told("reset", "1-1").gets(1).caught_up(2, 2),
        id="a reset is told to a client that resumes",
    ),
    pytest.param(
        live(0).add(1, action="completed", category="lifecycle").gets(1).asks("1-2").refused(204),
        id="nothing follows",
    ),
    pytest.param(
        Story(Selection("llm")).add(0).asks().caught_up(1, 1).remove(0).add(1, category="llm")
        .gets(1),
        id="what a filter drops may go",
    ),
]  # fmt: skip

BROKEN = [
    pytest.param(live(0).add(1, 2).gets(2), ["lost"], id="an event is left out"),
    pytest.param(live(0).add(1), ["not settled"], id="an event never comes"),
    pytest.param(live(0, 1).gets(1), ["doubled"], id="an event comes twice"),
    pytest.param(live(0, 1).gets(0), ["doubled", "not settled"], id="an event comes late"),
    pytest.param(live(0).add(1, 2).remove(1).gets(2), ["gap missed"], id="no gap"),
    pytest.param(
        live(0).add(1).remove(1), ["not settled"], id="no gap at the end",
    ),
    pytest.param(
        live(0).add(1).told("gap", "1-1").gets(1), ["gap without a cause"], id="a false gap"
    ),
    pytest.param(
        live(0).add(1, 2).told("gap", "1-1").remove(1).gets(2),
        ["gap without a cause", "gap missed"],
        id="a gap that came before the removal",
    ),
    pytest.param(live(0).delete().add(1).gets(1), ["reset missed"], id="no reset"),
    pytest.param(live(0).delete(), ["not settled"], id="no reset of a log that is not there"),
    pytest.param(
        live(0).delete().add(1).told("gap", "1-1").gets(1),
        ["gap without a cause", "reset missed"],
        id="a gap in place of a reset",
    ),
    pytest.param(
        live(0).told("reset", "1-1").gets(0), ["reset without a cause"], id="a false reset"
    ),
    pytest.param(
        live(0).delete().told("reset", "1-1").told("reset", "1-1"),
        ["reset without a cause"],
        id="two resets for one deletion",
    ),
    pytest.param(
        live(0).delete().told("reset", "1-1").gets(0), ["stale", "not settled"], id="the old log"
    ),
    pytest.param(
        Story().add(0, 1).asks("tail=1").gets(0, 1).caught_up(1, 2),
        ["doubled"],
        id="more than the tail",
    ),
    pytest.param(
        Story().add(0, 1).remove(0).asks().gets(0, 1).caught_up(1, 2), ["stale"], id="removed"
    ),
    pytest.param(
        live(0, 1).add(2, 3).remove(2).told("gap", "1-1").gets(3),
        ["wrong request"],
        id="a gap at another cursor",
    ),
    pytest.param(Story().add(0).asks().caught_up(1, 1), ["lost"], id="caught up without"),
    pytest.param(
        Story().add(0).asks().caught_up(), ["caught up too early", "not settled"], id="too early"
    ),
    pytest.param(
        live(0).asks("1-1").refused(204), ["204, but events follow", "not settled"], id="not ended"
    ),
    pytest.param(live(0).refused(409), ["409, but the key held no other type"], id="no other type"),
]  # fmt: skip


@pytest.mark.parametrize("story", KEPT)
def test_a_record_that_keeps_the_contract_has_no_miss(story):
    assert story.misses == []


@pytest.mark.parametrize(("story", "misses"), BROKEN)
def test_a_record_that_breaks_the_contract_has_a_miss(story, misses):
    assert story.misses == misses


def test_an_altered_event_is_a_miss():
    story = Story().add(0).asks()
    story.record.items.append(Delivered(100.0, EventId(1, 1), 0, 7))
    assert story.misses == ["altered"]


def test_a_client_before_any_log_is_at_zero():
    story = Story().asks().caught_up()
    assert story.misses == []
    assert story.record.items[-1].id == ZERO


@pytest.mark.parametrize(("is_told", "misses"), [(True, []), (False, ["reset missed"])])
def test_a_reset_that_becomes_due_when_all_was_settled_is_waited_for(is_told, misses):
    # Given a client that was sent nothing of the second log, which is gone too
    story = live(0).delete().add(1).told("reset", "1-1").remove(1).told("gap", "0-0").delete()
    contract = Contract(story.history, story.record)
    assert contract.settled()

    # When it gets the gateway's position there all the same, and the reset only later
    async def send() -> None:
        story.progress(2, 2)
        await asyncio.sleep(0.1)
        if is_told:
            story.told("reset", "2-2")

    async def play() -> None:
        sending = asyncio.create_task(send())
        await settle([contract], quiet=0.01, seconds=10.0 if is_told else 0.2)
        contract.finish()
        await sending

    asyncio.run(play())
    # Then it is not taken for missed, unless it never comes
    assert [what.removeprefix("not settled: ") for _, what in contract.misses] == misses
