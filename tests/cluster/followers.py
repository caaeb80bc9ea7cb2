"""Followers of runs in this process: what the readers of a store publish, event by event."""

from collections import defaultdict
from typing import Self

from app.streaming.event_store import EventStore
from app.streaming.feeds.feed import Feed
from app.streaming.feeds.node_readers import NodeReaders
from app.streaming.wire.frame_batch import FrameBatch
from tests.servers import wait_until

# Readers look at all logs every 5 seconds, and then read them. A busy machine takes a while more.
MOST_SECONDS = 8.0

# After the restart of a node, or while another one takes its place.
FAILOVER_SECONDS = 30.0


class Followers:
    """Follows runs from the end of their logs on, as the streams of a gateway do.

    Attributes:
        sequences: the sequences of the events of each run, in the order in which they came.
        ids: their ids.
        notices: the gaps and resets of each run.
    """

    gets = "text/event-stream"

    def __init__(self, store: EventStore):
        self.sequences: defaultdict[str, list[int | None]] = defaultdict(list)
        self.ids: defaultdict[str, list[str]] = defaultdict(list)
        self.notices: defaultdict[str, list[str]] = defaultdict(list)
        self.store = store
        self.readers = NodeReaders(store)
        self._feeds: list[Feed] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for feed in self._feeds:
            self.readers.leave(feed, self)

    def follow(self, *run_ids: str) -> None:
        """Follow runs, and return when each of them is really followed."""
        for run_id in run_ids:
            feed = self.readers.join(run_id, self.store.state(run_id), self)
            feed.tap(_Tap(self, run_id))
            self._feeds.append(feed)
        first = {run_id: self.store.append(run_id, "llm", "stream").event for run_id in run_ids}
        for run_id, event in first.items():
            assert event.sequence is not None
            self.wait_for(run_id, event.sequence)

    def wake(self) -> None:
        """The taps get all that comes."""

    def wait_for(self, run_id: str, sequence: int, seconds: float = MOST_SECONDS) -> None:
        """Wait until the event with a sequence has come."""
        wait_until(lambda: sequence in self.sequences[run_id], f"{sequence} of {run_id}", seconds)


class _Tap:
    def __init__(self, followers: Followers, run_id: str):
        self._followers, self._run_id = followers, run_id

    def take(self, batch: FrameBatch) -> None:
        if batch.is_gap or batch.is_reset:
            self._followers.notices[self._run_id].append("gap" if batch.is_gap else "reset")
        else:
            self._followers.sequences[self._run_id] += [each.sequence for each in batch.frames]
            self._followers.ids[self._run_id] += [str(each.cursor) for each in batch.frames]

    def flush(self) -> None:
        """What was taken is noted."""
