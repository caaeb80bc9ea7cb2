"""The merged replay: the replays of several runs, whose steps it puts together into one stream."""

import math
import time
from collections.abc import Iterator, Mapping

from ..backoff import backoff
from ..errors import NotALog, StoreUnavailable
from ..event_id import ZERO
from ..feeds.fanout import Fanout, Sent
from ..feeds.feed import FeedSubscriber, Listener
from ..log.position import START, Position
from ..merged.batch import Gatherer, MergedBatch, MergedPosition
from ..merged.cursor import RunList
from ..wire.frame import Frame
from .replay import (
    INITIAL_RETRY_SECONDS,
    MAX_RETRY_SECONDS,
    UP_TO_DATE,
    Replay,
    ReplayStopped,
    Step,
    Wait,
)
from .standing import Lag, lag_of_all
from .start import Beginning, Start, find_each
from .subscriber import Services

# How many runs are named where a merged stream is logged.
MAX_NAMED = 3

# After so many runs that were left, others get their turn.
MAX_CLOSED_IN_A_ROW = 64

Steps = Iterator[MergedBatch | Wait]


class MergedReplay:
    """The histories of several runs, then their feeds, each without a gap or a double.

    Each run has a replay of its own, which sees to that. The runs take turns, and none waits for
    another. `position` is that of a client that has received every step, in all runs.
    """

    run_id = ""
    """Control events that are about the whole stream name no run."""

    def __init__(self, starts: Mapping[str, Start], services: Services):
        self.runs = RunList.of(starts)
        self._starts = {run_id: starts[run_id] for run_id in self.runs.run_ids}
        self._services = services
        self._parts = [
            _Part(self, number, Replay(run_id, start, services))
            for number, (run_id, start) in enumerate(self._starts.items())
        ]
        self._position = MergedPosition.of(self.runs, [START] * len(self._parts))
        self._gatherer = Gatherer(self._position)
        self._listener: Listener | None = None
        self._woken: set[_Part] = set()
        self._found = self._stopped = False
        self.began_at = self._position.id

    def __str__(self) -> str:
        named = self.runs.run_ids[:MAX_NAMED]
        more = len(self.runs.run_ids) - len(named)
        return ",".join([*named, f"+{more}"] if more else named)

    @property
    def run_ids(self) -> tuple[str, ...]:
        """The runs, in the order of their ids."""
        return self.runs.run_ids

    @property
    def position(self) -> MergedPosition:
        return self._position

    @position.setter
    def position(self, position: MergedPosition) -> None:
        self._position = self._gatherer.position = position
        for part, its in zip(self._parts, position.positions, strict=True):
            part.replay.position = its

    def lag_of(self, position: MergedPosition) -> Lag:
        """Return how far a client at a position is behind the newest events of all feeds."""
        pairs = zip(self._parts, position.positions, strict=True)
        return lag_of_all(part.replay.lag_of(each) for part, each in pairs)

    def nothing_follows(self) -> bool:
        """Read the logs, and return whether the stream would end without an event or a notice.

        Raises NotALog and StoreUnavailable.
        """
        found = find_each(self._services.store, self._starts)
        for part, each in zip(self._parts, found, strict=True):
            if isinstance(each, NotALog | StoreUnavailable):
                # It waits for a log. Until then its client is where it has asked to start.
                start = self._starts[part.replay.run_id]
                part.replay.position = Position(b"", start.id or ZERO, None)
            else:
                part.replay.begin_at(each)
        self._found = True
        for each in found:
            if isinstance(each, NotALog | StoreUnavailable):
                raise each
        return all(isinstance(each, Beginning) and each.nothing_follows for each in found)

    def run(self, listener: Listener) -> Steps:
        """Yield the steps from the starts until all runs have ended; raises ReplayStopped."""
        self._listener = listener
        yield from self._find()
        # Every cursor says from now on where the client is in every run.
        self._gatherer.position = self._moved()
        self.began_at = self._position.id
        for part in self._parts:
            part.steps = part.replay.run(part)
        yield from self._steps()

    def follow(self) -> Steps:
        """Yield the steps from the position until all runs have ended; raises ReplayStopped."""
        for part in self._parts:
            part.go_on()
        yield from self._steps()

    def wake(self, part: "_Part") -> None:
        """Look at the feed of a run again."""
        self._woken.add(part)
        if self._listener is not None:
            self._listener.wake()

    def stop(self) -> None:
        """Make the generators raise ReplayStopped before they look at a feed or log again."""
        self._stopped = True

    def release(self) -> None:
        """Forget what was read ahead, while a client is slow."""
        for part in self._parts:
            part.replay.release()

    def park(self, subscriber: FeedSubscriber) -> Fanout | None:
        """Park a subscriber at its position, if it is up to date with all runs."""
        feeds = [part.replay.feed for part in self._parts]
        fanout = self._services.merged_feeds.park(subscriber, self.runs, feeds)
        if fanout is not None:
            for part in self._parts:
                part.replay.feed.mute(part)
                part.steps = None
        return fanout

    def unpark(self, subscriber: FeedSubscriber, fanout: Fanout) -> Sent:
        """Take a subscriber out of its fanout; return how much it got there."""
        for part in self._parts:
            part.replay.feed.unmute(part)
        return self._services.merged_feeds.unpark(subscriber, self.runs, fanout)

    def close(self, listener: Listener) -> None:
        """Stop, and leave the feeds; safe to repeat."""
        self.stop()
        for number, part in enumerate(self._parts, 1):
            part.replay.close(part)
            if number % MAX_CLOSED_IN_A_ROW == 0:
                time.sleep(0)

    def _find(self) -> Steps:
        pauses = backoff(INITIAL_RETRY_SECONDS, MAX_RETRY_SECONDS)
        while not self._found:
            if self._stopped:
                raise ReplayStopped
            try:
                self.nothing_follows()
            except NotALog:
                return  # the others need not wait for it
            except StoreUnavailable:
                if self._found:  # of some runs only
                    return
                yield Wait(time.monotonic() + next(pauses))

    def _steps(self) -> Steps:
        while True:
            if self._stopped:
                raise ReplayStopped
            due = self._due()
            for part in due:
                self._advance(part)
                if self._gatherer.is_full:
                    yield self._gatherer.take(self._moved())
                if self._stopped:
                    raise ReplayStopped
            if not self._gatherer.is_empty:
                yield self._gatherer.take(self._moved())
            elif not due:
                if all(part.has_ended for part in self._parts):
                    return
                self._gatherer.position = self._moved()
                until = min(part.until for part in self._parts)
                yield UP_TO_DATE if until == math.inf else Wait(until)

    def _due(self) -> "list[_Part]":
        """Return the runs that may have something to send."""
        now = time.monotonic()
        while self._woken:  # one by one: readers add more meanwhile
            self._woken.pop().until = 0.0
        return [part for part in self._parts if part.until <= now]

    def _advance(self, part: "_Part") -> None:
        """Gather what a run has, until it has to wait, or the others get their turn."""
        steps = part.steps = part.steps or part.replay.follow()
        part.has_ended = False
        while not self._gatherer.is_full:
            step = next(steps, None)
            if step is None:
                part.steps, part.has_ended, part.until = None, True, math.inf
                return
            if isinstance(step, Wait):
                part.until = step.until
                return
            if isinstance(step, Frame):
                self._gatherer.add_control(part.number, step, part.replay.position)
            else:
                self._gatherer.add(part.number, step)

    def _moved(self) -> MergedPosition:
        self._position = self._reached()
        return self._position

    def _reached(self) -> MergedPosition:
        return MergedPosition.of(self.runs, [part.replay.position for part in self._parts])


class _Part:
    """One run of a merged replay.

    Attributes:
        number: its place in the list of runs.
        steps: those of its replay, None to follow it from its position.
        until: the monotonic time at which it is due, inf for when its feed wakes it.
        has_ended: whether its run had ended when it was last looked at.
    """

    gets = "merged"

    __slots__ = ("_merged", "has_ended", "number", "replay", "steps", "until")

    def __init__(self, merged: MergedReplay, number: int, replay: Replay):
        self._merged = merged
        self.number = number
        self.replay = replay
        self.steps: Iterator[Step] | None = None
        self.until = 0.0
        self.has_ended = False

    def go_on(self) -> None:
        """Follow it from its position. If it is up to date, nothing is due before it is woken."""
        feed = self.replay.feed
        is_up_to_date = feed.is_at(self.replay.position)
        self.steps = None
        self.until = math.inf if is_up_to_date else 0.0
        self.has_ended = is_up_to_date and feed.ended

    def wake(self) -> None:
        """Look at the feed again: it has moved on, or has ended."""
        self._merged.wake(self)
