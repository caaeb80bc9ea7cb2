"""The feeds of one reader: it publishes what was read of their logs, and checks the logs."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from ..backoff import backoff
from ..errors import NotALog, StoreUnavailable, copy_of
from ..event_store import EventStore
from ..log.log_state import NO_LOG, LogState
from ..log.position import Position
from ..log.redis_keys import log_key
from ..wire.frame_batch import batches_after
from .feed import Feed

READ_COUNT = 128

# Redis says nothing of a log that was deleted, or replaced by a log with lower ids. So a reader
# checks its logs so often.
CHECK_SECONDS = 5.0

# So soon a log is looked for again that no node of a cluster serves, while others are served.
RETRY_SECONDS = 0.5

# The shortest time between two checks, for a lease that is about to run out.
MIN_CHECK_SECONDS = 0.25

INITIAL_BACKOFF_SECONDS = 0.1
MAX_BACKOFF_SECONDS = 2.0

log = logging.getLogger("tailrace.reader")


class FeedGroup:
    """Some feeds whose logs one reader reads.

    A feed whose position is not verified, whose key holds no stream, or that is looked up in the
    archive, is left out: the reader does not read its log meanwhile.

    Attributes:
        changes: how often the feeds that are not left out have changed.
        verified: `changes`, as it was when feeds were last verified.
        next_check: when the logs are to be checked, a monotonic time.
    """

    def __init__(self, store: EventStore, came_back: Callable[[], None]):
        """`came_back` is called when a feed is no longer looked up in the archive."""
        self.changes = self.verified = 0
        self.next_check = time.monotonic() + CHECK_SECONDS
        self._store = store
        self._came_back = came_back
        self._feeds: dict[bytes, Feed] = {}
        self._excluded: set[bytes] = set()
        # Their positions were read over another connection, so the log may be an older one now.
        self._unverified: set[Feed] = set()
        self._looked_up: dict[bytes, bool] = {}  # whether the feed is left out meanwhile
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._feeds)

    def add(self, feed: Feed) -> None:
        """Add a feed, to be verified."""
        with self._lock:
            self._feeds[feed_key(feed)] = feed
            self._unverified.add(feed)
            self.changes += 1

    def remove(self, feed: Feed) -> None:
        """Remove a feed."""
        key = feed_key(feed)
        with self._lock:
            self._feeds.pop(key, None)
            self._excluded.discard(key)
            self._unverified.discard(feed)
            self._looked_up.pop(key, None)
            self.changes += 1

    def remove_all(self) -> list[Feed]:
        """Remove all feeds, and return them."""
        with self._lock:
            feeds = list(self._feeds.values())
            self._feeds.clear()
            self._unverified.clear()
            self.changes += 1
        return feeds

    def feeds(self) -> list[Feed]:
        """Return all feeds."""
        with self._lock:
            return list(self._feeds.values())

    def readable(self) -> tuple[list[Feed], int]:
        """Return the feeds that are not left out, and `changes` as it was then."""
        with self._lock:
            left_out = {key for key, is_left_out in self._looked_up.items() if is_left_out}
            left_out |= self._excluded
            left_out |= {feed_key(feed) for feed in self._unverified}
            feeds = [feed for key, feed in self._feeds.items() if key not in left_out]
            return feeds, self.changes

    @property
    def must_verify(self) -> bool:
        """Whether feeds are to be verified now."""
        with self._lock:
            return bool(self._to_verify())

    def reconnected(self) -> None:
        """Verify all feeds, and check their logs, since the connection is another one."""
        with self._lock:
            self._unverified.update(self._feeds.values())
            self.changes += 1
        self.next_check = 0.0

    # Publishing

    def publish(self, feed: Feed, position: Position, entries: list[Any]) -> None:
        """Publish the entries that were read from a position, at most READ_COUNT of them.

        Most prove by themselves that they follow it. If they do not, entries are missing, or it is
        another log, or others than Tailrace wrote to it. Then the log is read anew in one step with
        its state, which tells. The caller then calls `flush` of the feed.
        """
        if feed.position is not position:
            return  # the feed moved between readers, and the other one has published this
        whole = len(entries) < READ_COUNT
        batches = batches_after(feed.run_id, position, entries)
        if batches:
            is_terminal = batches[-1].frames[-1].terminal
            for batch in batches:
                feed.publish(batch, is_terminal and whole and batch is batches[-1])
            if is_terminal and not whole:
                self.next_check = 0.0  # only the log tells whether the run ends there
            return
        self._read_anew(feed, position)

    def _read_anew(self, feed: Feed, position: Position) -> None:
        """Publish what the log and its state say."""
        # One more, for the entry at the position itself.
        entries, state = self._store.read_in_redis(feed.run_id, position.id, READ_COUNT + 1)
        if self._store.may_be_archived(feed.run_id, position, state):
            self._look_up(feed, left_out=True)
        else:
            _publish_read(feed, position, entries, state)

    # Verifying

    def _to_verify(self) -> list[Feed]:
        """Return the feeds that are to be verified now. Call it under the lock.

        A look-up in the archive may have read the log over a connection before the present one,
        and may still move the feed on. So its feed is verified after it.
        """
        return [feed for feed in self._unverified if feed_key(feed) not in self._looked_up]

    def verify(self) -> bool:
        """Look whether the logs still have the entries at the positions that are not verified.

        A feed stays unverified if nobody can tell of its log alone. Returns whether there are
        feeds again that nobody was asked about. Raises StoreUnavailable.
        """
        with self._lock:
            feeds, self.verified = self._to_verify(), self.changes
        if not feeds:
            return False
        seen = [(feed, feed.position) for feed in feeds]
        asked = [(feed, position) for feed, position in seen if position.is_entry]
        found = self._store.are_here([(feed.run_id, position) for feed, position in asked])
        unknown: set[Feed] = set()
        try:
            for (feed, position), is_here in zip(asked, found, strict=True):
                if isinstance(is_here, StoreUnavailable):
                    unknown.add(feed)
                    _raise_if_all(found)
                elif isinstance(is_here, NotALog):
                    self._exclude(feed, True)
                elif not is_here:
                    self._read_anew(feed, position)
        finally:
            for feed, _ in asked:
                feed.flush()
        with self._lock:
            self._unverified.difference_update(set(feeds) - unknown)
            self.changes += 1
            self.verified = self.changes
            came_meanwhile = not unknown.issuperset(self._to_verify())
        if unknown:
            self.retry_soon()
        return came_meanwhile

    def leave_out(self, feed: Feed) -> None:
        """Leave out a feed whose log no node of a cluster serves now, until the next check.

        `changes` stays, so that it is not verified at once, and read, again and again.
        """
        with self._lock:
            if self._feeds.get(feed_key(feed)) is feed:
                self._unverified.add(feed)
        self.retry_soon()

    def retry_soon(self) -> None:
        """Check and verify again soon, since nobody could tell of some logs."""
        self.next_check = min(self.next_check, time.monotonic() + RETRY_SECONDS)

    # Checking

    def check(self) -> list[Feed]:
        """Check whether every log is still there, the same one, a stream, and not ended.

        Returns the feeds whose logs have more than was read.
        """
        self.next_check = time.monotonic() + CHECK_SECONDS
        feeds = self.feeds()
        seen = [feed.position for feed in feeds]
        states = self._store.states([feed.run_id for feed in feeds]) if feeds else []
        behind: list[Feed] = []
        try:
            for feed, position, state in zip(feeds, seen, states, strict=True):
                if isinstance(state, StoreUnavailable):  # the next check tells
                    _raise_if_all(states)
                    continue
                self._exclude(feed, state is None)
                if state is not None and self._store.may_be_archived(feed.run_id, position, state):
                    self._look_up(feed, left_out=False)
                elif not feed.check(position, state or NO_LOG):
                    behind.append(feed)
                elif state is not None:
                    self._watch_lease(feed, state)
        finally:
            for feed in feeds:
                feed.flush()
        return behind

    def _look_up(self, feed: Feed, *, left_out: bool) -> None:
        """Ask the archive too what follows the feed's position.

        The storage may take its time, so that has a thread of its own. A feed whose log was read
        is left out until then: another read would return the same entries again.
        """
        key = feed_key(feed)
        with self._lock:
            if key in self._looked_up or key not in self._feeds:
                return
            self._looked_up[key] = left_out
            self.changes += 1
        name = "tailrace-archive-look-up"
        threading.Thread(target=self._finish_look_up, args=(feed,), name=name, daemon=True).start()

    def _finish_look_up(self, feed: Feed) -> None:
        key, pauses = feed_key(feed), backoff(INITIAL_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS)
        told = False
        try:
            while self._feeds.get(key) is feed:
                position = feed.position
                try:
                    if not feed.check(position, self._store.state(feed.run_id)):
                        read = self._store.read(feed.run_id, position.id, READ_COUNT + 1)
                        _publish_read(feed, position, *read)
                    feed.flush()
                    return
                except StoreUnavailable as error:
                    if not told:
                        told = True
                        log.warning("run %s is not followed now: %s", feed.run_id, error)
                    time.sleep(next(pauses))
        except NotALog:
            return  # the next check excludes it
        except Exception:
            log.exception("a look-up in the archive failed run=%s", feed.run_id)
        finally:
            with self._lock:
                was_left_out = self._looked_up.pop(key, False) or feed in self._unverified
                self.changes += 1
            if was_left_out:
                self._came_back()

    def _watch_lease(self, feed: Feed, state: LogState) -> None:
        """End a run that was silent for its whole lease, if this reader has watched all of it.

        The feed must have read the whole log.
        """
        if state.lease_seconds is None or state.end_id is None or state.ended:
            return
        leases = self._store.leases
        remaining = leases.remaining(feed.run_id, state.lease_seconds, feed.changed_at)
        if remaining > 0:
            soon = time.monotonic() + max(remaining, MIN_CHECK_SECONDS)
            self.next_check = min(self.next_check, soon)
            return
        try:
            self._store.mark_lost(feed.run_id, state.end_id, watched=True)
        except StoreUnavailable as error:  # the other feeds go on
            log.warning("run %s cannot be ended now: %s", feed.run_id, error)

    def _exclude(self, feed: Feed, excluded: bool) -> None:
        """Leave out a feed whose key holds no stream, or take it in again."""
        key = feed_key(feed)
        with self._lock:
            if not excluded and key in self._excluded:
                self._excluded.discard(key)
                if (current := self._feeds.get(key)) is not None:
                    self._unverified.add(current)
                self.changes += 1
            elif excluded and key in self._feeds and key not in self._excluded:
                self._excluded.add(key)
                self.changes += 1
                log.warning("run %s is not followed: its key holds no stream", feed.run_id)


def _raise_if_all(found: Sequence[object]) -> None:
    """Raise the first of some errors if all are: then it is the server that cannot serve."""
    errors = [each for each in found if isinstance(each, StoreUnavailable)]
    if len(errors) == len(found):
        raise copy_of(errors[0])


def feed_key(feed: Feed) -> bytes:
    """Return the key of a feed's log, as Redis returns it."""
    return log_key(feed.run_id).encode()


def _publish_read(feed: Feed, position: Position, entries: list[Any], state: LogState) -> None:
    """Publish up to READ_COUNT + 1 entries that were read from a position on, with the state."""
    for batch in feed.go_on(position, entries, state, whole=len(entries) <= READ_COUNT):
        feed.publish(batch, state.ended and batch.end == state.end)
