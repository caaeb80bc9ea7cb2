"""What failovers may lose: the end of each log of the shard, and nothing else.

A replica has the writes of its master in their order. So if it lacks an event, it lacks all that
the master appended to the run after it. What is in the log after a lost event must be of the new
master: it is not older than the moment at which the failover began.
"""

import time
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from app.streaming.event_id import EventId
from tests.chaos.cluster import slot_of
from tests.chaos.producers import Entry


def now_ms() -> int:
    """Return the time as in the ids of events, in milliseconds."""
    return int(time.time() * 1000)


@dataclass(frozen=True)
class Failover:
    """A replica became the master of some slots.

    Times are in milliseconds: before `began` the new master has appended nothing, and since
    `ended` the former one has appended nothing.
    """

    slots: frozenset[int]
    began: int
    ended: int


@dataclass
class Failovers:
    """The failovers of a storm that may have lost events. A single server has none.

    Attributes:
        acknowledged_too: whether those may be lost that were acknowledged. Others may be anyway,
            which followers may have seen before.
        found: those that the storm caused.
        unplanned: those that nobody asked for, since a node was slow.
    """

    acknowledged_too: bool = False
    found: list[Failover] = field(default_factory=list)
    unplanned: list[Failover] = field(default_factory=list)

    def of(self, run: str) -> list[Failover]:
        """Return the failovers of the slot of a run."""
        slot = slot_of(run)
        return [each for each in (*self.found, *self.unplanned) if slot in each.slots]

    def explain(self, run: str, lost: Entry, made: int, log: Sequence[Entry]) -> bool:
        """Return whether a failover may have lost an event that the log of its run lacks.

        `made` is when its producer had it first, in milliseconds.
        """
        later = _next_after(lost, log)
        appended = EventId.parse(lost.id).ms if lost.id else made
        return any(
            appended <= each.ended and (later is None or later.ms >= each.began)
            for each in self.of(run)
        )


def _next_after(lost: Entry, log: Sequence[Entry]) -> EventId | None:
    """Return what came after an event; without its id, the next that its producer appended."""
    if lost.id:
        at = bisect_right(log, EventId.parse(lost.id), key=_id_of)
        return _id_of(log[at]) if at < len(log) else None
    later = (e for e in log if e.producer == lost.producer and e.number > lost.number)
    return next(map(_id_of, later), None)


def _id_of(entry: Entry) -> EventId:
    return EventId.parse(str(entry.id))
