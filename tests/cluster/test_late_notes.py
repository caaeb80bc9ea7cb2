"""Changes of runs while the node that has their log is away: each is told once."""

import json

import pytest
from redis.crc import key_slot

from app.streaming.event_store import EventStore
from app.streaming.log.redis_keys import log_key
from app.streaming.runs import late_notes
from app.streaming.runs.changes import CHANGES
from tests.cluster_servers import ClusterServers
from tests.servers import RedisServer, wait_until


def told(cluster: ClusterServers) -> list[str]:
    """Return the runs of which the log of changes tells, in its order."""
    key = log_key(CHANGES)
    entries = cluster.command(cluster.owner_of_key(key), "XRANGE", key, "-", "+")
    data = [fields[fields.index(b"data") + 1] for _, fields in entries]
    return [json.loads(each)["run_id"] for each in data]


@pytest.fixture
def cluster(start_cluster) -> ClusterServers:
    return start_cluster(3, 0, options=("--cluster-node-timeout", "60000"))


def two_nodes(cluster: ClusterServers) -> tuple[RedisServer, RedisServer]:
    """Return the node that has the log of changes, and another one."""
    index = cluster.owner_of_key(log_key(CHANGES))
    return index, next(node for node in cluster.masters if node is not index)


def attempts_of(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return a list that grows with each attempt to write notes."""
    found: list[object] = []
    write = store.runs._late._write

    def counted(notes: late_notes.Notes) -> None:
        found.append(notes)
        write(notes)

    monkeypatch.setattr(store.runs._late, "_write", counted)
    return found


def test_a_node_that_stood_still_tells_each_change_once(cluster, monkeypatch):
    """It carries out all that it was sent, also on connections that were given up."""
    store = EventStore(cluster.url + "?socket_timeout=0.5")
    index, other = two_nodes(cluster)
    run_ids = cluster.runs_on(other, 4)
    store.append(run_ids[0], "llm", "stream")
    attempts = attempts_of(store, monkeypatch)
    index.pause()
    try:
        for run_id in run_ids[1:]:
            assert store.append(run_id, "llm", "stream").event.sequence == 1
        wait_until(lambda: len(attempts) >= 4, "it was repeated", 60)
    finally:
        index.resume()
    wait_until(lambda: not store.runs._late.are_waiting, "all is noted", 60)
    assert told(cluster) == run_ids
    assert {run.run_id for run in store.runs.page().runs} == set(run_ids)


def test_a_slot_that_moves_tells_each_change_once(cluster, monkeypatch):
    """The index cannot be written until its slot has moved."""
    store = EventStore(cluster.url)
    index, other = two_nodes(cluster)
    run_ids = cluster.runs_on(other, 3)
    store.append(run_ids[0], "llm", "stream")
    attempts = attempts_of(store, monkeypatch)
    slot = key_slot(log_key(CHANGES).encode())
    cluster.begin_move(slot, other)
    for run_id in run_ids[1:]:
        assert store.append(run_id, "llm", "stream").event.sequence == 1
    wait_until(lambda: len(attempts) >= 3, "it was repeated", 60)
    cluster.move_keys(slot, index, other)
    cluster.end_move(slot, index, other)
    wait_until(lambda: not store.runs._late.are_waiting, "all is noted", 60)
    assert told(cluster) == run_ids
    assert {run.run_id for run in store.runs.page().runs} == set(run_ids)
