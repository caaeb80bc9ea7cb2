"""Nodes that fail: followers get what the log of the new master has, and the other runs go on."""

import contextlib
import threading
import time
from collections.abc import Iterator

import pytest
import requests
from redis.crc import key_slot

from app.streaming.errors import StoreUnavailable
from app.streaming.event_store import EventStore
from app.streaming.log.redis_keys import log_key
from app.streaming.runs.changes import CHANGES
from app.streaming.runs.run_index import ACTIVE
from tests.clients import Stream
from tests.cluster_servers import ClusterServers
from tests.redis.programs import REDIS_OF_DEBIAN, VALKEY_8, on_both, on_debian
from tests.servers import GatewayServer, RedisServer, wait_until

EVENT = {"event_category": "llm", "event_action": "stream", "data": 1}


class Producers:
    """Threads that append to runs of a gateway again and again.

    Attributes:
        acknowledged: the ids of the events that were stored, for each run, in order.
        refusals: the statuses of the other answers.
        longest: the longest time between two acknowledged appends of a run, in seconds.
    """

    def __init__(self, gateway: GatewayServer, run_ids: list[str], key: str = ""):
        self.acknowledged: dict[str, list[str]] = {run_id: [] for run_id in run_ids}
        self.refusals: list[int] = []
        self.longest = 0.0
        self._gateway, self._key = gateway, key
        self._is_over = threading.Event()
        self._threads = [
            threading.Thread(target=self._append, args=(run_id,)) for run_id in run_ids
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()

    def wait_for(self, count: int) -> None:
        """Wait until so many more events are stored of each run."""
        want = {run_id: len(ids) + count for run_id, ids in self.acknowledged.items()}
        wait_until(
            lambda: all(len(self.acknowledged[run_id]) >= least for run_id, least in want.items()),
            "more is appended",
            60,
        )

    def _append(self, run_id: str) -> None:
        with requests.Session() as session:
            last, number = time.monotonic(), 0
            while not self._is_over.wait(0.005):
                number += 1
                headers = {"Idempotency-Key": f"{self._key}-{number}"} if self._key else {}
                answer = session.post(
                    f"{self._gateway.url}/runs/{run_id}/events",
                    json=EVENT | {"data": number},
                    headers=headers,
                    timeout=30,
                )
                now = time.monotonic()
                if answer.status_code == 201:
                    self.acknowledged[run_id].append(answer.json()["id"])
                    self.longest, last = max(self.longest, now - last), now
                else:
                    self.refusals.append(answer.status_code)


@contextlib.contextmanager
def followed(gateway: GatewayServer, run_ids: list[str]) -> Iterator[dict[str, Stream]]:
    """Follow runs, each on a stream of its own."""
    with contextlib.ExitStack() as stack:
        yield {
            run_id: stack.enter_context(Stream(f"{gateway.url}/runs/{run_id}/events/stream"))
            for run_id in run_ids
        }


def ids_of(stream: Stream) -> list[str]:
    return [each.json["id"] for each in stream.events]


def names_of(stream: Stream) -> set[str]:
    return {each.json["event"]["action"] for each in stream.controls}


def has_whole_log(store: EventStore, run_id: str, stream: Stream) -> list[str]:
    """Wait until a stream has all events of a log, and return their ids.

    Raises AssertionError if one of them came twice, or before another one that precedes it.
    """
    ids = [event.id for event in store.get_events(run_id)]
    wait_until(lambda: set(ids) <= set(ids_of(stream)), f"all of {run_id} has come", 30)
    got = [each for each in ids_of(stream) if each in set(ids)]
    if "reset" not in names_of(stream):
        assert got == ids
    else:
        assert got[-len(ids) :] == ids  # after the reset the whole log
    return ids


@pytest.fixture
def cluster(start_cluster) -> ClusterServers:
    return start_cluster()


@pytest.fixture
def system(cluster, start_gateway):
    return System(cluster, start_gateway(cluster.url))


class System:
    """A cluster, a gateway on it, and a run on each node."""

    def __init__(self, cluster: ClusterServers, gateway: GatewayServer):
        self.cluster, self.gateway = cluster, gateway
        self.store = EventStore(cluster.url)
        self.run_ids = [cluster.runs_on(node, 1)[0] for node in cluster.masters]

    @property
    def victim(self) -> RedisServer:
        return self.cluster.master_of(self.run_ids[0])


def wait_for_failover(system: System, former: RedisServer, began: float, producers: Producers):
    """Wait until another node has the slots and events come again; print how long that took."""
    run_id = system.run_ids[0]
    elsewhere = system.cluster.wait_for_master(run_id, former) - began
    count = len(producers.acknowledged[run_id])
    wait_until(lambda: len(producers.acknowledged[run_id]) > count, "it is appended to again", 30)
    print(f"the cluster's failover took {elsewhere:.2f} s; appends went on after another "
          f"{time.monotonic() - began - elsewhere:.2f} s")  # fmt: skip


def compare(system: System, streams: dict[str, Stream], producers: Producers) -> int:
    """Compare what came with the logs, and return how many acknowledged events were lost."""
    producers.wait_for(5)
    producers.stop()
    return compare_stopped(system, streams, producers)


def compare_stopped(system: System, streams: dict[str, Stream], producers: Producers) -> int:
    """Do as `compare` once nobody appends any more."""
    lost = 0
    for run_id in system.run_ids:
        ids = has_whole_log(system.store, run_id, streams[run_id])
        missing = set(producers.acknowledged[run_id]) - set(ids)
        lost += len(missing)
        if missing & set(ids_of(streams[run_id])):
            assert names_of(streams[run_id]) & {"reset", "gap"}
        assert len(ids_of(streams[run_id])) == len(set(ids_of(streams[run_id]))) or (
            "reset" in names_of(streams[run_id])
        )
    return lost


@on_both
def test_a_master_that_is_killed(system):
    with followed(system.gateway, system.run_ids) as streams:
        producers = Producers(system.gateway, system.run_ids)
        producers.wait_for(20)
        former, began = system.victim, time.monotonic()
        former.stop()
        wait_for_failover(system, former, began, producers)
        print(f"{compare(system, streams, producers)} acknowledged events were lost")
        for run_id in system.run_ids[1:]:
            assert set(producers.acknowledged[run_id]) <= set(ids_of(streams[run_id]))


@pytest.mark.parametrize(
    ("program", "how"),
    [
        REDIS_OF_DEBIAN.case((), "asked"),
        VALKEY_8.case((), "asked"),
        VALKEY_8.case(("FORCE",), "force"),
        REDIS_OF_DEBIAN.case(("TAKEOVER",), "takeover"),
    ],
)
def test_a_failover_on_command(system, how):
    with followed(system.gateway, system.run_ids) as streams:
        producers = Producers(system.gateway, system.run_ids)
        producers.wait_for(20)
        former, began = system.victim, time.monotonic()
        [replica] = system.cluster.replicas_of(former)
        system.cluster.fail_over(replica, *how)
        wait_for_failover(system, former, began, producers)
        lost = compare(system, streams, producers)
        print(f"{lost} lost, {producers.refusals} refused, the longest pause {producers.longest}")
        if not how:
            assert lost == 0
            assert producers.refusals == []


@on_debian
def test_a_master_that_stands_still_and_comes_back_as_a_replica(system):
    with followed(system.gateway, system.run_ids) as streams:
        producers = Producers(system.gateway, system.run_ids)
        producers.wait_for(20)
        former, began = system.victim, time.monotonic()
        former.pause()
        wait_for_failover(system, former, began, producers)
        former.resume()
        wait_until(lambda: system.cluster.info(former)["role"] == "slave", "it is a replica", 30)
        producers.wait_for(20)
        print(f"{compare(system, streams, producers)} acknowledged events were lost")


@pytest.mark.parametrize(
    ("program", "fault"),
    [REDIS_OF_DEBIAN.case("dead", "dead"), VALKEY_8.case("frozen", "frozen")],
)
def test_a_shard_without_a_replica_hurts_its_own_runs_only(start_cluster, start_gateway, fault):
    cluster = start_cluster(3, 0)
    system = System(cluster, start_gateway(cluster.url))
    # The index of runs and the log of changes are keys of their own, which must be elsewhere.
    kept = {cluster.owner_of(key_slot(key.encode())).port for key in (ACTIVE, log_key(CHANGES))}
    victim = next(node for node in cluster.masters if node.port not in kept)
    lame = cluster.runs_on(victim, 1)[0]
    others = [run_id for run_id in system.run_ids if cluster.master_of(run_id) is not victim]
    url = system.gateway.url
    with followed(system.gateway, [*others, lame]) as streams:
        for run_id in (*others, lame):
            assert requests.post(f"{url}/runs/{run_id}/events", json=EVENT, timeout=20).ok
            streams[run_id].wait_for_events(1)
        (victim.stop if fault == "dead" else victim.pause)()
        producers = Producers(system.gateway, others)
        stuck = threading.Thread(
            target=lambda: requests.post(f"{url}/runs/{lame}/events", json=EVENT, timeout=30)
        )
        stuck.start()
        producers.wait_for(30)
        assert producers.refusals == []
        for run_id in others:
            has_first = producers.acknowledged[run_id][:20]
            wait_until(lambda: set(has_first) <= set(ids_of(streams[run_id])), "they come")  # noqa: B023
            assert len(requests.get(f"{url}/runs/{run_id}/events", timeout=20).json()["events"])
        wait_until(lambda: away(url) == [f"127.0.0.1:{victim.port}"], "readiness tells it", 30)
        listed = {each["run_id"] for each in requests.get(f"{url}/runs", timeout=30).json()["runs"]}
        assert set(others) <= listed
        producers.stop()
        stuck.join(30)
        with pytest.raises(StoreUnavailable):
            system.store.add(lame, "llm", "stream")
        (victim.start if fault == "dead" else victim.resume)()
        before = len(streams[lame].events)

        def is_back() -> bool:
            answer = requests.post(f"{url}/runs/{lame}/events", json=EVENT, timeout=30)
            return answer.status_code == 201

        wait_until(is_back, "it is appended to again", 30)
        wait_until(lambda: len(streams[lame].events) > before, "and followed", 30)
        for run_id in others:
            has_whole_log(system.store, run_id, streams[run_id])
    print(f"longest pause of the others {producers.longest:.2f} s")


def away(url: str) -> list[str]:
    """Return the nodes that cannot serve, as `/readyz` tells."""
    answer = requests.get(f"{url}/readyz", timeout=20)
    shards = answer.json().get("shards", [])
    return [each["node"] for each in shards if each["status"] != "ready"]
