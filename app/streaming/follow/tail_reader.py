"""The reader: it loops on one blocking XREAD for a group of feeds.

One XREAD per viewer is what makes gateways collapse; here viewers cost Redis nothing.
"""

import logging
import random
import threading
import time

from redis.connection import Connection

from ..errors import NotALog, StoreUnavailable
from ..event_id import ZERO, EventId
from ..event_store import EventStore
from ..log.connection import checked, exchange, exchange_packed, translated_errors
from ..log.log_state import LogState
from ..log.replies import parse_streams
from ..log.sentinel import leads_to_master
from ..log.shared_connection import MAX_REPLY_DELAY_SECONDS
from ..wire.formats import FrameBatch
from ..wire.frame import Frame, frames_from
from .feed import Feed
from .group_read import GroupRead, feed_key

GROUP_SIZE = 64
READ_COUNT = 256

# A blocked XREAD stays silent for ever on a log that is deleted or begun anew with lower
# ids, so it is cut off and the logs are looked at this often.
CHECK_SECONDS = 5.0
REPLY_TIMEOUT_SECONDS = 5.0

# Sooner than that no look follows another, for a lease that is about to run out.
MIN_CHECK_SECONDS = 0.25

# Where the server forbids CLIENT UNBLOCK, a reader looks up by itself this often.
SHORT_BLOCK_SECONDS = 0.1

# A pause lasts so many times what the delivery before it took, within a bound in seconds.
PAUSE_SHARE = 6.0
MAX_PAUSE_SECONDS = 0.05

MAX_BACKOFF_SECONDS = 2.0

log = logging.getLogger("tailrace.reader")


