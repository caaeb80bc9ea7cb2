"""Slots that no node serves for a while: the feeds of other runs on the node go on meanwhile."""

import threading

import pytest
from redis.crc import key_slot
from redis.exceptions import ClusterDownError

from app.streaming.event_store import EventStore
from app.streaming.feeds import feed_group
from app.streaming.feeds.feed import Feed
from app.streaming.feeds.group_read import GROUP_SIZE
from app.streaming.feeds.tracking_reader import TrackingReader
from app.streaming.log.redis_keys import log_key
from tests.cluster_servers import ClusterServers
from tests.servers import wait_until


@pytest.fixture
def failures(monkeypatch) -> list[Exception]:
    """Return the errors for which readers have given up their connections."""
    errors: list[Exception] = []
    real = TrackingReader._back_off

    def back_off(reader: TrackingReader, error: Exception) -> None:
        errors.append(error)
        real(reader, error)

    monkeypatch.setattr(TrackingReader, "_back_off", back_off)
    return errors


def at_all(cluster: ClusterServers, *command: str | int) -> None:
    """Send a command to all masters at once."""
    threads = [
        threading.Thread(target=cluster.command, args=(node, *command)) for node in cluster.masters
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# The lame one is alone in its group, or with others.
@pytest.mark.parametrize("healthy", [GROUP_SIZE, 3])
def test_a_slot_that_nobody_serves_stops_no_other_feed(
    start_cluster, followers, failures, monkeypatch, healthy
):
    checks: list[object] = []
    real = feed_group.FeedGroup.check

    def check(group: feed_group.FeedGroup) -> list[Feed]:
        try:
            return real(group)
        finally:
            if lame in [feed.run_id for feed in group.feeds()]:
                checks.append(group)

    cluster = start_cluster(3, 0)
    node, store = cluster.masters[0], EventStore(cluster.url)
    *runs, lame = cluster.runs_on(node, healthy + 1)
    slot = key_slot(log_key(lame).encode())
    assert all(key_slot(log_key(each).encode()) != slot for each in runs)
    following = followers(store)
    following.follow(*runs, lame)
    monkeypatch.setattr(feed_group.FeedGroup, "check", check)
    at_all(cluster, "CLUSTER", "DELSLOTS", slot)
    wait_until(lambda: store.engine.lane_of(log_key(lame)) == "", "the map lacks the slot")
    for _ in range(3):
        seen = len(checks)
        following.wait_for(runs[0], store.append(runs[0], "llm", "stream").event.sequence)
        wait_until(lambda seen=seen: len(checks) > seen, "the lame one was asked about")
    assert failures == []
    cluster.command(node, "CLUSTER", "ADDSLOTS", slot)
    wait_until(cluster.serves, "the slot is served again", 30)
    wait_until(lambda: store.engine.lane_of(log_key(lame)), "the map has the slot")
    following.wait_for(lame, store.append(lame, "llm", "stream").event.sequence)
    following.wait_for(runs[0], store.append(runs[0], "llm", "stream").event.sequence)
    assert following.sequences[lame] == [1, 2]
    assert failures == []


def test_a_log_is_read_again_after_a_moment_in_which_it_was_not_served(
    shared_cluster, followers, failures, monkeypatch
):
    """Redis does not note who has read a key that it does not serve, so it tells no change."""
    monkeypatch.setattr(feed_group, "CHECK_SECONDS", 3600.0)
    store = EventStore(shared_cluster.url)
    node = shared_cluster.masters[0]
    [run_id] = shared_cluster.runs_on(node, 1, "moment")
    following, refused = followers(store), []
    following.follow(run_id)
    real = TrackingReader._exchange

    def exchange(reader, invalidations, reads, packed):
        if not refused:
            refused.append(reads)
            return [ClusterDownError("The cluster is down")] * len(reads)
        read_again.append(reads)
        return real(reader, invalidations, reads, packed)

    read_again: list[object] = []
    monkeypatch.setattr(TrackingReader, "_exchange", exchange)
    # Tells a change, and adds nothing.
    shared_cluster.command(node, "PEXPIRE", log_key(run_id), 10**8)
    wait_until(lambda: refused and read_again, "the log is read again")
    following.wait_for(run_id, store.append(run_id, "llm", "stream").event.sequence)
    assert failures == []


def test_an_error_of_a_read_of_one_log_stops_no_other_feed(
    shared_cluster, followers, failures, monkeypatch
):
    monkeypatch.setattr(feed_group, "CHECK_SECONDS", 3600.0)
    store = EventStore(shared_cluster.url)
    lame, other = shared_cluster.runs_on(shared_cluster.masters[0], 2, "error")
    following = followers(store)
    following.follow(lame, other)
    real, refused = feed_group.FeedGroup.publish, []

    def publish(group, feed, position, entries):
        if feed.run_id == lame and len(refused) < 3:
            refused.append(feed)
            raise feed_group.StoreUnavailable("nobody has the slot")
        real(group, feed, position, entries)

    monkeypatch.setattr(feed_group.FeedGroup, "publish", publish)
    last = store.append(lame, "llm", "stream").event.sequence
    following.wait_for(other, store.append(other, "llm", "stream").event.sequence)
    following.wait_for(lame, last)
    assert len(refused) == 3
    assert failures == []
