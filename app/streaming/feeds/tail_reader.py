"""The reader: it follows a group of logs with one blocking XREAD, and publishes what they get."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from ...metrics.catalog import READER_FAILURES
from ..backoff import Pace, backoff
from ..errors import NotALog, StoreUnavailable
from ..event_store import EventStore
from ..log.log_state import NO_LOG, LogState
from ..log.position import Position
from ..log.replies import parse_streams
from ..redis.connection import (
    RedisConnection,
    checked,
    exchange,
    exchange_packed,
    translated_errors,
)
from ..redis.sentinel import leads_to_master
from ..wire.frame_batch import batches_after
from .feed import Feed
from .group_read import GroupRead, feed_key

READ_COUNT = 128

# A blocking XREAD stays silent for ever on a log that was deleted, or replaced by a log with
# lower ids. So it blocks for this long at most, and then the reader checks the logs.
CHECK_SECONDS = 5.0
REPLY_TIMEOUT_SECONDS = 5.0

# The shortest time between two checks, for a lease that is about to run out.
MIN_CHECK_SECONDS = 0.25

# Where the server forbids CLIENT UNBLOCK, an XREAD blocks for this long at most.
SHORT_BLOCK_SECONDS = 0.1

INITIAL_BACKOFF_SECONDS = 0.1
MAX_BACKOFF_SECONDS = 2.0

log = logging.getLogger("tailrace.reader")


class TailReader:
    """A thread with a connection that follows one group of feeds.

    The reader survives every failure of Redis. It reconnects and goes on from the feeds'
    positions. A key that holds no stream is taken out of the group until it does.
    """

    def __init__(
        self, store: EventStore, wake: Callable[["TailReader"], None] = lambda reader: None
    ):
        """`wake` interrupts the XREAD in progress, if the reader says that it should."""
        self._store = store
        self._wake = wake
        self._availability = store.leases.availability
        self._pace = Pace()
        self._feeds: dict[bytes, Feed] = {}
        self._excluded: set[bytes] = set()
        # Their positions were read over another connection, so the log may be an older one now.
        self._unverified: set[Feed] = set()
        self._looked_up: dict[bytes, bool] = {}  # whether the feed is in the group meanwhile
        self._lock = threading.Lock()
        self._link: RedisConnection | None = None
        self._closed = False
        self._group: GroupRead | None = None
        self._next_check = time.monotonic() + CHECK_SECONDS
        self._failures = 0
        self._pauses = backoff(INITIAL_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS)
        self._stale = False  # the feeds have changed since the XREAD in progress was sent
        self._client_id: int | None = None
        self.blocked_client: int | None = None  # the client id to unblock, while there is one
        threading.Thread(target=self._run, name="tailrace-reader", daemon=True).start()

    def __len__(self) -> int:
        return len(self._feeds)

    def add(self, feed: Feed) -> None:
        """Follow a feed too; the XREAD in progress must be woken."""
        with self._lock:
            self._feeds[feed_key(feed)] = feed
            self._unverified.add(feed)
            self._stale = True

    def check_now(self) -> None:
        """Check the logs, and read the positions again, before the next XREAD."""
        self._next_check = 0.0
        self._stale = True

    def remove(self, feed: Feed) -> None:
        """Stop following a feed."""
        with self._lock:
            self._feeds.pop(feed_key(feed), None)
            self._excluded.discard(feed_key(feed))
            self._unverified.discard(feed)
            self._looked_up.pop(feed_key(feed), None)
            self._group = None

    def remove_all(self) -> list[Feed]:
        """Close, and return the feeds, for other readers to follow."""
        with self._lock:
            feeds = list(self._feeds.values())
            self._feeds.clear()
            self._unverified.clear()
        self.close()
        return feeds

    def close(self) -> None:
        """End the thread after the XREAD in progress."""
        self._closed = True

    def should_wake(self) -> bool:
        """Return whether the XREAD in progress, or about to be sent, is out of date."""
        return self._link is not None and (self._stale or self._closed)

    def _run(self) -> None:
        while not self._closed:
            try:
                self._read()
            except StoreUnavailable as error:
                self._back_off(error)
            except NotALog:
                self._next_check = 0.0
            except Exception as error:
                log.exception("reader failed; trying again")
                self._back_off(error)
            else:
                self._recover()
        self._disconnect()

    def _read(self) -> None:
        """Wait until the logs have new entries, publish them, and rest."""
        link = self._link or self._connect()
        if not leads_to_master(link):
            raise StoreUnavailable("another server is the master now")
        if time.monotonic() >= self._next_check:
            self._check()
        if self._unverified:
            self._verify()
        group = self._current_group()
        if self._closed or not group:
            time.sleep(SHORT_BLOCK_SECONDS)
            return
        reply = self._wait_for_entries(link, group)
        if reply:
            self._publish_all(group, reply)

    def _current_group(self) -> GroupRead:
        with self._lock:
            if self._stale or self._group is None:
                self._stale = bool(self._to_verify())  # some were added since the others were
                left_out = {key for key, in_group in self._looked_up.items() if not in_group}
                left_out |= self._excluded
                left_out |= {feed_key(feed) for feed in self._unverified}
                in_group = (feed for key, feed in self._feeds.items() if key not in left_out)
                self._group = GroupRead(in_group, READ_COUNT)
            return self._group

    def _wait_for_entries(self, link: RedisConnection, group: GroupRead) -> Any:
        max_block = SHORT_BLOCK_SECONDS if self._client_id is None else CHECK_SECONDS
        block = max(0.001, min(max_block, self._next_check - time.monotonic()))
        packed = group.pack(int(block * 1000) or 1)
        self.blocked_client, sent_at = self._client_id, time.monotonic()
        try:
            with translated_errors():
                return checked(exchange_packed(link, packed, 1)[0])
        finally:
            self.blocked_client = None
            self._availability.replied(time.monotonic() - sent_at - block)

    def _publish_all(self, group: GroupRead, reply: Any) -> None:
        """Publish what an XREAD returned, and rest unless there is more."""
        truncated, began, published = False, time.monotonic(), []
        try:
            for key, entries in parse_streams(reply):
                if not entries:  # Redis 7.0 wakes for entries deleted in the same transaction
                    continue
                feed, position = group.origin(key)
                published.append(feed)
                self._publish(feed, position, entries)
                truncated |= len(entries) == READ_COUNT
        finally:
            for feed in published:
                feed.flush()
        if truncated:
            time.sleep(0)
        else:
            self._pace.rest(began)

    def _publish(self, feed: Feed, position: Position, entries: list[Any]) -> None:
        """Publish the entries that were read from a position.

        Most prove by themselves that they follow it. If they do not, entries are missing, or it is
        another log, or others than Tailrace wrote to it. Then the log is read anew in one step with
        its state, which tells.
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
                self._next_check = 0.0  # only the log tells whether the run ends there
            return
        self._read_anew(feed, position)

    def _read_anew(self, feed: Feed, position: Position) -> None:
        """Publish what the log and its state say."""
        # One more, for the entry at the position itself.
        entries, state = self._store.read_in_redis(feed.run_id, position.id, READ_COUNT + 1)
        if self._store.may_be_archived(feed.run_id, position, state):
            self._look_up(feed, in_group=False)
        else:
            _publish_read(feed, position, entries, state)

    def _to_verify(self) -> list[Feed]:
        """Return the feeds that are to be verified now. Call it under the lock.

        A look-up in the archive may have read the log over a connection before the present one,
        and may still move the feed on. So its feed is verified after it.
        """
        return [feed for feed in self._unverified if feed_key(feed) not in self._looked_up]

    def _verify(self) -> None:
        """Look whether the logs still have the entries at the positions that are not verified."""
        with self._lock:
            feeds = self._to_verify()
        if not feeds:
            return
        seen = [(feed, feed.position) for feed in feeds]
        asked = [(feed, position) for feed, position in seen if position.is_entry]
        found = self._store.are_here([(feed.run_id, position) for feed, position in asked])
        try:
            for (feed, position), is_here in zip(asked, found, strict=True):
                if isinstance(is_here, NotALog):
                    self._exclude(feed, True)
                elif not is_here:
                    self._read_anew(feed, position)
        finally:
            for feed, _ in asked:
                feed.flush()
        with self._lock:
            self._unverified.difference_update(feeds)
            self._group = None

    def _check(self) -> None:
        """Check whether every log is still there, the same one, a stream, and not ended."""
        self._next_check = time.monotonic() + CHECK_SECONDS
        with self._lock:
            feeds = list(self._feeds.values())
        seen = [feed.position for feed in feeds]
        states = self._store.states([feed.run_id for feed in feeds]) if feeds else []
        try:
            for feed, position, state in zip(feeds, seen, states, strict=True):
                self._exclude(feed, state is None)
                if state is not None and self._store.may_be_archived(feed.run_id, position, state):
                    self._look_up(feed, in_group=True)
                elif feed.check(position, state or NO_LOG) and state is not None:
                    self._watch_lease(feed, state)
        finally:
            for feed in feeds:
                feed.flush()

    def _look_up(self, feed: Feed, *, in_group: bool) -> None:
        """Ask the archive too what follows the feed's position.

        The storage may take its time, so that has a thread of its own. Unless `in_group`, the feed
        is not in the group until then: an XREAD would return the same entries again.
        """
        key = feed_key(feed)
        with self._lock:
            if key in self._looked_up or key not in self._feeds:
                return
            self._looked_up[key] = in_group
            self._group = None
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
            return  # the next check takes it out of the group
        except Exception:
            log.exception("a look-up in the archive failed run=%s", feed.run_id)
        finally:
            with self._lock:
                was_left_out = not self._looked_up.pop(key, True) or feed in self._unverified
                self._group = None
            if was_left_out:
                self._stale = True
                self._wake(self)

    def _watch_lease(self, feed: Feed, state: LogState) -> None:
        """End a run that was silent for its whole lease, if this reader has watched all of it.

        The feed must have read the whole log.
        """
        if state.lease_seconds is None or state.end_id is None or state.ended:
            return
        remaining = self._store.leases.remaining(state.lease_seconds, feed.changed_at)
        if remaining > 0:
            soon = time.monotonic() + max(remaining, MIN_CHECK_SECONDS)
            self._next_check = min(self._next_check, soon)
            return
        try:
            self._store.mark_lost(feed.run_id, state.end_id, watched=True)
        except StoreUnavailable as error:  # the other feeds go on
            log.warning("run %s cannot be ended now: %s", feed.run_id, error)

    def _exclude(self, feed: Feed, excluded: bool) -> None:
        """Take a feed whose key holds no stream out of the group, or put it back."""
        key = feed_key(feed)
        with self._lock:
            if not excluded and key in self._excluded:
                self._excluded.discard(key)
                if (current := self._feeds.get(key)) is not None:
                    self._unverified.add(current)
                self._group = None
            elif excluded and key in self._feeds and key not in self._excluded:
                self._excluded.add(key)
                self._group = None
                log.warning("run %s is not followed: its key holds no stream", feed.run_id)

    def _connect(self) -> RedisConnection:
        with translated_errors():
            link = self._store.connect(CHECK_SECONDS + REPLY_TIMEOUT_SECONDS)
            # An exchange would connect too, but only `connect` asks the Sentinels for the master.
            link.connect()
            self._client_id = _unblockable(link)
        self._link = link
        self._next_check = 0.0
        with self._lock:
            self._unverified.update(self._feeds.values())
        if self._failures:
            self._availability.interrupted()
            self._store.release_idle()
            log.info("reader is connected again, after %d failures", self._failures)
        return link

    def _disconnect(self) -> None:
        if self._link is not None:
            self._link.disconnect()
            self._link = None

    def _back_off(self, error: Exception) -> None:
        self._disconnect()
        self._availability.interrupted()
        READER_FAILURES.add()
        if not self._failures:
            log.warning("reader lost Redis; trying again: %s", error)
        self._failures += 1
        time.sleep(next(self._pauses))

    def _recover(self) -> None:
        if self._failures:
            self._failures = 0
            self._pauses = backoff(INITIAL_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS)


def _publish_read(feed: Feed, position: Position, entries: list[Any], state: LogState) -> None:
    """Publish up to READ_COUNT + 1 entries that were read from a position on, with the state."""
    for batch in feed.go_on(position, entries, state, whole=len(entries) <= READ_COUNT):
        feed.publish(batch, state.ended and batch.end == state.end)


def _unblockable(link: RedisConnection) -> int | None:
    """Return the connection's client id, or None if the server forbids CLIENT ID or UNBLOCK."""
    [client_id] = exchange(link, ("CLIENT", "ID"))
    if not isinstance(client_id, int):
        return None
    [allowed] = exchange(link, ("CLIENT", "UNBLOCK", client_id))
    return client_id if isinstance(allowed, int) else None
