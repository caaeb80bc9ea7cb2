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
from ..log.replies import parse_streams
from ..redis.connection import (
    RedisConnection,
    checked,
    exchange,
    exchange_packed,
    translated_errors,
)
from ..redis.sentinel import leads_to_master
from ..redis.server import Server
from .feed import Feed
from .feed_group import (
    CHECK_SECONDS,
    INITIAL_BACKOFF_SECONDS,
    MAX_BACKOFF_SECONDS,
    READ_COUNT,
    FeedGroup,
)
from .group_read import GroupRead

REPLY_TIMEOUT_SECONDS = 5.0

# Where the server forbids CLIENT UNBLOCK, an XREAD blocks for this long at most.
SHORT_BLOCK_SECONDS = 0.1

log = logging.getLogger("tailrace.reader")


class TailReader:
    """A thread with a connection that follows one group of feeds.

    The reader survives every failure of Redis. It reconnects and goes on from the feeds'
    positions.
    """

    def __init__(
        self,
        store: EventStore,
        server: Server,
        wake: Callable[["TailReader"], None] = lambda reader: None,
    ):
        """`wake` interrupts the XREAD in progress, if the reader says that it should."""
        self._server = server
        self._wake = wake
        self._pace = Pace()
        self._group = FeedGroup(store, self._feeds_changed)
        self._read: GroupRead | None = None
        self._read_changes = -1  # `changes` of the group when the read was made
        self._link: RedisConnection | None = None
        self._closed = False
        self._failures = 0
        self._pauses = backoff(INITIAL_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS)
        self._stale = False  # the feeds have changed since the XREAD in progress was sent
        self._client_id: int | None = None
        self.blocked_client: int | None = None  # the client id to unblock, while there is one
        threading.Thread(target=self._run, name="tailrace-reader", daemon=True).start()

    def __len__(self) -> int:
        return len(self._group)

    def add(self, feed: Feed) -> None:
        """Follow a feed too; the XREAD in progress must be woken."""
        self._group.add(feed)
        self._stale = True

    def check_now(self) -> None:
        """Check the logs, and read the positions again, before the next XREAD."""
        self._group.next_check = 0.0
        self._stale = True

    def remove(self, feed: Feed) -> None:
        """Stop following a feed."""
        self._group.remove(feed)

    def remove_all(self) -> list[Feed]:
        """Close, and return the feeds, for other readers to follow."""
        feeds = self._group.remove_all()
        self.close()
        return feeds

    def close(self) -> None:
        """End the thread after the XREAD in progress."""
        self._closed = True

    def wake(self) -> None:
        """Look again at what is to be done."""
        self._wake(self)

    def should_wake(self) -> bool:
        """Return whether the XREAD in progress, or about to be sent, is out of date."""
        return self._link is not None and (self._stale or self._closed)

    def _feeds_changed(self) -> None:
        self._stale = True
        self.wake()

    def _run(self) -> None:
        while not self._closed:
            try:
                self._turn()
            except StoreUnavailable as error:
                self._back_off(error)
            except NotALog:
                self._group.next_check = 0.0
            except Exception as error:
                log.exception("reader failed; trying again")
                self._back_off(error)
            else:
                self._recover()
        self._disconnect()

    def _turn(self) -> None:
        """Wait until the logs have new entries, publish them, and rest."""
        link = self._link or self._connect()
        if not leads_to_master(link):
            raise StoreUnavailable("another server is the master now")
        if time.monotonic() >= self._group.next_check:
            self._group.check()
        self._group.verify()
        read = self._current_read()
        if self._closed or not read:
            time.sleep(SHORT_BLOCK_SECONDS)
            return
        reply = self._wait_for_entries(link, read)
        if reply:
            self._publish_all(read, reply)

    def _current_read(self) -> GroupRead:
        if self._stale or self._read is None or self._read_changes != self._group.changes:
            self._stale = self._group.must_verify  # some were added since the others were
            feeds, self._read_changes = self._group.readable()
            self._read = GroupRead(feeds, READ_COUNT)
        return self._read

    def _wait_for_entries(self, link: RedisConnection, read: GroupRead) -> Any:
        max_block = SHORT_BLOCK_SECONDS if self._client_id is None else CHECK_SECONDS
        block = max(0.001, min(max_block, self._group.next_check - time.monotonic()))
        packed = read.pack(int(block * 1000) or 1)
        self.blocked_client, sent_at = self._client_id, time.monotonic()
        try:
            with translated_errors():
                return checked(exchange_packed(link, packed, 1)[0])
        finally:
            self.blocked_client = None
            self._server.availability.replied(time.monotonic() - sent_at - block)

    def _publish_all(self, read: GroupRead, reply: Any) -> None:
        """Publish what an XREAD returned, and rest unless there is more."""
        truncated, began, published = False, time.monotonic(), []
        try:
            for key, entries in parse_streams(reply):
                if not entries:  # Redis 7.0 wakes for entries deleted in the same transaction
                    continue
                feed, position = read.origin(key)
                published.append(feed)
                self._group.publish(feed, position, entries)
                truncated |= len(entries) == READ_COUNT
        finally:
            for feed in published:
                feed.flush()
        if truncated:
            time.sleep(0)
        else:
            self._pace.rest(began)

    def _connect(self) -> RedisConnection:
        with translated_errors():
            link = self._server.connect(CHECK_SECONDS + REPLY_TIMEOUT_SECONDS)
            # An exchange would connect too, but only `connect` asks the Sentinels for the master.
            link.connect()
            self._client_id = _unblockable(link)
        self._link = link
        self._group.reconnected()
        if self._failures:
            self._server.availability.interrupted()
            self._server.release_idle()
        return link

    def _disconnect(self) -> None:
        if self._link is not None:
            self._link.disconnect()
            self._link = None

    def _back_off(self, error: Exception) -> None:
        self._disconnect()
        self._server.availability.interrupted()
        READER_FAILURES.add()
        if not self._failures:
            log.warning("reader lost Redis; trying again: %s", error)
        self._failures += 1
        time.sleep(next(self._pauses))

    def _recover(self) -> None:
        if self._failures:
            log.info("reader reads again, after %d failures", self._failures)
            self._failures = 0
            self._pauses = backoff(INITIAL_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS)


def _unblockable(link: RedisConnection) -> int | None:
    """Return the connection's client id, or None if the server forbids CLIENT ID or UNBLOCK."""
    [client_id] = exchange(link, ("CLIENT", "ID"))
    if not isinstance(client_id, int):
        return None
    [allowed] = exchange(link, ("CLIENT", "UNBLOCK", client_id))
    return client_id if isinstance(allowed, int) else None
