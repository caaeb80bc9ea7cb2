"""History in memory: read once and shared, bounded in bytes, and never out of date."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from app.streaming.errors import StoreUnavailable
from app.streaming.event_id import ZERO, EventId
from app.streaming.event_store import EventStore
from app.streaming.follow import history as history_module
from app.streaming.follow.feed import Feed
from app.streaming.follow.history import History
from app.streaming.log import reader as log_reader
from app.streaming.log.reader import INITIAL_COUNT
from tests.servers import wait_until

END = EventId(1000, 0)
START = EventId(1, 0).before()


class CountingStore(EventStore):
    """A store that records the ranges that were read, and can be held up."""

    def __init__(self, client: redis.Redis):
        super().__init__(client=client)
        self.ranges: list[tuple[int, int]] = []
        self.open = threading.Event()
        self.open.set()

    def history(self, run_id, after, end, count):
        self.ranges.append((after.ms, end.ms))
        assert self.open.wait(20)
        return super().history(run_id, after, end, count)


@pytest.fixture
def store(fake_client) -> CountingStore:
    return CountingStore(fake_client)


@pytest.fixture
def history(store) -> History:
    return History(store)


@pytest.fixture
def fill(fake_client):
    """Append events with the ids 1-0, 2-0 and so on, and return the run's feed."""

    def fill(run_id: str, *numbers: int, size: int = 1) -> Feed:
        for number in numbers:
            fake_client.xadd(f"run:{run_id}:events", {"data": '"%s"' % ("x" * size)}, f"{number}-0")
        return Feed(run_id, EventId(numbers[-1], 0), numbers[-1], ended=False)

    return fill


@pytest.fixture
def small_pages(monkeypatch) -> None:
    """Pages of four events."""
    monkeypatch.setattr(history_module, "INITIAL_COUNT", 4)
    monkeypatch.setattr(history_module, "next_count", lambda size, entries: 4)


def numbers(history: History, feed: Feed, cursor: EventId, end: EventId) -> list[int]:
    page, _ = history.page(feed, cursor, end)
    return [frame.cursor.ms for frame in page.frames] if page else []


def replay(
    history: History, feed: Feed, cursor: EventId = START, end: EventId | None = None
) -> list[int]:
    """The events that a subscriber gets, page by page."""
    seen: list[int] = []
    end = end or feed.position.id
    while cursor < end:
        page, _ = history.page(feed, cursor, end)
        if page is None:
            break
        assert all(frame.cursor > cursor for frame in page.frames)
        seen += [frame.cursor.ms for frame in page.frames]
        cursor = page.end
    return seen


def cost_of_a_page(store: EventStore, feed: Feed) -> int:
    page, _ = History(store).page(feed, START, feed.position.id)
    return page.cost


# Reading


def test_an_empty_log_has_no_page(history):
    feed = Feed("r", ZERO, 0, ended=False)
    assert history.page(feed, START, END) == (None, None)


def test_a_page_from_the_log_comes_with_the_first_id_and_a_page_from_memory_without(history, fill):
    feed = fill("r", 3, 4)
    page, first_id = history.page(feed, START, feed.position.id)
    assert first_id == EventId(3, 0)
    assert (page.start, page.end) == (page.frames[0].cursor.before(), EventId(4, 0))
    assert history.page(feed, page.start, feed.position.id) == (page, None)


def test_a_page_is_read_once(history, store, fill):
    feed = fill("r", *range(1, 201))
    assert replay(history, feed) == list(range(1, 201))
    read = len(store.ranges)
    assert 1 < read < 5
    assert replay(history, feed) == list(range(1, 201))
    assert len(store.ranges) == read


def test_the_first_page_is_small_and_the_next_as_large_as_its_events_allow(history, store, fill):
    feed = fill("r", *range(1, 1201))
    first, _ = history.page(feed, START, feed.position.id)
    second, _ = history.page(feed, first.end, feed.position.id)
    assert (len(first.frames), len(second.frames)) == (INITIAL_COUNT, 1000)


def test_a_page_of_large_events_is_bounded_in_bytes(history, fill, monkeypatch):
    monkeypatch.setattr(log_reader, "MAX_READ_BYTES", 10_000)
    feed = fill("r", *range(1, 201), size=1000)
    first, _ = history.page(feed, START, feed.position.id)
    second, _ = history.page(feed, first.end, feed.position.id)
    assert 0 < second.size <= 10_000


