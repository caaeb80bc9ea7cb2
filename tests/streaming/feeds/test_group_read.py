"""The XREAD of a group: the bytes that redis-py would send, while the feeds move on."""

import string

import pytest
from redis.connection import Connection

from app.streaming.event_id import LAST, ZERO, EventId
from app.streaming.feeds.feed import Feed
from app.streaming.feeds.group_read import GroupRead, feed_key
from app.streaming.log.log_state import NO_LOG
from app.streaming.log.position import START, Position
from app.streaming.log.redis_keys import log_key
from app.streaming.redis import connection
from tests.streaming.follow.fakes import publish, publish_reset
from tests.streaming.positions import OTHER_EPOCH, at, log

EVERY_CHARACTER = string.ascii_letters + string.digits + "_.-"


def feed(run_id: str, position: EventId = ZERO) -> Feed:
    return Feed(run_id, log(1, last_id=position) if position > ZERO else NO_LOG)


def packed_by_redis_py(feeds: list[Feed], count: int, block_ms: int) -> bytes:
    keys = [log_key(feed.run_id) for feed in feeds]
    ids = [str(feed.position.id) for feed in feeds]
    command = ("XREAD", "COUNT", count, "BLOCK", block_ms, "STREAMS", *keys, *ids)
    return b"".join(Connection().pack_command(*command))


@pytest.mark.parametrize(
    "run_ids",
    [
        ["1"],
        list(EVERY_CHARACTER),
        [EVERY_CHARACTER, "a" * 128, "...", "-", "_"],
        [str(number) for number in range(64)],
    ],
)
@pytest.mark.parametrize("position", [ZERO, EventId(1704067200000, 12), LAST])
@pytest.mark.parametrize(("count", "block_ms"), [(256, 5000), (1, 1), (1000, 0)])
def test_the_bytes_are_those_of_redis_py(run_ids, position, count, block_ms):
    feeds = [feed(run_id, position) for run_id in run_ids]
    assert GroupRead(feeds, count).pack(block_ms) == packed_by_redis_py(feeds, count, block_ms)


def test_each_pack_asks_from_the_current_positions():
    feeds = [feed(str(number), EventId(9, number)) for number in range(5)]
    group = GroupRead(feeds, 256)
    changes = [
        lambda: None,
        lambda: publish(feeds[0], 10),
        lambda: publish(feeds[4], 100),
        lambda: [publish(feeds[0], 1000), publish(feeds[2], 10**12)],
        lambda: publish_reset(feeds[2]),
        lambda: [publish(feeds[2], 1), publish_reset(feeds[0])],
        lambda: publish_reset(feeds[2], b"3"),
        lambda: None,
    ]
    for block_ms, change in enumerate(changes, 1):
        change()
        assert group.pack(block_ms) == packed_by_redis_py(feeds, 256, block_ms)
    assert [str(each.position.id) for each in feeds] == ["0-0", "9-1", "0-0", "9-3", "100-0"]


def test_the_origin_is_the_position_of_the_last_pack_though_the_feed_has_moved_on():
    """It is the very same object, by which the feed knows what was read from where."""
    feeds = one, other = feed("1", EventId(5, 0)), feed("2", EventId(7, 0))
    group = GroupRead(feeds, 256)
    group.pack(1)
    packed = [each.position for each in feeds]
    publish(one, 6)
    publish_reset(other)
    for each, position in zip(feeds, packed, strict=True):
        origin, at_position = group.origin(feed_key(each))
        assert origin is each
        assert at_position is position
    group.pack(1)
    assert group.origin(feed_key(one)) == (one, at(6))
    assert group.origin(feed_key(other)) == (other, (OTHER_EPOCH, ZERO, 0))


def test_another_log_at_the_beginning_makes_the_origin_another_position():
    """The bytes are the same, but the entries belong to another log."""
    one = feed("1")
    group = GroupRead([one], 256)
    before = group.pack(1)
    assert group.origin(feed_key(one)) == (one, START)
    publish_reset(one)
    assert group.pack(1) == before
    assert group.origin(feed_key(one)) == (one, Position(OTHER_EPOCH, ZERO, 0))


@pytest.mark.parametrize("runs", [0, 1, 64])
def test_the_length_is_the_number_of_feeds(runs):
    assert len(GroupRead([feed(str(number)) for number in range(runs)], 256)) == runs


def test_redis_returns_the_keys_as_they_were_sent(store, redis_client, run_id):
    run_ids = [run_id, f"{run_id}{EVERY_CHARACTER}", f"{run_id}-silent"]
    feeds = [feed(each) for each in run_ids]
    group = GroupRead(feeds, 2)
    for each in run_ids[:2]:
        ids = [store.add(each, "llm", "stream") for _ in range(3)]
    link = connection.make_connection(redis_client, read_timeout=10)
    try:
        [streams] = connection.exchange_packed(link, group.pack(5000), 1)
    finally:
        link.disconnect()
    assert [group.origin(key)[0] for key, _ in streams] == feeds[:2]
    assert [entry_id.decode() for entry_id, _ in streams[1][1]] == ids[:2]
