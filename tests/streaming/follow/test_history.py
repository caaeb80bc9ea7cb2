"""History in memory: read once and shared, bounded in bytes, and never out of date."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from app.streaming.errors import StoreUnavailable
from app.streaming.event_id import LAST, EventId
from app.streaming.event_store import EventStore
from app.streaming.feeds.feed import Feed
from app.streaming.follow import history as history_module
from app.streaming.follow.history import History
from app.streaming.log import reader as log_reader
from app.streaming.log.log_state import NO_LOG
from app.streaming.log.position import START, Between, Position
from app.streaming.log.reader import INITIAL_COUNT, MAX_GROWTH
from app.streaming.wire.frame_batch import MAX_BATCH_BYTES, FrameBatch
from tests.servers import wait_until

EPOCH, OTHER_EPOCH = b"1", b"2"
BEGINNING = Between(EPOCH, EventId(1, 0).before(), 0)


class CountingStore(EventStore):
    """A store that records what was read, and can hold up the answers.

    `ranges` has the reads of entries alone, `whole_reads` those with the state of the log.
    """

    def __init__(self, client: redis.Redis):
        super().__init__(client=client)
        self.ranges: list[tuple[int, int]] = []
        self.whole_reads: list[int] = []
        self.open = threading.Event()
        self.open.set()

    def entries_after(self, run_id, position, upto, count):
        found = super().entries_after(run_id, position, upto, count)
        self.ranges.append((position.id.ms, upto.ms))
        assert self.open.wait(20)
        return found

    def read(self, run_id, after, count, **options):
        self.whole_reads.append(after.ms)
        return super().read(run_id, after, count, **options)


@pytest.fixture
def store(fake_client) -> CountingStore:
    return CountingStore(fake_client)


@pytest.fixture
def history(store) -> History:
    return History(store)


@pytest.fixture
def fill(fake_client, store):
    """Append events with the ids 1-0, 2-0 and so on, and return a feed of the run."""

    def fill(run_id: str, *numbers: int, size: int = 1, epoch: bytes | None = EPOCH) -> Feed:
        key = f"run:{run_id}:events"
        added = store.state(run_id).last_sequence
        for sequence, number in enumerate(numbers, added + 1):
            fields = {
                "timestamp": "2026-01-01T00:00:00.000Z",
                "sequence": sequence,
                "epoch": epoch,
                "event_category": "llm",
                "event_action": "stream",
                "data": '"%s"' % ("x" * size),
            }
            if epoch is None:
                fields = {"data": fields["data"]}
            fake_client.xadd(key, fields, f"{number}-0")
        return Feed(run_id, store.state(run_id))

    return fill


@pytest.fixture
def small_pages(monkeypatch) -> None:
    """Pages of four events."""
    monkeypatch.setattr(history_module, "INITIAL_COUNT", 4)
    monkeypatch.setattr(history_module, "next_count", lambda size, entries: 4)


def at(number: int, sequence: int | None = None) -> Position:
    """The position after the event with a number."""
    return Position(EPOCH, EventId(number, 0), sequence or number)


def told(batches: list[FrameBatch], position: Position) -> list[int | str]:
    """The numbers of the events and the names of the notices; checks that one follows the other."""
    for batch in batches:
        assert batch.start == position
        position = batch.end
    return [
        frame.cursor.ms if batch.events else frame.action
        for batch in batches
        for frame in batch.frames
    ]


def page(
    history: History, feed: Feed, position: Position, end: EventId | None = None
) -> list[int | str]:
    """What one call gives."""
    return told(history.after(feed, position, end or feed.position.id), position)


def replay(
    history: History, feed: Feed, position: Position = BEGINNING, end: EventId | None = None
) -> list[int | str]:
    """What a subscriber gets, page by page."""
    seen: list[int | str] = []
    end = end or feed.position.id
    while position.id < end:
        batches = history.after(feed, position, end)
        if not batches:
            break
        seen += told(batches, position)
        position = batches[-1].end
    return seen


def cost_of_a_page(store: EventStore, feed: Feed) -> int:
    [page] = History(store).after(feed, BEGINNING, feed.position.id)
    return page.cost


# Reading


def test_an_empty_log_has_nothing(history):
    assert history.after(Feed("r", NO_LOG), START, LAST) == []


def test_at_the_end_of_the_log_there_is_nothing(history, fill):
    feed = fill("r", 1, 2)
    assert history.after(feed, at(2), LAST) == []
    assert feed.pages == []


def test_the_start_of_every_log_is_looked_up_in_the_log(history, store, fill):
    """A page in memory may be of the log before."""
    feed = fill("r", 1, 2)
    for _ in range(2):
        assert page(history, feed, START) == [1, 2]
    assert store.ranges == [(0, 2), (0, 2)]
    assert len(feed.pages) == 1


def test_a_page_leads_from_the_position_to_its_last_event_and_is_then_in_memory(history, fill):
    feed = fill("r", 3, 4)
    [page] = history.after(feed, BEGINNING, feed.position.id)
    assert (page.start, page.end, page.events) == (BEGINNING, at(4, 2), 2)
    [same] = history.after(feed, BEGINNING, feed.position.id)
    assert same is page


def test_a_page_is_read_once(history, store, fill):
    feed = fill("r", *range(1, 201))
    assert replay(history, feed) == list(range(1, 201))
    read = len(store.ranges)
    assert 1 < read < 5
    assert replay(history, feed) == list(range(1, 201))
    assert len(store.ranges) == read


def test_the_first_page_is_small_and_the_next_as_large_as_its_events_allow(history, store, fill):
    feed = fill("r", *range(1, 1201))
    first = history.after(feed, BEGINNING, feed.position.id)
    second = history.after(feed, first[-1].end, feed.position.id)
    assert [sum(page.events for page in pages) for pages in (first, second)] == [
        INITIAL_COUNT,
        MAX_GROWTH * INITIAL_COUNT,
    ]


def test_what_one_read_gives_is_divided_into_pages_of_bounded_size(
    history, store, fill, monkeypatch
):
    monkeypatch.setattr(history_module, "INITIAL_COUNT", 64)
    feed = fill("r", *range(1, 51), size=10_000)
    pages = history.after(feed, BEGINNING, feed.position.id)
    assert len(pages) == 9
    assert all(page.size <= MAX_BATCH_BYTES for page in pages)
    assert [page.start for page in pages[1:]] == [page.end for page in pages[:-1]]
    read = len(store.ranges)
    assert history.after(feed, pages[3].end, feed.position.id) == [pages[4]]
    assert replay(history, feed) == list(range(1, 51))
    assert len(store.ranges) == read


def test_a_page_of_large_events_is_bounded_in_bytes(history, fill, monkeypatch):
    monkeypatch.setattr(log_reader, "MAX_READ_BYTES", 10_000)
    feed = fill("r", *range(1, 201), size=1000)
    first = history.after(feed, BEGINNING, feed.position.id)
    [second] = history.after(feed, first[-1].end, feed.position.id)
    assert 0 < second.size <= 10_000


def test_callers_wait_for_a_page_that_another_caller_reads(history, store, fill):
    feed = fill("r", *range(1, 11))
    store.open.clear()
    with ThreadPoolExecutor(20) as threads:
        pages = [
            threads.submit(history.after, feed, BEGINNING, feed.position.id) for _ in range(20)
        ]
        wait_until(lambda: store.ranges, "one caller reads the log")
        store.open.set()
        distinct = {id(page.result()[0]) for page in pages}
    assert len(distinct) == 1
    assert store.ranges == [(0, 10)]


def test_reading_a_page_does_not_hold_up_other_runs(history, store, fill):
    slow, fast = fill("slow", 1, 2), fill("fast", 1, 2)
    assert page(history, fast, BEGINNING) == [1, 2]
    store.open.clear()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(history.after, slow, BEGINNING, slow.position.id)
        wait_until(lambda: len(store.ranges) == 2, "the slow run is being read")
        assert page(history, fast, BEGINNING) == [1, 2]
        store.open.set()
        assert len(waiting.result()[0].frames) == 2


def test_after_a_failed_read_the_next_caller_reads(history, store, fill, monkeypatch):
    feed = fill("r", 1)

    def fail(*arguments):
        raise StoreUnavailable("not there")

    with monkeypatch.context() as patched:
        patched.setattr(CountingStore, "entries_after", fail)
        with pytest.raises(StoreUnavailable):
            history.after(feed, BEGINNING, feed.position.id)
    assert page(history, feed, BEGINNING) == [1]


# Positions


def test_a_position_within_a_page_gets_the_rest_of_the_page(history, store, fill):
    feed = fill("r", *range(1, 11))
    replay(history, feed)
    assert page(history, feed, at(7)) == [8, 9, 10]
    assert page(history, feed, Between(EPOCH, EventId(7, 5), 7)) == [8, 9, 10]
    assert page(history, feed, at(7)._replace(sequence=None)) == [8, 9, 10]
    assert (len(store.ranges), store.whole_reads) == (1, [])


@pytest.mark.usefixtures("small_pages")
def test_pages_do_not_overlap(history, store, fill):
    feed = fill("r", *range(1, 11))
    assert page(history, feed, at(3)) == [4, 5, 6, 7]
    assert page(history, feed, BEGINNING) == [1, 2, 3]
    assert replay(history, feed) == list(range(1, 11))
    assert store.ranges == [(3, 10), (0, 3), (7, 10)]
    pages = [(page.start.id.ms, page.end.id.ms) for page in feed.pages]
    assert pages == [(0, 3), (3, 7), (7, 10)]


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("first", list(itertools.permutations([0, 2, 5, 9])))
def test_positions_in_any_order_get_every_event_once(history, fill, first):
    feed = fill("r", *range(1, 13))
    for number in first:
        position = at(number) if number else BEGINNING
        assert replay(history, feed, position) == list(range(number + 1, 13))
    assert sum(len(page.frames) for page in feed.pages) == 12


@pytest.mark.parametrize("number", [5, 4, 0])
def test_a_cursor_that_is_no_event_of_the_log_hides_nothing_from_others(history, fill, number):
    """A client may send any id, and a page then begins after it."""
    feed = fill("r", *range(1, 11))
    somewhere = Between(b"", EventId(5, 7), None)
    assert replay(history, feed, somewhere) == [6, 7, 8, 9, 10]
    position = at(number) if number else BEGINNING
    assert replay(history, feed, position) == list(range(number + 1, 11))


def test_events_after_the_last_page_are_read_when_they_are_needed(history, store, fill):
    feed = fill("r", 1, 2, 3)
    replay(history, feed)
    fill("r", 4, 5)
    assert replay(history, feed, end=EventId(5, 0)) == [1, 2, 3, 4, 5]
    assert store.ranges == [(0, 3), (3, 5)]


def test_events_of_another_program_are_read_with_the_state_that_counts_them(history, store, fill):
    feed = fill("r", 1, 2, 3, epoch=None)
    assert replay(history, feed, START) == [1, 2, 3]
    assert len(store.whole_reads) == 1
    [page] = feed.pages
    assert (page.end, page.events) == (feed.position, 3)


# The bound in bytes


def test_the_least_recently_used_page_is_dropped_first(store, fill):
    feeds = {name: fill(name, 1, size=1000) for name in "abcd"}
    history = History(store, max_bytes=3 * cost_of_a_page(store, fill("like-those", 1, size=1000)))
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
    bound = int(pages * cost_of_a_page(store, fill("x", *events, size=1000))) + 100
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
    fill("r", 2, 4, epoch=OTHER_EPOCH)
    feed.note_version(store.state("r"))
    assert replay(history, feed, START, EventId(4, 0)) == [2, 4]
    assert replay(history, feed, end=EventId(4, 0))[0] == "reset"


def test_a_position_in_the_old_log_gets_a_reset_though_nobody_knows_of_the_new_one(
    history, store, fake_client, fill
):
    """The history itself reads the log, and tells every page of the old log from it."""
    feed = fill("r", *range(1, 5))
    replay(history, feed, end=EventId(2, 0))
    fake_client.delete("run:r:events")
    fill("r", *range(1, 9), epoch=OTHER_EPOCH)
    batches = history.after(feed, at(4), LAST)
    assert told(batches, at(4)) == ["reset"]
    assert replay(history, feed, batches[-1].end, EventId(8, 0)) == list(range(1, 9))
    assert {page.end.epoch for page in feed.pages} == {OTHER_EPOCH}


def test_a_position_beyond_the_end_gets_a_reset(history, fill):
    feed = fill("r", 1, 2)
    assert page(history, feed, at(9), LAST) == ["reset"]


def test_a_log_that_is_gone_is_a_reset(history, fake_client, fill):
    feed = fill("r", 1, 2)
    fake_client.delete("run:r:events")
    [reset] = history.after(feed, at(2), LAST)
    assert told([reset], at(2)) == ["reset"]
    assert history.after(feed, reset.end, LAST) == []


def test_after_a_deletion_the_log_is_read_again(history, store, fake_client, fill):
    feed = fill("r", 1, 2, 3)
    replay(history, feed)
    fake_client.xdel("run:r:events", "2-0")
    feed.note_version(store.state("r"))
    assert replay(history, feed) == [1, "gap", 3]
    feed.note_version(store.state("r"))
    reads = len(store.ranges)
    assert replay(history, feed, at(2)) == [3]
    assert len(store.ranges) == reads + 1  # only the log tells that its own entry was deleted


def test_every_position_before_a_hole_gets_the_gap_and_others_do_not(history, fake_client, fill):
    feed = fill("r", *range(1, 7))
    fake_client.xdel("run:r:events", "3-0", "4-0")
    for _ in range(2):
        assert replay(history, feed) == [1, 2, "gap", 5, 6]
        assert replay(history, feed, at(2)) == ["gap", 5, 6]
        assert replay(history, feed, at(3)) == ["gap", 5, 6]
        assert replay(history, feed, at(4)) == [5, 6]


def test_an_entry_deleted_after_a_later_one_was_deleted_is_read_again_too(
    history, store, fake_client, fill
):
    feed = fill("r", *range(1, 7))
    for number, expected in [(5, [1, 2, 3, 4, "gap", 6]), (3, [1, 2, "gap", 4, "gap", 6])]:
        replay(history, feed)
        fake_client.xdel("run:r:events", f"{number}-0")
        feed.note_version(store.state("r"))
        assert replay(history, feed) == expected


def test_a_page_that_became_out_of_date_while_it_was_read_is_not_kept(
    history, store, fake_client, fill
):
    feed = fill("r", 1, 2, 3)
    store.open.clear()
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(history.after, feed, BEGINNING, feed.position.id)
        wait_until(lambda: store.ranges, "the page is being read")
        fake_client.xdel("run:r:events", "2-0")
        feed.note_version(store.state("r"))
        store.open.set()
        assert len(reading.result()[0].frames) == 3
    assert feed.pages == []
    assert replay(history, feed) == [1, "gap", 3]


def test_a_state_from_before_a_deletion_brings_no_deleted_event_back(
    history, store, fake_client, fill
):
    """Two states, from before and after a deletion, may be noted in the wrong order."""
    feed = fill("r", 1, 2, 3)
    replay(history, feed)
    before = store.state("r")
    fake_client.xdel("run:r:events", "2-0")
    feed.note_version(store.state("r"))
    feed.note_version(before)
    assert replay(history, feed) == [1, "gap", 3]


# Trimming


@pytest.mark.usefixtures("small_pages")
def test_a_page_in_memory_survives_trimming_and_the_next_is_read(history, fake_client, fill):
    feed = fill("r", *range(1, 13))
    assert page(history, feed, BEGINNING) == [1, 2, 3, 4]
    fake_client.xtrim("run:r:events", maxlen=6, approximate=False)
    assert page(history, feed, BEGINNING) == [1, 2, 3, 4]
    assert page(history, feed, at(4)) == ["gap", 7, 8, 9, 10, 11]


@pytest.mark.usefixtures("small_pages")
def test_every_caller_gets_the_gap_where_events_were_trimmed_before_a_page(
    history, fake_client, fill
):
    """Else the second client to come to a gap would get no notice."""
    feed = fill("r", *range(1, 13))
    assert page(history, feed, BEGINNING) == [1, 2, 3, 4]
    fake_client.xtrim("run:r:events", maxlen=6, approximate=False)
    # A read with the state asks for one entry more, the one at the position, which is gone.
    assert page(history, feed, at(4)) == ["gap", 7, 8, 9, 10, 11]
    for _ in range(2):
        assert replay(history, feed, at(4)) == ["gap", 7, 8, 9, 10, 11, 12]
    pages = [[frame.cursor.ms for frame in page.frames] for page in feed.pages if page.events]
    assert pages == [[1, 2, 3, 4], [7, 8, 9, 10, 11], [12]]  # each is kept once
    assert [page.end.sequence for page in feed.pages if page.is_gap] == [6]


@pytest.mark.usefixtures("small_pages")
def test_a_hole_between_two_pages_is_not_the_end(history, fake_client, fill):
    """A slow client goes on with the page that another client has read."""
    feed = fill("r", *range(1, 13))
    page(history, feed, BEGINNING)
    fake_client.xtrim("run:r:events", maxlen=6, approximate=False)
    beginning = Between(EPOCH, EventId(7, 0).before(), 6)
    assert page(history, feed, beginning) == [7, 8, 9, 10]
    assert replay(history, feed, at(4)) == ["gap", 7, 8, 9, 10, 11, 12]