def test_callers_wait_for_a_page_that_another_caller_reads(history, store, fill):
    feed = fill("r", *range(1, 11))
    store.open.clear()
    with ThreadPoolExecutor(20) as threads:
        pages = [threads.submit(history.page, feed, START, feed.position.id) for _ in range(20)]
        wait_until(lambda: store.ranges, "one caller reads the log")
        store.open.set()
        distinct = {id(page.result()[0]) for page in pages}
    assert len(distinct) == 1
    assert store.ranges == [(0, 10)]


def test_reading_a_page_does_not_hold_up_other_runs(history, store, fill):
    slow, fast = fill("slow", 1, 2), fill("fast", 1, 2)
    assert numbers(history, fast, START, fast.position.id) == [1, 2]
    store.open.clear()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(history.page, slow, START, slow.position.id)
        wait_until(lambda: len(store.ranges) == 2, "the slow run is being read")
        assert numbers(history, fast, START, fast.position.id) == [1, 2]
        store.open.set()
        assert len(waiting.result()[0].frames) == 2


def test_after_a_failed_read_the_next_caller_reads(history, store, fill, monkeypatch):
    feed = fill("r", 1)

    def fail(*arguments):
        raise StoreUnavailable("not there")

    with monkeypatch.context() as patched:
        patched.setattr(CountingStore, "history", fail)
        with pytest.raises(StoreUnavailable):
            history.page(feed, START, feed.position.id)
    assert numbers(history, feed, START, feed.position.id) == [1]


# Cursors


def test_a_cursor_within_a_page_gets_the_rest_of_the_page(history, store, fill):
    feed = fill("r", *range(1, 11))
    replay(history, feed)
    assert numbers(history, feed, EventId(7, 0), feed.position.id) == [8, 9, 10]
    assert numbers(history, feed, EventId(7, 5), feed.position.id) == [8, 9, 10]
    assert len(store.ranges) == 1


@pytest.mark.usefixtures("small_pages")
def test_pages_do_not_overlap(history, store, fill):
    feed = fill("r", *range(1, 11))
    assert numbers(history, feed, EventId(3, 0), feed.position.id) == [4, 5, 6, 7]
    assert numbers(history, feed, START, feed.position.id) == [1, 2, 3]
    assert replay(history, feed) == list(range(1, 11))
    assert store.ranges == [(3, 10), (0, 3), (7, 10)]
    pages = [(page.start.ms, page.end.ms) for page in feed.pages]
    assert pages == [(0, 3), (3, 7), (7, 10)]


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("first", list(itertools.permutations([0, 2, 5, 9])))
def test_cursors_in_any_order_get_every_event_once(history, fill, first):
    feed = fill("r", *range(1, 13))
    for number in first:
        assert replay(history, feed, EventId(number, 0)) == list(range(number + 1, 13))
    assert sum(len(page.frames) for page in feed.pages) == 12


@pytest.mark.parametrize("number", [5, 4, 0])
def test_a_cursor_that_is_no_event_of_the_log_hides_nothing_from_others(history, fill, number):
    """A client may send any id, and a page then begins after it."""
    feed = fill("r", *range(1, 11))
    assert replay(history, feed, EventId(5, 7)) == [6, 7, 8, 9, 10]
    assert replay(history, feed, EventId(number, 0)) == list(range(number + 1, 11))


def test_events_after_the_last_page_are_read_when_they_are_needed(history, store, fill):
    feed = fill("r", 1, 2, 3)
    replay(history, feed)
    fill("r", 4, 5)
    assert replay(history, feed, end=EventId(5, 0)) == [1, 2, 3, 4, 5]
    assert store.ranges == [(0, 3), (3, 5)]


# The bound in bytes


def test_the_least_recently_used_page_is_dropped_first(store, fill):
    feeds = {name: fill(name, 1, size=1000) for name in "abcd"}
    history = History(store, max_bytes=3 * cost_of_a_page(store, fill("like those", 1, size=1000)))
    for name in "abcad":
        replay(history, feeds[name])
    store.ranges.clear()
    for name in "acd":
        replay(history, feeds[name])
    assert store.ranges == []
    replay(history, feeds["b"])
    assert store.ranges == [(0, 1)]


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("pages", [0, 0.5, 1, 2.5, 7])
def test_the_pages_stay_within_the_bound_and_no_event_is_lost(store, fill, pages):
    events = range(11, 43)
    bound = int(pages * cost_of_a_page(store, fill("x", *events, size=1000))) + 16
    feeds = [fill(name, *events, size=1000) for name in "ab"]
    history = History(store, max_bytes=bound)
    for feed in feeds * 2:
        assert replay(history, feed) == list(events)
    kept = [page.cost for feed in feeds for page in feed.pages]
    assert (len(kept), sum(kept) <= bound) == (int(pages), True)