class TailReader:
    """One group of feeds, with a connection of its own and a thread that follows them.

    The reader survives everything that Redis does: it reconnects, goes on from the feeds'
    positions, and puts a key of the wrong type out of its group for as long as it is one.
    """

    def __init__(self, store: EventStore, flush_seconds: float):
        self._store = store
        self._flush_seconds = flush_seconds
        self._feeds: dict[bytes, Feed] = {}
        self._excluded: set[bytes] = set()
        self._lock = threading.Lock()
        self._link = None
        self._closed = False
        self._group: GroupRead | None = None
        self._next_check = time.monotonic() + CHECK_SECONDS
        self._connected_at = 0.0
        self._failures = 0
        self._stale = False  # feeds joined since the XREAD under way was sent
        self._client_id: int | None = None
        self.blocked_client: int | None = None  # whom to unblock, while there is one to
        threading.Thread(target=self._run, name="tailrace-reader", daemon=True).start()

    def __len__(self) -> int:
        return len(self._feeds)

    def add(self, feed: Feed) -> None:
        with self._lock:
            self._feeds[feed_key(feed)] = feed
            self._stale = True

    def look_again(self) -> None:
        """Have the logs looked at now, and the marks read again."""
        self._next_check = 0.0
        self._stale = True

    def remove(self, feed: Feed) -> None:
        with self._lock:
            self._feeds.pop(feed_key(feed), None)
            self._excluded.discard(feed_key(feed))
            self._group = None

    def take_all(self) -> list[Feed]:
        """Give away all feeds, to be added to other readers, and close."""
        with self._lock:
            feeds = list(self._feeds.values())
            self._feeds.clear()
        self.close()
        return feeds

    def close(self) -> None:
        self._closed = True

    def should_wake(self) -> bool:
        """Whether its XREAD, or the one it is about to send, is out of date."""
        return self._link is not None and (self._stale or self._closed)

    def _run(self) -> None:
        while not self._closed:
            try:
                self._read()
                self._failures = 0
            except StoreUnavailable as error:
                self._back_off(error)
            except NotALog:
                self._next_check = 0.0
            except Exception as error:
                log.exception("reader failed, and goes on")
                self._back_off(error)
        self._disconnect()

    def _read(self) -> None:
        if self._link is None:
            self._connect()
        if not leads_to_master(self._link):
            raise StoreUnavailable("another server is the master now")
        if time.monotonic() >= self._next_check:
            self._check()
        group = self._current_group()
        if self._closed or not group:
            time.sleep(SHORT_BLOCK_SECONDS)
            return
        reply = self._wait_for_entries(group)
        truncated, most, began = False, 0, time.monotonic()
        for key, entries in parse_streams(reply):
            if not entries:  # Redis 7.0 wakes for what was deleted in the same transaction
                continue
            feed, mark = group.asked(key)
            cut = len(entries) == READ_COUNT
            self._publish(feed, mark, frames_from(feed.run_id, entries), cut)
            truncated |= cut
            most = max(most, len(entries))
        if reply:
            outrun = time.monotonic() - began if most > 1 else 0.0
            pause = self._pause(outrun, len(group))
            # To the next whole multiple, so that all readers of the machine ask at once: Redis
            # and this worker then wake once for all of them.
            time.sleep(0 if truncated or not pause else pause - time.monotonic() % pause)

    def _current_group(self) -> GroupRead:
        with self._lock:
            if self._stale or self._group is None:
                self._stale = False
                in_group = (f for key, f in self._feeds.items() if key not in self._excluded)
                self._group = GroupRead(in_group, READ_COUNT)
            return self._group

    def _pause(self, outrun: float, keys: int) -> float:
        """How long to let events gather that are then read and delivered together.

        At least the flush interval, and up to three times that in a full group, since each
        XREAD costs what it has keys. Where a delivery took `outrun` seconds and events came faster
        than that, so long that most of the time is left for others: a thousand viewers then
        get fewer and larger writes.
        """
        flush = self._flush_seconds * (1 + 2 * keys / GROUP_SIZE)
        return max(flush, min(PAUSE_SHARE * outrun, MAX_PAUSE_SECONDS))

    def _wait_for_entries(self, group: GroupRead):
        longest = SHORT_BLOCK_SECONDS if self._client_id is None else CHECK_SECONDS
        left = max(0.001, min(longest, self._next_check - time.monotonic()))
        packed = group.pack(int(left * 1000) or 1)
        self.blocked_client, sent = self._client_id, time.monotonic()
        try:
            with translated_errors():
                return checked(exchange_packed(self._link, packed, 1)[0])
        finally:
            self.blocked_client = None
            if time.monotonic() - sent > left + MAX_REPLY_DELAY_SECONDS:
                self._connected_at = time.monotonic()  # it was none, whatever it looked like

    def _publish(
        self, feed: Feed, mark: tuple[int, EventId], found: list[Frame], truncated: bool
    ) -> None:
        epoch, position = mark
        gap, added, sequence = [], feed.added, feed.sequence
        if feed.mark() is not mark:
            return  # it moved between readers, and another one has published this
        if found[-1].sequence != sequence + len(found):
            # Trimmed or deleted before it was read, or another log; or what others wrote,
            # which is fine.
            state = self._store.state(feed.run_id)
            continuity = state.continuity(position, added + len(found))
            if continuity == "reset" or self._store.is_missing(feed.run_id, position):
                feed.reset(epoch)
                return
            if continuity == "gap":
                told, before = state.control_data(str(position)), found[0].position.before()
                gap = [Frame.control(feed.run_id, "gap", told, position=before)]
        last = found[-1]
        batch = FrameBatch(position, gap + found)
        read = sequence + len(found) if last.sequence is None else last.sequence
        feed.publish(epoch, batch, read, ended=last.terminal and not truncated)
        if last.terminal and truncated:
            self._next_check = 0.0  # whether the run ends there, only the log knows

    def _check(self) -> None:
        """Look at every log: is it still there, still the same, still a stream, ended?"""
        self._next_check = time.monotonic() + CHECK_SECONDS
        with self._lock:
            feeds = list(self._feeds.values())
        seen = [(*feed.mark(), feed.added) for feed in feeds]
        states = self._store.states([feed.run_id for feed in feeds]) if feeds else []
        for feed, (epoch, position, added), state in zip(feeds, seen, states, strict=True):
            self._exclude(feed, state is None)
            if state is None:
                if position > ZERO:
                    feed.reset(epoch)  # whatever was followed is there no more
                continue
            feed.note_deleted(state.deleted)
            continuity = state.continuity(position, added)
            if continuity == "reset":
                feed.reset(epoch)
            elif state.end_id is None or state.end_id <= position:  # nothing is left to read
                if continuity == "gap":  # what there was has been deleted unread
                    told = state.control_data(str(position))
                    gap = Frame.control(feed.run_id, "gap", told, position=state.last_id)
                    feed.publish(
                        epoch, FrameBatch(position, [gap]), state.last_sequence, state.ended
                    )
                    position = state.last_id
                feed.settle(position, state.last_sequence, state.ended)
                feed.forget()
                if state.lease_seconds is not None and not state.ended:
                    self._watch_lease(feed, state)

    def _watch_lease(self, feed: Feed, state: LogState) -> None:
        """End a run that was silent for its whole lease, all of which this reader has seen."""
        since = max(feed.changed_at, self._connected_at, self._store.last_refusal)
        due = since + state.lease_seconds
        now = time.monotonic()
        if now >= due:
            try:
                self._store.mark_lost(feed.run_id, state.end_id, watched=True)
            except StoreUnavailable as error:  # no reason to leave the other feeds
                log.warning("run %s cannot be ended now: %s", feed.run_id, error)
        else:
            soonest = now + MIN_CHECK_SECONDS
            self._next_check = min(self._next_check, max(due, soonest))

    def _exclude(self, feed: Feed, out: bool) -> None:
        """Put a feed whose key holds no log out of the group, or in again."""
        key = feed_key(feed)
        with self._lock:
            if not out and key in self._excluded:
                self._excluded.discard(key)
                self._group = None
            elif out and key in self._feeds and key not in self._excluded:
                self._excluded.add(key)
                self._group = None
                log.warning("run %s is put aside: its key holds no log", feed.run_id)

    def _connect(self) -> None:
        with translated_errors():
            link = self._store.connect(CHECK_SECONDS + REPLY_TIMEOUT_SECONDS)
            link.connect()
            self._client_id = _unblockable(link)
        self._link = link
        self._connected_at = time.monotonic()
        self._next_check = 0.0
        if self._failures:
            self._store.release_idle()
            log.info("reader is connected again, after %d failures", self._failures)

    def _disconnect(self) -> None:
        if self._link is not None:
            self._link.disconnect()
            self._link = None

    def _back_off(self, error: Exception) -> None:
        self._disconnect()
        if not self._failures:
            log.warning("reader lost Redis and goes on trying: %s", error)
        self._failures += 1
        longest = min(MAX_BACKOFF_SECONDS, 0.05 * 2**self._failures)
        time.sleep(random.uniform(longest / 2, longest))


def _unblockable(link: Connection) -> int | None:
    """The connection's client id, None where the server forbids CLIENT or its UNBLOCK."""
    [client_id] = exchange(link, ("CLIENT", "ID"))
    if not isinstance(client_id, int):
        return None
    [allowed] = exchange(link, ("CLIENT", "UNBLOCK", client_id))
    return client_id if isinstance(allowed, int) else None
