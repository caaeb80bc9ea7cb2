"""Logs of which an older state is restored, on a server whose clock is behind, while they are read.

As many events as were lost come first, with ids below theirs. What comes above them then has the
sequence that follows the last lost one.
"""

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator

import pytest

from app.streaming.event_store import EventStore
from app.streaming.feeds.reader_pool import ReaderPool
from app.streaming.feeds.readers import make_readers
from app.streaming.follow import history as history_module
from app.streaming.follow.history_lines import HistoryLines
from app.streaming.log import reader as log_reader
from tests.servers import RedisServer, wait_until
from tests.streaming.follow.streams import events_of, name_of, subscribe

BEFORE, LOST = 3, 5
RUN = "restored"
KEY = f"run:{RUN}:events"


class Listener:
    def wake(self) -> None:
        """It looks by itself."""


class Log:
    """A log, and the state of it that can be restored."""

    def __init__(self, server: RedisServer):
        self._client = server.client()
        self.store = EventStore(server.url)
        self._append(BEFORE, "before", 100)
        self._backup = self._client.dump(KEY)
        self._append(LOST, "lost", 1000)

    def _append(self, count: int, text: str, first_ms: int) -> None:
        last = self.store.state(RUN).last_sequence
        for number in range(count):
            event = {
                "timestamp": "2026-01-01T00:00:00.000Z",
                "sequence": last + number + 1,
                "epoch": 1,
                "event_category": "llm",
                "event_action": "stream",
                "data": f'"{text}"',
            }
            self._client.xadd(KEY, event, f"{first_ms + number}-0")

    def restore(self, behind: int) -> None:
        """Restore the log, append events, and break all connections, as a restart would."""
        self._client.restore(KEY, 0, self._backup, replace=True)
        self._append(behind, "new", 200)
        self._append(1, "new", 2000)
        self._client.client_kill_filter(_type="normal", skipme=True)
        self.store.release_idle()

    def close(self) -> None:
        self._client.close()


@pytest.fixture
def log(tmp_path) -> Iterator[Log]:
    with RedisServer(tmp_path) as server, contextlib.closing(Log(server)) as log:
        yield log


@pytest.fixture
def readers(log) -> Iterator[ReaderPool]:
    before = set(threading.enumerate())
    yield make_readers(log.store)

    def have_ended() -> bool:
        left = set(threading.enumerate()) - before
        return not any(each.name == "tailrace-reader" for each in left)

    wait_until(have_ended, "the readers have ended, before their server does")


@pytest.fixture
def small_pages(monkeypatch) -> None:
    """Pages of four events, so that the first one ends with a lost event."""
    monkeypatch.setattr(history_module, "INITIAL_COUNT", 4)
    monkeypatch.setattr(history_module, "next_count", lambda size, entries: 4)
    monkeypatch.setattr(log_reader, "INITIAL_COUNT", 4)
    monkeypatch.setattr(log_reader, "next_count", lambda size, entries: 4)


def take(events: Iterator[dict], last: Callable[[dict], bool]) -> list[dict]:
    """Return the events up to the first that is the last, and that one."""
    taken = []
    for event in events:
        taken.append(event)
        if last(event):
            return taken
    raise AssertionError(taken)


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("others", [0, 1])
def test_a_stream_that_lags_gets_a_reset(log, readers, others):
    """Another one may have read all of the history into memory."""
    with contextlib.ExitStack() as stack:
        for _ in range(others):
            other = stack.enter_context(contextlib.closing(subscribe(log.store, readers, RUN)))
            take(events_of(other.chunks()), lambda each: name_of(each) == "gateway.caught_up")
        lagging = stack.enter_context(contextlib.closing(subscribe(log.store, readers, RUN)))
        events = events_of(lagging.chunks())
        take(events, lambda each: each["sequence"] == 4)
        log.restore(behind=1)
        take(events, lambda each: name_of(each) == "gateway.reset")
        again = take(events, lambda each: each["sequence"] == 5)
        texts = [each["data"] for each in again if each["id"]]
        assert texts == ["before"] * BEFORE + ["new"] * 2


def test_a_feed_that_is_made_from_an_older_state_is_reset(log, readers):
    """The state was read before its server ended, and the reader is connected to the next one."""
    listener, other = Listener(), Listener()
    log.store.add("other", "llm", "stream")
    connected = readers.join("other", log.store.state("other"), other)
    log.store.add("other", "llm", "stream")
    wait_until(lambda: connected.position.sequence == 2, "the reader is connected")
    state = log.store.state(RUN)
    log.restore(behind=LOST)
    log.store.add("other", "llm", "stream")
    wait_until(lambda: connected.position.sequence == 3, "the reader is connected again")
    feed = readers.join(RUN, state, listener)
    restored = log.store.state(RUN)
    wait_until(lambda: feed.position == restored.end, "the feed has read the log")
    assert feed.version_changes == 1
    readers.leave(feed, listener)
    readers.leave(connected, other)


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("limit", [None, 5])
@pytest.mark.parametrize("descending", [False, True])
def test_lines_break_off(log, limit, descending):
    lines = HistoryLines(
        RUN,
        log.store,
        after=None,
        before=None,
        from_sequence=None,
        descending=descending,
        limit=limit,
        categories=(),
        actions=(),
    )
    chunks = lines.chunks()
    next(chunks)
    log.restore(behind=1)
    with pytest.raises(ConnectionResetError):
        list(itertools.islice(chunks, 10))
    assert lines.reason == "changed"
