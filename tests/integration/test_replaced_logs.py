"""History pages that subscribers share, while the log is trimmed or replaced."""

import json

import pytest

from app.streaming.event_store import EventStore
from app.streaming.feeds.readers import make_readers
from app.streaming.follow.heartbeats import Heartbeats
from app.streaming.follow.history import History
from app.streaming.follow.replay import Replay
from app.streaming.follow.start import Start
from app.streaming.follow.subscriber import Services, Subscriber
from app.streaming.log.position import Position
from app.streaming.log.reader import INITIAL_COUNT
from app.streaming.wire.formats import Filter, JsonLines, StreamFormat
from tests.servers import wait_until


class Viewer:
    """A subscriber in this process. Its history is read one chunk at a time."""

    def __init__(self, run_id: str, services: Services):
        stream_format = StreamFormat(Filter(), JsonLines())
        self.seen: list[int | str] = []
        replay = Replay(run_id, Start(), services)
        self._subscriber = Subscriber(replay, stream_format, services)
        self._chunks = self._subscriber.chunks()

    def __enter__(self) -> "Viewer":
        return self

    def __exit__(self, *exc_info) -> None:
        self._subscriber.close()

    @property
    def feed_position(self) -> Position:
        return self._subscriber._replay.feed.position

    def read_until(self, sequence_or_action: int | str) -> None:
        while sequence_or_action not in self.seen:
            for line in next(self._chunks).splitlines():
                event = json.loads(line)
                self.seen.append(event["sequence"] or event["event"]["action"])


@pytest.fixture
def services(store: EventStore) -> Services:
    """Wire the live side on the real server, as the app factory does."""
    history = History(store)
    return Services(store, make_readers(store, history.drop), history, Heartbeats(15.0))


def test_two_subscribers_whose_history_is_trimmed_both_get_the_gap(
    store, redis_client, services, run_id
):
    for number in range(200):
        store.add(run_id, "llm", "stream", number)
    with Viewer(run_id, services) as first, Viewer(run_id, services) as second:
        first.read_until(INITIAL_COUNT)
        second.read_until(INITIAL_COUNT)
        redis_client.xtrim(f"run:{run_id}:events", maxlen=20, approximate=False)
        first.read_until("caught_up")
        second.read_until("caught_up")
    expected = ["heartbeat", *range(1, INITIAL_COUNT + 1), "gap", *range(181, 201), "caught_up"]
    assert first.seen == expected
    assert second.seen == expected


def test_a_subscriber_whose_history_is_trimmed_uses_the_page_that_another_has_read(
    store, redis_client, services, run_id
):
    for number in range(200):
        store.add(run_id, "llm", "stream", number)
    with Viewer(run_id, services) as slow:
        slow.read_until(INITIAL_COUNT)
        redis_client.xtrim(f"run:{run_id}:events", maxlen=20, approximate=False)
        with Viewer(run_id, services) as fast:
            fast.read_until("caught_up")
        slow.read_until("caught_up")
    assert fast.seen == ["heartbeat", *range(181, 201), "caught_up"]
    assert slow.seen == [
        "heartbeat",
        *range(1, INITIAL_COUNT + 1),
        "gap",
        *range(181, 201),
        "caught_up",
    ]


def test_two_subscribers_whose_log_is_replaced_get_the_reset_and_then_the_new_log(
    store, services, run_id
):
    # Given two subscribers in the middle of a log
    for number in range(200):
        store.add(run_id, "llm", "stream", number)
    with Viewer(run_id, services) as first, Viewer(run_id, services) as second:
        first.read_until(INITIAL_COUNT)
        second.read_until(INITIAL_COUNT)
        # When another log takes its place, longer than what a feed keeps
        store.delete(run_id)
        for _ in range(299):
            store.add(run_id, "tool", "anew", "x" * 2000)
        store.add(run_id, "lifecycle", "completed")
        last_id = store.state(run_id).last_id
        wait_until(lambda: first.feed_position.id == last_id, "the reader has read it")
        # Then both get the reset before any of its events
        for replay in (first, second):
            replay.read_until(300)
            replay.seen = [each for each in replay.seen[INITIAL_COUNT + 1 :] if each != "caught_up"]
            assert replay.seen[0] == "reset"
            assert replay.seen == ["reset", *range(1, 301)]
