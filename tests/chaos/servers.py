"""The servers of the chaos suite, and the resources that they use."""

import contextlib
import signal
import socket
import subprocess
import sys
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import psutil
import redis
import redis.asyncio
import requests
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.chaos.cluster import ChaosCluster
from tests.servers import DURABLE, ROOT, GatewayServer, RedisServer, wait_until

GUNICORN = (sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py")

# Small, so that a slow client is noticed after some events, and not after megabytes.
SEND_BUFFER_BYTES = 16 * 1024


class DurableRedis(RedisServer):
    """A server that writes every event to disk before it acknowledges it."""

    def __init__(self, directory: Path, binary: str | None = None):
        super().__init__(directory, *DURABLE, binary=binary)

    def client(self) -> redis.Redis:
        no_retry = Retry(NoBackoff(), 0)
        return redis.Redis(port=self.port, protocol=2, socket_timeout=10, retry=no_retry)

    def async_client(self) -> redis.asyncio.Redis:
        no_retry = AsyncRetry(NoBackoff(), 0)
        return redis.asyncio.Redis(port=self.port, protocol=2, socket_timeout=30, retry=no_retry)

    def changing_runs(self, name: str, count: int) -> list[str]:
        """Return ids of runs whose logs may change."""
        return [f"{name}-changing-{number}" for number in range(count)]

    def run(self, *command: object) -> object:
        """Run one command on a new connection, and return the reply."""
        with self.client() as client:
            return client.execute_command(*command)

    def connections(self) -> int:
        """Return how many other clients are connected."""
        with self.client() as client:
            return len(client.client_list()) - 1


Servers = DurableRedis | ChaosCluster


class MeasuredGateway(GatewayServer):
    """A gateway with two workers that count their greenlets, and trim no log."""

    def __init__(self, redis_url: str, log: Path, **more: object):
        settings = {"WEB_CONCURRENCY": 2, "STREAM_MAXLEN": 10**7, "HEARTBEAT_SECONDS": 2}
        super().__init__(redis_url, log, **settings, **more)

    def start(self) -> "MeasuredGateway":
        with socket.create_server(("127.0.0.1", self.port)) as listener, self.log.open("ab") as log:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            bind = f"--bind=fd://{listener.fileno()}"
            self.process = subprocess.Popen(
                [*GUNICORN, bind, "tests.chaos.wsgi:app"],
                cwd=ROOT,
                env=self._environ,
                pass_fds=(listener.fileno(),),
                stderr=log,
                stdout=log,
            )
        wait_until(self._answers, "the gateway answers", 50)
        return self

    def stop(self, number: int = signal.SIGINT) -> int:
        if self.process is None:
            return 0
        workers = self.workers() if self.process.poll() is None else []
        try:
            return super().stop(number)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()
        finally:
            for worker in workers:
                with contextlib.suppress(psutil.NoSuchProcess):
                    worker.kill()

    def workers(self) -> list[psutil.Process]:
        """Return the workers, without the process that checks the settings at a reload."""
        return [each for each in super().workers() if "gunicorn" in _command(each)]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@dataclass(frozen=True)
class Footprint:
    """The resources of all workers together, and the connections to Redis."""

    descriptors: int
    redis_connections: int
    greenlets: int
    memory_mib: int

    @classmethod
    def of(cls, gateway: MeasuredGateway, server: Servers) -> "Footprint":
        greenlets: dict[int, int] = {}

        def all_have_answered() -> bool:
            census = requests.get(f"{gateway.url}/census", timeout=10).json()
            greenlets[census["pid"]] = census["greenlets"]
            return len(workers) == 2 and greenlets.keys() >= {each.pid for each in workers}

        workers = wait_until(lambda: len(found := gateway.workers()) == 2 and found, "two workers")
        wait_until(all_have_answered, "every worker counts its greenlets", 60)
        return cls(
            descriptors=sum(each.num_fds() for each in workers),
            redis_connections=server.connections(),
            greenlets=sum(greenlets[each.pid] for each in workers),
            memory_mib=sum(each.memory_info().rss for each in workers) >> 20,
        )

    def over(self, before: "Footprint", slack: "Footprint") -> list[str]:
        """Return a line for each figure that has grown by more than the slack."""
        rows = zip(fields(self), astuple(before), astuple(self), astuple(slack), strict=True)
        return [
            f"{field.name}: {former} before, {now} afterwards"
            for field, former, now, allowed in rows
            if now > former + allowed
        ]
