"""`python -m tests.chaos.losses`: count the acknowledged events that each kind of Redis loses."""

import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import redis

from app.streaming.errors import StreamingError
from app.streaming.event_store import EventStore
from tests.servers import RedisServer, ReplicatedServers, wait_until

PRODUCERS = 8
SECONDS = 2.0
MAXLEN = 1_000_000  # so that nothing is trimmed
LAG = ("min-replicas-to-write", "min-replicas-max-lag")


def measure(
    title: str,
    url: str,
    fault: Callable[[], None],
    after: Callable[[], redis.Redis],
    ack_replicas: int = 0,
) -> None:
    """Append while the fault happens, and count which acknowledged events the log lacks."""
    acknowledged, over = [0] * PRODUCERS, threading.Event()

    def produce(number: int) -> None:
        store = EventStore(url, maxlen=MAXLEN, ack_replicas=ack_replicas)
        while not over.is_set():
            try:
                store.add(f"run-{number}", "llm", "stream", acknowledged[number])
                acknowledged[number] += 1
            except StreamingError:
                time.sleep(0.01)

    producers = [threading.Thread(target=produce, args=(each,)) for each in range(PRODUCERS)]
    for producer in producers:
        producer.start()
    time.sleep(SECONDS)
    fault()
    over.set()
    for producer in producers:
        producer.join()
    with after() as client:
        lost = sum(
            len(set(range(had)) - logged(client, number)) for number, had in enumerate(acknowledged)
        )
    print(f"{title}: {lost:,} of {sum(acknowledged):,} acknowledged events lost", flush=True)


def logged(client: redis.Redis, number: int) -> set[int]:
    """Return which events of a producer are in its log."""
    return {int(fields[b"data"]) for _, fields in client.xrange(f"run:run-{number}:events")}


def kill(directory: Path, title: str, *options: str) -> None:
    server = RedisServer(directory, *options).start()
    try:
        measure(f"kill -9, {title}", server.url, server.stop, lambda: server.start().client())
    finally:
        server.stop()


def fail_over(
    directory: Path, title: str, safe: bool, cut_off_seconds: float, ack_replicas: int = 0
) -> None:
    servers = ReplicatedServers(directory)

    def fault() -> None:
        if cut_off_seconds:
            servers.cut_replica_off()
            time.sleep(cut_off_seconds)
        servers.fail_over()

    try:
        with servers.master.client() as client:
            for name in LAG if safe else ():
                client.config_set(name, 1)
        url, replica = servers.master.url, servers.replica
        measure(f"failover, {title}", url, fault, replica.client, ack_replicas)
    finally:
        servers.stop()


def switch(directory: Path, title: str, ack_replicas: int = 0) -> None:
    """Ask Sentinel for a failover while both servers run."""
    servers = ReplicatedServers(directory)
    former_port = servers.master.port

    def fault() -> None:
        servers.switch()
        wait_until(lambda: servers.master_port() != former_port, "Sentinel names another master")
        time.sleep(3)

    try:
        replica = servers.replica
        measure(f"failover on request{title}", servers.url, fault, replica.client, ack_replicas)
    finally:
        servers.stop()


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        directories = (Path(tempfile.mkdtemp(dir=name)) for _ in range(11))
        file = ("--appendonly", "yes", "--appendfsync")
        kill(next(directories), "appendfsync always", *file, "always")
        kill(next(directories), "appendfsync everysec", *file, "everysec")
        kill(next(directories), "no append-only file")
        for safe in (False, True):
            how = "min-replicas-to-write 1" if safe else "no minimum of replicas"
            fail_over(next(directories), how, safe, 0)
            fail_over(next(directories), f"{how}, the replica cut off 5 s before", safe, 5)
        for replicas in (0, 1):
            switch(next(directories), f", ACK_REPLICAS={replicas}", replicas)
        how = "ACK_REPLICAS=1"
        fail_over(next(directories), how, False, 0, 1)
        fail_over(next(directories), f"{how}, the replica cut off 5 s before", False, 5, 1)


if __name__ == "__main__":
    main()
