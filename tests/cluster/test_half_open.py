"""Connections to a node that are half open: bytes go nowhere, and nobody says that it is over."""

import itertools
from collections.abc import Iterator

import pytest

from app.streaming.event_store import EventStore
from tests.cluster.network import BOTH, Passage, RelayedCluster, Way, named, url_named
from tests.servers import RedisServer, wait_until

_numbers = itertools.count()

# What the gateway's reader sends first over each of its connections, and others do not.
KINDS = {"invalidations": b"__redis__:invalidate", "reads": b"TRACKING"}
ALL = b""


@pytest.fixture(scope="module")
def relayed_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayedCluster]:
    with RelayedCluster(tmp_path_factory.mktemp("half-open"), 3, 0) as servers:
        yield servers


@pytest.mark.parametrize("way", [Way.THERE, Way.BACK, BOTH], ids=["there", "back", "both"])
@pytest.mark.parametrize("sends", [*KINDS.values(), ALL], ids=[*KINDS, "all"])
def test_a_connection_that_is_half_open(relayed_cluster, followers, sends, way):
    name = f"reader-{next(_numbers)}"
    run_ids = [relayed_cluster.runs_on(node, 1, name)[0] for node in relayed_cluster.masters]
    ours = followers(EventStore(url_named(relayed_cluster, name)))
    ours.follow(*run_ids)
    victim = relayed_cluster.masters[0]
    broken = those_that_send(relayed_cluster, name, victim, sends)
    assert len(broken) >= 3 if sends == ALL else len(broken) == 1
    writer = EventStore(relayed_cluster.url)
    with relayed_cluster.network.holding(broken.__contains__, way):
        for _ in range(3):
            last = {run_id: writer.append(run_id, "llm", "stream").event.sequence
                    for run_id in run_ids}  # fmt: skip
            for run_id, sequence in last.items():
                ours.wait_for(run_id, sequence)
        wait_until(
            lambda: those_that_send(relayed_cluster, name, victim, sends) - broken,
            "the reader connects anew",
        )
    for run_id in run_ids:
        assert ours.sequences[run_id] == [1, 2, 3, 4]
        assert not ours.notices[run_id]


def those_that_send(
    cluster: RelayedCluster, name: str, target: RedisServer, sends: bytes
) -> set[Passage]:
    """Return the connections that the clients of a name have made to a node, and sent this over."""
    is_named = named(name)
    return {
        each
        for each in list(cluster.network.passages)
        if is_named(each) and each.target is target and sends in each.beginning
    }
