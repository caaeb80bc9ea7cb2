"""`python -m tests.cluster.measure`: how long failovers of a cluster take; what partitions lose.

`failovers` prints how long followers and producers of a gateway wait once the cluster has another
master; `partitions` prints how many acknowledged events a master takes that is cut off from the
other nodes, and then loses. Without an argument it measures both.
"""

import contextlib
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import redis
import requests

from app.streaming.errors import StreamingError
from app.streaming.event_store import EventStore
from app.streaming.log.redis_keys import log_key
from tests.archive.logs import entries_of
from tests.clients import Stream
from tests.cluster.network import RelayedCluster
from tests.cluster_servers import ClusterServers
from tests.servers import GatewayServer, RedisServer, wait_until

EVENT = {"event_category": "llm", "event_action": "stream", "data": 1}
ROUNDS = 10
PRODUCERS = 4
SECONDS = 1.0
MAXLEN = 1_000_000  # so that nothing is trimmed


def soon(predicate: Callable[[], bool]) -> float:
    """Return the time at which a predicate has become true, to the millisecond or so."""
    until = time.monotonic() + 60
    while not predicate():
        if time.monotonic() > until:
            raise AssertionError("not within a minute")
        time.sleep(0.001)
    return time.monotonic()


# Failovers


def kill(cluster: ClusterServers, master: RedisServer, replica: RedisServer) -> None:
    master.stop()


def ask(cluster: ClusterServers, master: RedisServer, replica: RedisServer) -> None:
    cluster.fail_over(replica)


def fail_over(
    cluster: ClusterServers, gateway: GatewayServer, run_id: str, how: Callable[..., None]
) -> tuple[float, float, float]:
    """Fail over once.

    Returns the seconds until the replica takes writes, and from then until a follower has such an
    event, and until a producer's append is stored.
    """
    url, master = f"{gateway.url}/runs/{run_id}/events", cluster.master_of(run_id)
    [replica] = cluster.replicas_of(master)
    written: list[tuple[float, str]] = []
    stored: list[float] = []

    def write() -> None:
        """Append to the new master itself as soon as it lets us."""
        with replica.client() as client:
            while not written:
                with contextlib.suppress(redis.RedisError):
                    entry = {"event_category": "llm", "event_action": "stream", "data": 2}
                    began = time.monotonic()
                    written.append((began, client.xadd(log_key(run_id), entry).decode()))
                time.sleep(0.001)

    def produce() -> None:
        while not written:
            time.sleep(0.001)
        with requests.Session() as session:
            while session.post(url, json=EVENT, timeout=30).status_code != 201:
                time.sleep(0.001)
        stored.append(time.monotonic())

    with Stream(f"{url}/stream?last_event_id=latest") as stream:
        assert requests.post(url, json=EVENT, timeout=30).status_code == 201
        stream.wait_for_events(1)
        threads = [threading.Thread(target=each) for each in (write, produce)]
        for thread in threads:
            thread.start()
        began = time.monotonic()
        how(cluster, master, replica)
        soon(lambda: bool(written))
        at, entry_id = written[0]
        followed = soon(lambda: any(each.json["id"] == entry_id for each in stream.events))
        for thread in threads:
            thread.join()
    if master.process is None:
        master.start()
    wait_until(lambda: cluster.info(master)["role"] == "slave", "it is a replica", 60)
    wait_until(cluster.serves, "all copies are whole", 60)
    return at - began, followed - at, stored[0] - at


def measure_failovers(directory: Path) -> None:
    with (
        ClusterServers(directory / "cluster") as cluster,
        GatewayServer(cluster.url, directory / "log") as gateway,
    ):
        for title, how in (("kill -9", kill), ("CLUSTER FAILOVER", ask)):
            rounds = [fail_over(cluster, gateway, "followed", how) for _ in range(ROUNDS)]
            whats = "until the new master takes writes", "then a follower", "then a producer"
            for what, seconds in zip(whats, zip(*rounds, strict=True), strict=True):
                print(
                    f"{title}, {what}: median {statistics.median(seconds):.3f} s, "
                    f"{min(seconds):.3f} to {max(seconds):.3f} s",
                    flush=True,
                )


# Partitions


@contextlib.contextmanager
def producing(url: str, run_id: str, ack_replicas: int) -> Iterator[list[tuple[float, str]]]:
    """Append to a run from several threads; what was acknowledged, and when, is in the list."""
    acknowledged: list[tuple[float, str]] = []
    over = threading.Event()

    def produce() -> None:
        store = EventStore(url, maxlen=MAXLEN, ack_replicas=ack_replicas)
        while not over.is_set():
            try:
                event_id = store.add(run_id, "llm", "stream")
                acknowledged.append((time.monotonic(), event_id))
            except StreamingError:
                time.sleep(0.01)

    threads = [threading.Thread(target=produce) for _ in range(PRODUCERS)]
    for thread in threads:
        thread.start()
    try:
        yield acknowledged
    finally:
        over.set()
        for thread in threads:
            thread.join()


def cut_off(
    directory: Path, title: str, timeout_ms: int, *options: str, ack_replicas: int = 0
) -> None:
    """Cut a master off until the others have another one, and print what is lost."""
    timeout = "--cluster-node-timeout", str(timeout_ms)
    with RelayedCluster(directory, 3, 1, *options, *timeout) as cluster:
        master = cluster.masters[0]
        [run_id], [replica] = cluster.runs_on(master, 1), cluster.replicas_of(master)
        with producing(cluster.url, run_id, ack_replicas) as acknowledged:
            time.sleep(SECONDS)
            before = len(acknowledged)
            assert before, "nothing is acknowledged"
            with cluster.cut_off(master):
                began = time.monotonic()
                wait_until(lambda: cluster.info(replica)["role"] == "master", "it fails over", 90)
                promoted = time.monotonic() - began
                time.sleep(SECONDS)  # without a replica, the new master may refuse appends
            wait_until(lambda: cluster.info(master)["role"] == "slave", "it is a replica", 90)
            wait_until(cluster.serves, "all copies are whole", 90)
        kept = {entry[0].decode() for entry in entries_of(EventStore(cluster.url), run_id)}
        lost = [at - began for at, event_id in acknowledged if event_id not in kept]
        late = f", the last {max(lost):.1f} s after the cut" if lost else ""
        print(
            f"{title}, cluster-node-timeout {timeout_ms}: {len(lost):,} of {len(acknowledged):,} "
            f"acknowledged events lost{late}; another master after {promoted:.1f} s",
            flush=True,
        )


def measure_partitions(directory: Path) -> None:
    numbers = iter(range(100))
    lag = "--min-replicas-to-write", "1", "--min-replicas-max-lag"
    for timeout_ms in (1000, 2000, 5000, 15000):
        cut_off(directory / str(next(numbers)), "no minimum of replicas", timeout_ms)
    for seconds in ("10", "1"):
        title = f"min-replicas-to-write 1, min-replicas-max-lag {seconds}"
        cut_off(directory / str(next(numbers)), title, 5000, *lag, seconds)
    cut_off(directory / str(next(numbers)), title, 15000, *lag, "1")
    for timeout_ms in (1000, 5000):
        folder = directory / str(next(numbers))
        cut_off(folder, "ACK_REPLICAS=1", timeout_ms, ack_replicas=1)


def main() -> None:
    chosen = sys.argv[1:] or ["failovers", "partitions"]
    with tempfile.TemporaryDirectory() as name:
        if "failovers" in chosen:
            measure_failovers(Path(name))
        if "partitions" in chosen:
            measure_partitions(Path(name))


if __name__ == "__main__":
    main()
