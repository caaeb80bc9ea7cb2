"""How many connections a worker has to each node does not depend on the runs that it follows."""

import contextlib
import threading

import pytest
import requests

from app.streaming.event_store import EventStore
from tests.clients import Stream
from tests.cluster_servers import ClusterServers
from tests.integration.test_access import SECRET, admin, append, bearer, token
from tests.servers import wait_until

# Two of the reader, and those of the pools.
MOST = 2 + 16


class Counter:
    """What a feed needs of who follows it."""

    gets = "text/event-stream"

    def wake(self) -> None:
        """It looks at nothing."""


def connections(cluster: ClusterServers) -> list[int]:
    """Return how many connections of clients each master has, but for the one that asks."""
    return [
        sum(b" flags=N " in line or b" flags=P " in line or b" flags=t " in line
            for line in cluster.command(node, "CLIENT", "LIST").splitlines()) - 1
        for node in cluster.masters
    ]  # fmt: skip


@pytest.mark.parametrize("count", [10, 500, 5_000])
def test_the_connections_to_each_node_are_few(start_cluster, followers, count):
    cluster = start_cluster(3, 0)
    store = EventStore(cluster.url)
    ours = followers(store)
    run_ids = [f"r-{number}" for number in range(count)]
    listener = Counter()
    feeds = [ours.readers.join(run_id, store.state(run_id), listener) for run_id in run_ids]
    ours.follow("last")
    for run_id in run_ids[:: max(1, count // 100)]:
        store.append(run_id, "llm", "stream")
    wait_until(
        lambda: all(feed.position.sequence == 1 for feed in feeds[:: max(1, count // 100)]),
        "the events are read",
        30,
    )
    assert all(2 <= each <= MOST for each in connections(cluster)), connections(cluster)
    for feed in feeds:
        ours.readers.leave(feed, listener)


def test_a_whole_gateway_that_waits_for_replicas(start_cluster, start_gateway):
    cluster = start_cluster(3, 1)
    settings = {"AUTH_SECRET": SECRET, "ACK_REPLICAS": 1, "WEB_CONCURRENCY": 1}
    store, before = EventStore(cluster.url), connections(cluster)
    run_ids = [run_id for node in cluster.masters for run_id in cluster.runs_on(node, 16)]
    for run_id in run_ids:
        store.add_many(
            run_id, [{"event_category": "a", "event_action": "b", "data": "x" * 900}] * 99
        )
    alone = connections(cluster)
    gateway = start_gateway(cluster.url, **settings)
    headers, most, over = bearer(token()), [0, 0, 0], threading.Event()

    def read(run_id: str) -> None:
        with requests.Session() as session:
            while not over.is_set():
                session.get(f"{gateway.url}/runs/{run_id}/events", headers=headers, timeout=30)
                session.get(f"{gateway.url}/readyz", timeout=30)

    with contextlib.ExitStack() as stack:
        streams = [
            stack.enter_context(Stream(f"{gateway.url}/runs/{run_id}/events/stream", headers))
            for run_id in run_ids
        ]
        threads = [threading.Thread(target=read, args=(run_id,)) for run_id in run_ids]
        for thread in threads:
            thread.start()
        revocation = {"jti": "another"}
        url = f"{gateway.url}/revocations"
        try:
            for _ in range(3):
                assert requests.post(url, json=revocation, headers=admin(), timeout=30).ok
                for run_id in run_ids:
                    assert append(gateway, run_id, headers) == 201
                now = connections(cluster)
                most = [max(pair) for pair in zip(most, now, strict=True)]
        finally:
            over.set()
            for thread in threads:
                thread.join()
        for stream in streams:
            stream.wait_for_events(102, 40)
    print(f"{before} before, {alone} of the test, at most {most}")
    ours = [all_of - other for all_of, other in zip(most, alone, strict=True)]
    assert all(6 <= each <= MOST for each in ours), ours


def test_a_node_that_the_url_names_in_another_way_keeps_no_connection_for_that(start_cluster):
    cluster = start_cluster(3, 0)
    store = EventStore(cluster.url.replace("127.0.0.1", "localhost"))
    store.check_ready()
    assert store.silent_nodes() == {}
    wait_until(lambda: connections(cluster) == [1, 1, 1], "one is left to each node")
    store.check_ready()
    assert connections(cluster) == [1, 1, 1]
