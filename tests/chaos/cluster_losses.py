"""`python -m tests.chaos.cluster_losses`: count the acknowledged events that failovers lose.

The events are in runs of one shard of a cluster, whose master is killed, or fails over on command.
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.streaming.errors import StoreUnavailable, StreamingError
from app.streaming.event_store import EventStore
from tests.chaos.cluster import ChaosCluster
from tests.cluster.followers import Followers
from tests.servers import wait_until

SHARD = 0
PRODUCERS = 8  # each with a run
SECONDS = 1.5
MAX_SECONDS = 60.0
MAXLEN = 1_000_000  # so that nothing is trimmed


@dataclass
class Losses:
    """What some failovers lost.

    `seen` counts events that a follower had and the log lacks, acknowledged or not, and `untold`
    those of them whose follower got no reset.
    """

    acknowledged: int = 0
    lost: int = 0
    seen: int = 0
    untold: int = 0

    def __str__(self) -> str:
        return (
            f"{self.lost:,} of {self.acknowledged:,} acknowledged events lost; "
            f"followers had {self.seen:,} of the lost ones, and no reset for {self.untold:,}"
        )


class Producers:
    """Threads that append, each to a run. They keep the ids of what was acknowledged."""

    def __init__(self, url: str, run_ids: list[str], ack_replicas: int):
        self.acknowledged: dict[str, list[str]] = {run_id: [] for run_id in run_ids}
        self._url, self._ack_replicas = url, ack_replicas
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._produce, args=(each,)) for each in run_ids]

    @contextmanager
    def producing(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in self._threads:
                thread.join()

    def wait_for_more(self) -> None:
        had = {run_id: len(ids) for run_id, ids in self.acknowledged.items()}
        wait_until(
            lambda: all(len(ids) > had[run_id] for run_id, ids in self.acknowledged.items()),
            "all append again",
            MAX_SECONDS,
        )

    def _produce(self, run_id: str) -> None:
        store = EventStore(self._url, maxlen=MAXLEN, ack_replicas=self._ack_replicas)
        ids = self.acknowledged[run_id]
        while not self._over.is_set():
            try:
                ids.append(store.add(run_id, "llm", "stream", len(ids)))
            except StreamingError:
                time.sleep(0.01)


def kill(cluster: ChaosCluster) -> None:
    """Kill the master, and start it again when its replica has taken over."""
    former = cluster.shards[SHARD]
    former.stop()
    wait_until(lambda: cluster.is_led_by_another(SHARD, former), "failover", MAX_SECONDS)
    former.start()


def ask(cluster: ChaosCluster) -> None:
    former = cluster.shards[SHARD]
    cluster.fail_over(cluster.replica_of(SHARD))
    wait_until(lambda: cluster.is_led_by_another(SHARD, former), "failover", MAX_SECONDS)


def measure(
    cluster: ChaosCluster, name: str, fault: Callable[[ChaosCluster], None], ack_replicas: int
) -> Losses:
    """Append while the fault happens and after it, and compare with the log of the new master."""
    run_ids = cluster.runs_on(cluster.shards[SHARD], PRODUCERS, name)
    producers, store = Producers(cluster.url, run_ids, ack_replicas), EventStore(cluster.url)
    losses = Losses()
    with Followers(store) as followers:
        followers.follow(*run_ids)
        with producers.producing():
            time.sleep(SECONDS)
            fault(cluster)
            wait_until(lambda: _is_whole(cluster), "the cluster is whole", MAX_SECONDS)
            producers.wait_for_more()
        cluster.look()
        for run_id, acknowledged in producers.acknowledged.items():
            log = [event.id for event in store.get_events(run_id, limit=MAXLEN)]
            wait_until(lambda: followers.ids[run_id][-1] == log[-1], run_id, MAX_SECONDS)  # noqa: B023
            seen = set(followers.ids[run_id]) - set(log)
            losses.acknowledged += len(acknowledged)
            losses.lost += len(set(acknowledged) - set(log))
            losses.seen += len(seen)
            losses.untold += 0 if "reset" in followers.notices[run_id] else len(seen)
    return losses


def _is_whole(cluster: ChaosCluster) -> bool:
    time.sleep(0.1)
    try:
        # Its own view of the copies never catches up under load.
        return cluster.serves()
    except StoreUnavailable:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--failovers", type=int, default=20, help="of each kind")
    count = parser.parse_args().failovers
    for fault, title in ((kill, "kill -9"), (ask, "CLUSTER FAILOVER")):
        for replicas in (0, 1):
            total = Losses()
            with tempfile.TemporaryDirectory() as name, ChaosCluster(Path(name)) as cluster:
                for number in range(count):
                    found = measure(cluster, f"failover-{number}", fault, replicas)
                    for field, value in vars(found).items():
                        setattr(total, field, getattr(total, field) + value)
            print(f"{count} x {title}, ACK_REPLICAS={replicas}: {total}", flush=True)


if __name__ == "__main__":
    main()
