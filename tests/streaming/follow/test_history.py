"""History in memory: read once and found again, bounded in bytes, and never out of date."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from app.streaming.errors import StoreUnavailable
from app.streaming.event_id import ZERO, EventId
from app.streaming.event_store import EventStore
from app.streaming.follow.feed import Feed
from app.streaming.follow.history import History
from app.streaming.log import reader as log_reader
from app.streaming.log.reader import INITIAL_COUNT
from tests.servers import wait_until

END = EventId(1000, 0)
START = EventId(1, 0).before()


class CountingStore(EventStore):
    """Notes from where to where it was asked, and may be held up meanwhile."""

    def __init__(self, client: redis.Redis):
        super().__init__(client=client)
        self.asked: list[tuple[int, int]] = []
        self.open = threading.Event()
        self.open.set()

    def history(self, run_id, after, upto, count):
        self.asked.append((after.ms, upto.ms))
        assert self.open.wait(20)
        return super().history(run_id, after, upto, count)


@pytest.fixture
def store(fake_client) -> CountingStore:
    return CountingStore(fake_client)


@pytest.fixture
def history(store) -> History:
    return History(store)


@pytest.fixture
def fill(fake_client):
    """Write some events with the ids 1-0, 2-0 and so on."""

    def fill(run_id: str, *numbers: int, size: int = 1) -> Feed:
        for number in numbers:
            fake_client.xadd(f"run:{run_id}:events", {"data": '"%s"' % ("x" * size)}, f"{number}-0")
        return Feed(run_id, EventId(numbers[-1], 0), numbers[-1], ended=False)

    return fill


@pytest.fixture
def small_pages(monkeypatch) -> None:
    """Pages of four events."""
    monkeypatch.setattr("app.streaming.follow.history.INITIAL_COUNT", 4)
    monkeypatch.setattr("app.streaming.follow.history.next_count", lambda size, entries: 4)


def numbers(history: History, feed: Feed, cursor: EventId, upto: EventId) -> list[int]:
    page, _ = history.page(feed, cursor, upto)
    return [frame.position.ms for frame in page.frames] if page else []


def replay(
    history: History, feed: Feed, cursor: EventId = START, upto: EventId | None = None
) -> list[int]:
    """What a subscriber is given, page by page."""
    seen: list[int] = []
    upto = upto or feed.position
    while cursor < upto:
        page, _ = history.page(feed, cursor, upto)
        if page is None:
            break
        assert all(frame.position > cursor for frame in page.frames)
        seen += [frame.position.ms for frame in page.frames]
        cursor = page.position
    return seen


def cost_of_a_page(store: EventStore, feed: Feed) -> int:
    page, _ = History(store).page(feed, START, feed.position)
    return page.cost


# Reading


def test_an_empty_log_has_no_page(history):
    feed = Feed("r", ZERO, 0, ended=False)
    assert history.page(feed, START, END) == (None, None)


def test_a_page_that_is_read_comes_with_the_first_id_retained_and_one_found_without(history, fill):
    feed = fill("r", 3, 4)
    page, first_id = history.page(feed, START, feed.position)
    assert first_id == EventId(3, 0)
    assert (page.since, page.position) == (page.frames[0].position.before(), EventId(4, 0))
    assert history.page(feed, page.since, feed.position) == (page, None)


def test_what_was_read_once_is_not_read_again(history, store, fill):
    feed = fill("r", *range(1, 201))
    assert replay(history, feed) == list(range(1, 201))
    read = len(store.asked)
    assert 1 < read < 5
    assert replay(history, feed) == list(range(1, 201))
    assert len(store.asked) == read


def test_the_first_page_is_small_and_the_next_as_large_as_its_events_allow(history, store, fill):
    feed = fill("r", *range(1, 1201))
    first, _ = history.page(feed, START, feed.position)
    second, _ = history.page(feed, first.position, feed.position)
    assert (len(first.frames), len(second.frames)) == (INITIAL_COUNT, 1000)


def test_a_page_of_large_events_is_bounded_in_bytes(history, fill, monkeypatch):
    monkeypatch.setattr(log_reader, "MAX_READ_BYTES", 10_000)
    feed = fill("r", *range(1, 201), size=1000)
    first, _ = history.page(feed, START, feed.position)
    second, _ = history.page(feed, first.position, feed.position)
    assert 0 < second.size <= 10_000


def test_those_who_ask_while_a_page_is_read_wait_for_it(history, store, fill):
    feed = fill("r", *range(1, 11))
    store.open.clear()
    with ThreadPoolExecutor(20) as threads:
        pages = [threads.submit(history.page, feed, START, feed.position) for _ in range(20)]
        wait_until(lambda: store.asked, "one asks the log")
        store.open.set()
        found = {id(page.result()[0]) for page in pages}
    assert len(found) == 1
    assert store.asked == [(0, 10)]


def test_a_page_that_is_read_holds_up_no_other_run(history, store, fill):
    slow, fast = fill("slow", 1, 2), fill("fast", 1, 2)
    assert numbers(history, fast, START, fast.position) == [1, 2]
    store.open.clear()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(history.page, slow, START, slow.position)
        wait_until(lambda: len(store.asked) == 2, "the slow one asks the log")
        assert numbers(history, fast, START, fast.position) == [1, 2]
        store.open.set()
        assert len(waiting.result()[0].frames) == 2


def test_one_who_fails_to_read_leaves_the_next_to_try(history, store, fill, monkeypatch):
    feed = fill("r", 1)

    def fail(*arguments):
        raise StoreUnavailable("not there")

    with monkeypatch.context() as patched:
        patched.setattr(CountingStore, "history", fail)
        with pytest.raises(StoreUnavailable):
            history.page(feed, START, feed.position)
    assert numbers(history, feed, START, feed.position) == [1]


# Cursors


def test_a_cursor_within_a_page_gets_the_rest_of_it(history, store, fill):
    feed = fill("r", *range(1, 11))
    replay(history, feed)
    assert numbers(history, feed, EventId(7, 0), feed.position) == [8, 9, 10]
    assert numbers(history, feed, EventId(7, 5), feed.position) == [8, 9, 10]
    assert len(store.asked) == 1


@pytest.mark.usefixtures("small_pages")
def test_a_page_never_overlaps_the_next_one(history, store, fill):
    feed = fill("r", *range(1, 11))
    assert numbers(history, feed, EventId(3, 0), feed.position) == [4, 5, 6, 7]
    assert numbers(history, feed, START, feed.position) == [1, 2, 3]
    assert replay(history, feed) == list(range(1, 11))
    assert store.asked == [(3, 10), (0, 3), (7, 10)]
    pages = [(page.since.ms, page.position.ms) for page in feed.pages]
    assert pages == [(0, 3), (3, 7), (7, 10)]


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("first", list(itertools.permutations([0, 2, 5, 9])))
def test_in_whatever_order_cursors_come_each_gets_everything_once(history, fill, first):
    feed = fill("r", *range(1, 13))
    for number in first:
        assert replay(history, feed, EventId(number, 0)) == list(range(number + 1, 13))
    assert sum(len(page.frames) for page in feed.pages) == 12


@pytest.mark.parametrize("number", [5, 4, 0])
def test_a_cursor_that_is_no_event_of_the_log_takes_nothing_from_the_others(history, fill, number):
    """A client may name any id; what follows it begins a page."""
    feed = fill("r", *range(1, 11))
    assert replay(history, feed, EventId(5, 7)) == [6, 7, 8, 9, 10]
    assert replay(history, feed, EventId(number, 0)) == list(range(number + 1, 11))


def test_what_comes_after_the_last_page_is_read_when_it_is_asked_for(history, store, fill):
    feed = fill("r", 1, 2, 3)
    replay(history, feed)
    fill("r", 4, 5)
    assert replay(history, feed, upto=EventId(5, 0)) == [1, 2, 3, 4, 5]
    assert store.asked == [(0, 3), (3, 5)]


# The bound


def test_the_least_recently_used_page_goes_first(store, fill):
    feeds = {name: fill(name, 1, size=1000) for name in "abcd"}
    history = History(store, max_bytes=3 * cost_of_a_page(store, fill("like those", 1, size=1000)))
    for name in "abcad":
        replay(history, feeds[name])
    store.asked.clear()
    for name in "acd":
        replay(history, feeds[name])
    assert store.asked == []
    replay(history, feeds["b"])
    assert store.asked == [(0, 1)]


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("pages", [0, 0.5, 1, 2.5, 7])
def test_no_more_is_kept_than_the_bound_and_nothing_is_lost_by_it(store, fill, pages):
    events = range(11, 43)
    bound = int(pages * cost_of_a_page(store, fill("x", *events, size=1000))) + 16
    feeds = [fill(name, *events, size=1000) for name in "ab"]
    history = History(store, max_bytes=bound)
    for feed in feeds * 2:
        assert replay(history, feed) == list(events)
    kept = [page.cost for feed in feeds for page in feed.pages]
    assert (len(kept), sum(kept) <= bound) == (int(pages), True)


def test_what_is_dropped_is_given_back_and_read_again(store, fill):
    feed, other = fill("r", 1, 2), fill("other", 1)
    history = History(store)
    for each in (feed, other):
        replay(history, each)
    history.drop(feed)
    assert (feed.pages, len(other.pages)) == ([], 1)
    history.drop(feed)
    assert replay(history, feed) == [1, 2]
    assert store.asked == [(0, 2), (0, 1), (0, 2)]


# Another log


def test_a_log_begun_anew_has_none_of_the_former_s_pages(history, store, fake_client, fill):
    feed = fill("r", 1, 2, 3)
    replay(history, feed)
    fake_client.delete("run:r:events")
    fill("r", 2, 4)
    feed.reset(0)
    assert replay(history, feed, upto=EventId(4, 0)) == [2, 4]


def test_a_log_out_of_which_was_deleted_is_read_again(history, store, fake_client, fill):
    feed = fill("r", 1, 2, 3)
    replay(history, feed)
    fake_client.xdel("run:r:events", "2-0")
    feed.note_deleted(EventId(2, 0))
    assert replay(history, feed) == [1, 3]
    feed.note_deleted(EventId(2, 0))
    assert replay(history, feed) == [1, 3]
    assert len(store.asked) == 2


def test_a_page_that_became_out_of_date_while_it_was_read_is_not_kept(history, store, fill):
    feed = fill("r", 1, 2, 3)
    store.open.clear()
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(history.page, feed, START, feed.position)
        wait_until(lambda: store.asked, "it asks the log")
        feed.note_deleted(EventId(2, 0))
        store.open.set()
        assert reading.result()[0] is not None
    assert feed.pages == []


def test_one_who_looked_before_a_deletion_brings_nothing_deleted_back(history, fake_client, fill):
    """Two looks at the log, before and after a deletion, may be noted the other way round."""
    feed = fill("r", 1, 2, 3)
    replay(history, feed)
    fake_client.xdel("run:r:events", "2-0")
    feed.note_deleted(EventId(2, 0))
    feed.note_deleted(ZERO)
    assert replay(history, feed) == [1, 3]


# Trimming


@pytest.mark.usefixtures("small_pages")
def test_what_was_trimmed_since_is_found_and_what_follows_is_read(
    history, store, fake_client, fill
):
    feed = fill("r", *range(1, 13))
    assert numbers(history, feed, START, feed.position) == [1, 2, 3, 4]
    fake_client.xtrim("run:r:events", maxlen=6, approximate=False)
    assert numbers(history, feed, START, feed.position) == [1, 2, 3, 4]
    page, first_id = history.page(feed, EventId(4, 0), feed.position)
    assert [frame.position.ms for frame in page.frames] == [7, 8, 9, 10]
    assert first_id == EventId(7, 0)


@pytest.mark.usefixtures("small_pages")
def test_everyone_is_told_the_first_id_where_events_were_trimmed_before_a_page(
    history, fake_client, fill
):
    """Else the second one to come to a gap is led over it in silence."""
    feed = fill("r", *range(1, 13))
    history.page(feed, START, feed.position)
    fake_client.xtrim("run:r:events", maxlen=6, approximate=False)
    told = [history.page(feed, EventId(4, 0), feed.position)[1] for _ in range(2)]
    assert told == [EventId(7, 0)] * 2


@pytest.mark.usefixtures("small_pages")
def test_a_hole_between_two_pages_is_no_end(history, fake_client, fill):
    """One who read up to it slowly goes on with the page that somebody else had read."""
    feed = fill("r", *range(1, 13))
    history.page(feed, START, feed.position)
    fake_client.xtrim("run:r:events", maxlen=6, approximate=False)
    before_the_first = EventId(7, 0).before()
    assert numbers(history, feed, before_the_first, feed.position) == [7, 8, 9, 10]
    assert replay(history, feed, EventId(4, 0)) == [7, 8, 9, 10, 11, 12]
