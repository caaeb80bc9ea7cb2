"""The reader of a cluster's node: it reads the logs that the node says have changed.

One XREAD cannot read the logs of several slots, and a blocking one for each run would take a
connection each. So the node tells over one connection which logs have changed, and they are read
over another, many in one round trip. Each read has the node tell the next change.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from redis.exceptions import AskError, ClusterDownError

from ...metrics.catalog import READER_FAILURES
from ..backoff import Pace, backoff
from ..errors import NotALog, StoreUnavailable
from ..event_store import EventStore
from ..log.position import Position
from ..log.replies import parse_streams
from ..redis.connection import (
    Reply,
    checked,
    exchange,
    exchange_packed,
    is_wrong_type,
    translated_errors,
)
from ..redis.server import Server
from .feed import Feed
from .feed_group import CHECK_SECONDS, INITIAL_BACKOFF_SECONDS, READ_COUNT, FeedGroup, feed_key
from .group_read import GROUP_SIZE, bulk
from .invalidations import Invalidations

# A failover must not wait for a pause.
MAX_BACKOFF_SECONDS = 0.5

# With many groups, one is checked after the other, between reads; but none waits for longer.
MAX_LATE_SECONDS = 0.5

# XREAD COUNT <count> STREAMS <key> <id>
_HEAD = b"*6\r\n" + b"".join(map(bulk, (b"XREAD", b"COUNT", b"%d" % READ_COUNT, b"STREAMS")))
_ASKING = b"*1\r\n" + bulk(b"ASKING")

log = logging.getLogger("tailrace.reader")


class TrackingReader:
    """A thread that follows the feeds whose logs one node has.

    It survives every failure of the node. It reconnects and goes on from the feeds' positions.
    """

    def __init__(
        self,
        store: EventStore,
        server: Server,
        redirected: Callable[[Feed, AskError, Server], None],
        lost: Callable[[Server], None],
    ):
        """`redirected` is called for a feed whose log the node says is elsewhere.

        `lost` is called when the node has failed: its slots may go to another one.
        """
        self.server = server
        self._store = store
        self._redirected = redirected
        self._lost = lost
        self._pace = Pace()
        self._groups: list[_Tracked] = []
        self._of: dict[bytes, _Tracked] = {}
        self._to_read: dict[bytes, None] = {}
        self._asking: set[bytes] = set()
        self._lock = threading.Lock()
        self._invalidations: Invalidations | None = None
        self._closed = False
        self._failures = 0
        self._pauses = backoff(INITIAL_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS)
        threading.Thread(target=self._run, name="tailrace-reader", daemon=True).start()

    def __len__(self) -> int:
        return len(self._of)

    def add(self, feed: Feed, *, asking: bool = False) -> None:
        """Follow a feed too. With `asking` its log is on its way to this node."""
        key = feed_key(feed)
        with self._lock:
            if asking:
                self._asking.add(key)
            tracked = next((each for each in self._groups if len(each.group) < GROUP_SIZE), None)
            if tracked is None:
                tracked = _Tracked(FeedGroup(self._store, self.wake))
                self._groups.append(tracked)
            tracked.group.add(feed)
            self._of[key] = tracked
        self.wake()

    def remove(self, feed: Feed) -> None:
        """Stop following a feed."""
        key = feed_key(feed)
        with self._lock:
            self._asking.discard(key)
            tracked = self._of.pop(key, None)
            if tracked is not None:
                tracked.group.remove(feed)

    def check_now(self) -> None:
        """Check the logs, and read the positions again, before the next read."""
        for tracked in list(self._groups):
            tracked.group.next_check = 0.0

    def wake(self) -> None:
        """Look again at what is to be done."""
        invalidations = self._invalidations
        if invalidations is not None:
            invalidations.interrupt()

    def close(self) -> None:
        """End the thread soon."""
        self._closed = True
        self.wake()

    def _run(self) -> None:
        while not self._closed:
            try:
                self._turn()
            except StoreUnavailable as error:
                self._back_off(error)
            except NotALog:
                self.check_now()
            except Exception as error:
                log.exception("reader failed; trying again")
                self._back_off(error)
            else:
                self._recover()
        self._disconnect()

    def _turn(self) -> None:
        """Read the logs that have changed, publish them, and rest; or wait until there are some."""
        invalidations = self._invalidations or self._connect()
        next_check = self._attend(invalidations)
        self._take_told(invalidations, next_check)
        if not self._to_read:
            return
        began = time.monotonic()
        has_more = self._read_all(invalidations)
        if has_more:
            time.sleep(0)
        else:
            self._pace.rest(began)

    def _take_told(self, invalidations: Invalidations, next_check: float) -> None:
        """Take in which keys the node tells; wait for it if nothing else is to be done."""
        longest = 0.0 if self._to_read else max(0.0, next_check - time.monotonic())
        keys = invalidations.wait(longest)
        self._to_read.update(dict.fromkeys(self._of if keys is None else keys))

    def _attend(self, invalidations: Invalidations) -> float:
        """Verify the groups that have changed, and check one that is due; return when the next is.

        What was told meanwhile does not wait for the checks of all groups, unless they are late.
        What is found to have more is to be read.
        """
        now, is_checked = time.monotonic(), False
        next_check = now + CHECK_SECONDS
        for tracked in list(self._groups):
            group = tracked.group
            late = now - group.next_check
            if late >= 0 or group.changes != tracked.changes:
                is_due = late >= 0 and (not is_checked or late > MAX_LATE_SECONDS)
                is_checked = is_checked or is_due
                try:
                    if self._attend_to(tracked, is_due):
                        next_check = now
                except StoreUnavailable as error:
                    self._refused(invalidations, error)
                    group.retry_soon()
                    self._to_read.update(dict.fromkeys(tracked.update()))
            if group.next_check < next_check:
                next_check = group.next_check
        return next_check

    def _attend_to(self, tracked: "_Tracked", is_due: bool) -> bool:
        """Check a group if it is due, and verify it; return whether to do so again at once."""
        group, must_verify = tracked.group, False
        if is_due:
            behind = group.check()
            self._to_read.update(dict.fromkeys(map(feed_key, behind)))
            time.sleep(0)
            must_verify = group.must_verify
        if group.changes == tracked.changes and not must_verify:
            return False
        came_meanwhile = group.verify()
        self._to_read.update(dict.fromkeys(tracked.update()))
        # Not what `update` found: a feed may have come in between.
        tracked.changes = -1 if came_meanwhile else group.verified
        return came_meanwhile

    def _refused(self, invalidations: Invalidations, error: StoreUnavailable) -> None:
        """Take in that nobody tells of some logs. Raises StoreUnavailable if the node itself fails.

        Others may have those logs, or nobody may: that is no matter of the other feeds.
        """
        self.server.availability.interrupted()
        with translated_errors():
            [reply] = exchange(invalidations.link, ("PING",))
        checked(reply)
        log.debug("some logs of %s are not followed now: %s", self.server.name, error)

    # Reading

    def _read_all(self, invalidations: Invalidations) -> bool:
        """Read the logs that are to be read; return whether some have more."""
        keys, self._to_read = self._to_read, {}
        try:
            while keys:
                some = list(islice(keys, GROUP_SIZE))
                self._read(invalidations, some)
                for key in some:
                    del keys[key]
        except BaseException:
            self._to_read.update(keys)  # they are still to be read
            raise
        return bool(self._to_read)

    def _read(self, invalidations: Invalidations, keys: Iterable[bytes]) -> None:
        """Read some logs in one round trip, and publish what they have."""
        reads: list[_Read] = []
        packed: list[bytes] = []
        for key in keys:
            tracked = self._of.get(key)
            feed = tracked.readable.get(key) if tracked else None
            if tracked is None or feed is None:  # it is read once it is no longer left out
                continue
            reads.append(_Read(key, tracked, feed, feed.position, key in self._asking))
            packed.append(reads[-1].pack())
        if not reads:
            return
        replies = self._exchange(invalidations, reads, packed)
        published: list[Feed] = []
        try:
            for read, reply in zip(reads, replies, strict=True):
                try:
                    if self._take(read, reply):
                        published.append(read.feed)
                except StoreUnavailable as error:
                    published.append(read.feed)
                    self._refused(invalidations, error)
                    read.leave_out()
        finally:
            for feed in published:
                feed.flush()

    def _exchange(
        self, invalidations: Invalidations, reads: "list[_Read]", packed: list[bytes]
    ) -> list[Reply]:
        """Send reads, and return the reply to each."""
        asking = sum([read.asking for read in reads])
        sent_at = time.monotonic()
        try:
            with translated_errors():
                replies = exchange_packed(invalidations.link, b"".join(packed), len(reads) + asking)
        finally:
            self.server.availability.replied(time.monotonic() - sent_at)
        return list(_without_asking(reads, replies)) if asking else replies

    def _take(self, read: "_Read", reply: Reply) -> bool:
        """Take the reply to a read; return whether something was published."""
        if isinstance(reply, AskError):
            self._redirected(read.feed, reply, self.server)
        elif is_wrong_type(reply):
            read.tracked.group.next_check = 0.0
        elif isinstance(reply, ClusterDownError):  # perhaps of this slot alone
            self.server.availability.interrupted()
            read.leave_out()
        else:
            for _, entries in parse_streams(checked(reply)):
                if len(entries) == READ_COUNT:
                    self._to_read[read.key] = None
                read.tracked.group.publish(read.feed, read.position, entries)
                return True
        return False

    # The connections

    def _connect(self) -> Invalidations:
        invalidations = Invalidations(self.server)
        self._invalidations = invalidations
        for tracked in list(self._groups):
            tracked.group.reconnected()
        self._to_read.update(dict.fromkeys(self._of))
        if self._failures:
            self.server.availability.interrupted()
            self.server.release_idle()
        return invalidations

    def _disconnect(self) -> None:
        if self._invalidations is not None:
            self._invalidations.close()
            self._invalidations = None

    def _back_off(self, error: Exception) -> None:
        self._disconnect()
        self.server.availability.interrupted()
        READER_FAILURES.add()
        if not self._failures:
            log.warning("reader lost %s; trying again: %s", self.server.name, error)
        self._failures += 1
        try:
            self._lost(self.server)
        except Exception:  # the thread must not end
            log.exception("unexpected error after the loss of %s", self.server.name)
        time.sleep(next(self._pauses))

    def _recover(self) -> None:
        if self._failures:
            log.info("reader reads again, after %d failures", self._failures)
            self._failures = 0
            self._pauses = backoff(INITIAL_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS)


def _without_asking(reads: "list[_Read]", replies: list[Reply]) -> Iterator[Reply]:
    """Yield the reply to each read, without those to ASKING before it."""
    left = iter(replies)
    for read in reads:
        if read.asking:
            next(left)
        yield next(left)


class _Tracked:
    """A group, and those of its feeds that are read.

    Attributes:
        readable: the feeds that are not left out, by the keys of their logs.
        changes: the group's, when that was found.
    """

    __slots__ = ("changes", "group", "readable")

    def __init__(self, group: FeedGroup):
        self.group = group
        self.changes = -1
        self.readable: dict[bytes, Feed] = {}

    def update(self) -> set[bytes]:
        """Find the readable feeds anew; return the keys of those that were not before."""
        feeds, self.changes = self.group.readable()
        before, self.readable = self.readable, {feed_key(feed): feed for feed in feeds}
        return {key for key, feed in self.readable.items() if before.get(key) is not feed}


class _Read(NamedTuple):
    """One XREAD, from a position."""

    key: bytes
    tracked: _Tracked
    feed: Feed
    position: Position
    asking: bool

    def leave_out(self) -> None:
        """Leave out the feed for a while; then it is read anew, since nobody tells of it now."""
        self.tracked.readable.pop(self.key, None)
        self.tracked.group.leave_out(self.feed)

    def pack(self) -> bytes:
        """Return the command as it goes to Redis."""
        read = b"%b%b%b" % (_HEAD, bulk(self.key), bulk(b"%d-%d" % self.position.id))
        return _ASKING + read if self.asking else read
