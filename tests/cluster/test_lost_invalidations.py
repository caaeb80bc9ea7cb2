"""The ways in which a node's word that a log has changed gets lost: all events come anyway."""

import itertools
import os

import pytest

from app.streaming.event_store import EventStore
from app.streaming.log.redis_keys import log_key
from tests.cluster.followers import FAILOVER_SECONDS, MOST_SECONDS, Followers
from tests.cluster_servers import ClusterServers
from tests.servers import RedisServer, wait_until

_numbers = itertools.count()

# What a node tells of so many logs at once is more than the 16 KB that no limit counts.
MANY = 300


@pytest.fixture
def followed(any_cluster, followers):
    return Followed(any_cluster, followers(EventStore(any_cluster.url)))


class Followed:
    """A run that is followed in this process, and its node."""

    def __init__(self, cluster: ClusterServers, followers: Followers):
        self.run_id = f"followed-{os.getpid()}-{next(_numbers)}"
        self.key = f"run:{self.run_id}:events"
        self.cluster, self.followers = cluster, followers
        self.followers.follow(self.run_id)

    @property
    def node(self) -> RedisServer:
        return self.cluster.master_of(self.run_id)

    def command(self, *command: str | int):
        return self.cluster.command(self.node, *command)

    def append(self, count: int = 1) -> int:
        """Append events, and return the sequence of the last."""
        for _ in range(count):
            last = self.followers.store.append(self.run_id, "llm", "stream").event.sequence
        return last

    def has_all(self, last: int, seconds: float = MOST_SECONDS) -> None:
        """Wait for an event; raise AssertionError if one before it is missing, or came twice."""
        self.followers.wait_for(self.run_id, last, seconds)
        assert self.followers.sequences[self.run_id] == list(range(1, last + 1))
        assert not self.followers.notices[self.run_id]

    def clients(self, flag: str) -> list[str]:
        """Return the ids of the connections to the node with a flag, or a command as `cmd=…`."""
        lines = self.command("CLIENT", "LIST").decode().splitlines()
        found = [dict(part.split("=", 1) for part in line.split()) for line in lines]
        return [each["id"] for each in found if flag in each["flags"]]

    def kill(self, flag: str) -> None:
        """Kill all connections with a flag."""
        for number in self.clients(flag):
            self.command("CLIENT", "KILL", "ID", number)


# P: it is subscribed. t: it tracks keys.
@pytest.mark.parametrize("flag", ["P", "t"], ids=["invalidations", "reads"])
def test_a_connection_that_is_killed(followed, flag):
    followed.kill(flag)
    followed.has_all(followed.append(3))
    followed.has_all(followed.append(3))


def test_both_connections_are_killed_again_and_again(followed):
    for _ in range(5):
        last = followed.append()
        followed.kill("P")
        last = followed.append(2)
        followed.kill("t")
    followed.has_all(followed.append())
    assert last < followed.append()


def test_a_tracking_table_for_one_key(start_cluster, followers):
    cluster = start_cluster(3, 0, options=("--tracking-table-max-keys", "1"))
    first = Followed(cluster, followers(EventStore(cluster.url)))
    others = [f"{first.run_id}-{number}" for number in range(20)]
    first.followers.follow(*others)
    for run_id in others:
        for _ in range(3):
            last = first.followers.store.append(run_id, "llm", "stream").event.sequence
    for run_id in others:
        first.followers.wait_for(run_id, last)
        assert first.followers.sequences[run_id] == [1, 2, 3, 4]
    first.has_all(first.append(3))


def test_a_full_output_buffer_of_the_invalidations(start_cluster, followers):
    cluster = start_cluster(3, 0)
    followed = Followed(cluster, followers(EventStore(cluster.url)))
    many = cluster.runs_on(followed.node, MANY)
    followed.followers.follow(*many)
    before = followed.clients("P")
    followed.command("CONFIG", "SET", "client-output-buffer-limit", "pubsub 1 1 1")
    with followed.node.client() as client, client.pipeline(transaction=False) as pipeline:
        for run_id in many:
            pipeline.pexpire(log_key(run_id), 10**8)
        assert pipeline.execute() == [True] * MANY
    last = followed.append(3)
    followed.has_all(last)
    assert not set(before) & set(followed.clients("P")), "the node has closed the connection"
    for run_id in many:
        last = followed.followers.store.append(run_id, "llm", "stream").event.sequence
    for run_id in many:
        followed.followers.wait_for(run_id, last)
        assert followed.followers.sequences[run_id] == [1, 2]


def test_the_node_restarts(start_cluster, followers):
    cluster = start_cluster(3, 0, options=("--appendonly", "yes", "--appendfsync", "always"))
    followed = Followed(cluster, followers(EventStore(cluster.url)))
    followed.append(3)
    node = followed.node
    node.stop()
    node.start()
    wait_until(cluster.serves, "all nodes serve again", 30)
    followed.has_all(followed.append(3), FAILOVER_SECONDS)


def test_the_key_is_deleted_and_begun_again(followed):
    followed.append(3)
    followed.command("DEL", followed.key)
    for _ in range(3):
        followed.append()
    wait_until(
        lambda: followed.followers.notices[followed.run_id],
        "the follower gets a reset",
        MOST_SECONDS,
    )
    followed.followers.wait_for(followed.run_id, 3)
    wait_until(
        lambda: followed.followers.sequences[followed.run_id][-3:] == [1, 2, 3], "all", MOST_SECONDS
    )


def test_the_key_expires_and_begins_again(followed):
    followed.append(3)
    followed.followers.wait_for(followed.run_id, 4)
    followed.command("PEXPIRE", followed.key, 1)
    wait_until(
        lambda: followed.followers.notices[followed.run_id] == ["reset"], "a reset", MOST_SECONDS
    )
    followed.append(2)
    wait_until(
        lambda: followed.followers.sequences[followed.run_id][-2:] == [1, 2], "all", MOST_SECONDS
    )


def test_all_keys_are_flushed(start_cluster, followers):
    cluster = start_cluster(3, 0)
    followed = Followed(cluster, followers(EventStore(cluster.url)))
    followed.command("FLUSHALL")
    wait_until(
        lambda: followed.followers.notices[followed.run_id] == ["reset"], "a reset", MOST_SECONDS
    )
    followed.append(2)
    wait_until(
        lambda: followed.followers.sequences[followed.run_id] == [1, 1, 2], "all", MOST_SECONDS
    )


def test_a_slot_that_moves_without_an_append(start_cluster, followers):
    cluster = start_cluster(3, 0)
    followed = Followed(cluster, followers(EventStore(cluster.url)))
    slot = int(cluster.command(followed.node, "CLUSTER", "KEYSLOT", followed.key))
    for _ in range(2):
        for target in cluster.masters:
            if target is not followed.node:
                cluster.move(slot, target)
                followed.has_all(followed.append())