def test_dropped_pages_are_read_again(store, fill):
    feed, other = fill("r", 1, 2), fill("other", 1)
    history = History(store)
    for each in (feed, other):
        replay(history, each)
    history.drop(feed)
    assert (feed.pages, len(other.pages)) == ([], 1)
    history.drop(feed)
    assert replay(history, feed) == [1, 2]
    assert store.ranges == [(0, 2), (0, 1), (0, 2)]


# Another log


def test_a_new_log_has_no_pages_of_the_old_one(history, store, fake_client, fill):
    feed = fill("r", 1, 2, 3)
    replay(history, feed)
    fake_client.delete("run:r:events")
    fill("r", 2, 4)
    feed.reset(0)
    assert replay(history, feed, end=EventId(4, 0)) == [2, 4]


def test_after_a_deletion_the_log_is_read_again(history, store, fake_client, fill):
    feed = fill("r", 1, 2, 3)
    replay(history, feed)
    fake_client.xdel("run:r:events", "2-0")
    feed.note_deleted(EventId(2, 0))
    assert replay(history, feed) == [1, 3]
    feed.note_deleted(EventId(2, 0))
    assert replay(history, feed) == [1, 3]
    assert len(store.ranges) == 2


def test_a_page_that_became_out_of_date_while_it_was_read_is_not_kept(history, store, fill):
    feed = fill("r", 1, 2, 3)
    store.open.clear()
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(history.page, feed, START, feed.position.id)
        wait_until(lambda: store.ranges, "the page is being read")
        feed.note_deleted(EventId(2, 0))
        store.open.set()
        assert reading.result()[0] is not None
    assert feed.pages == []


def test_a_state_from_before_a_deletion_brings_no_deleted_event_back(history, fake_client, fill):
    """Two states, from before and after a deletion, may be noted in the wrong order."""
    feed = fill("r", 1, 2, 3)
    replay(history, feed)
    fake_client.xdel("run:r:events", "2-0")
    feed.note_deleted(EventId(2, 0))
    feed.note_deleted(ZERO)
    assert replay(history, feed) == [1, 3]


# Trimming


@pytest.mark.usefixtures("small_pages")
def test_a_page_in_memory_survives_trimming_and_the_next_is_read(history, store, fake_client, fill):
    feed = fill("r", *range(1, 13))
    assert numbers(history, feed, START, feed.position.id) == [1, 2, 3, 4]
    fake_client.xtrim("run:r:events", maxlen=6, approximate=False)
    assert numbers(history, feed, START, feed.position.id) == [1, 2, 3, 4]
    page, first_id = history.page(feed, EventId(4, 0), feed.position.id)
    assert [frame.cursor.ms for frame in page.frames] == [7, 8, 9, 10]
    assert first_id == EventId(7, 0)


@pytest.mark.usefixtures("small_pages")
def test_every_caller_gets_the_first_id_where_events_were_trimmed_before_a_page(
    history, fake_client, fill
):
    """Else the second client to come to a gap would get no notice."""
    feed = fill("r", *range(1, 13))
    history.page(feed, START, feed.position.id)
    fake_client.xtrim("run:r:events", maxlen=6, approximate=False)
    first_ids = [history.page(feed, EventId(4, 0), feed.position.id)[1] for _ in range(2)]
    assert first_ids == [EventId(7, 0)] * 2


@pytest.mark.usefixtures("small_pages")
def test_a_hole_between_two_pages_is_not_the_end(history, fake_client, fill):
    """A slow client goes on with the page that another client has read."""
    feed = fill("r", *range(1, 13))
    history.page(feed, START, feed.position.id)
    fake_client.xtrim("run:r:events", maxlen=6, approximate=False)
    cursor = EventId(7, 0).before()
    assert numbers(history, feed, cursor, feed.position.id) == [7, 8, 9, 10]
    assert replay(history, feed, EventId(4, 0)) == [7, 8, 9, 10, 11, 12]
