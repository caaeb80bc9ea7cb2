"""The servers that are measured. They run on free loopback ports; /proc gives the figures."""

import json
import os
import shutil
import subprocess
import sys
import time
from functools import cached_property
from pathlib import Path

import psutil
import redis

from app.streaming.event_store import EventStore
from tests.cluster_servers import ClusterServers
from tests.servers import ROOT, RedisServer, free_port, wait_until

PEERS = Path(__file__).parent / "peers"
PEER_ENVIRONMENT = Path(__file__).parent / ".venv"
NCHAN_MODULES = ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules")


class Server:
    """A server and its Redis."""

    name = ""

    def __init__(self, directory: Path):
        self.directory = directory
        self.port = free_port()
        self.redis = self.start_redis()
        with (directory / "log").open("wb") as log:
            self.process = subprocess.Popen(
                self.command(),
                cwd=ROOT,
                env={**os.environ, **self.environ()},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        wait_until(self._listens, f"{self.name} listens")
        time.sleep(0.5)  # its workers start

    def start_redis(self) -> RedisServer | ClusterServers | None:
        """Start the Redis that the server needs, if any."""
        return RedisServer(self.directory).start()

    @classmethod
    def available(cls) -> bool:
        return True

    def command(self) -> list[str]:
        raise NotImplementedError

    def environ(self) -> dict[str, str]:
        return {"REDIS_URL": self.redis.url} if self.redis else {}

    def body(self, data: dict) -> bytes:
        """Return the body that a producer posts for some data."""
        return json.dumps(
            {"event_category": "llm", "event_action": "stream", "data": data}
        ).encode()

    def append(self, run: int, data: dict) -> None:
        """Append an event to Redis as the server does, so that only the delivery is measured."""
        raise NotImplementedError

    def processes(self) -> list[psutil.Process]:
        master = psutil.Process(self.process.pid)
        return [master, *master.children(recursive=True)]

    def cpu(self) -> float:
        """Return the CPU seconds that the server's processes have used."""
        return sum(sum(process.cpu_times()[:2]) for process in self.processes())

    @property
    def shards(self) -> list[RedisServer]:
        """The Redis servers: none, one, or the masters of a cluster."""
        if isinstance(self.redis, ClusterServers):
            return self.redis.masters
        return [self.redis] if self.redis else []

    def redis_cpu(self) -> float:
        """Return the CPU seconds that all shards have used."""
        return sum(sum(psutil.Process(each.process.pid).cpu_times()[:2]) for each in self.shards)

    def memory(self) -> int:
        """Return the bytes of resident memory."""
        return sum(process.memory_info().rss for process in self.processes())

    def redis_connections(self) -> int:
        """Return the connections to the shard that has the most."""
        return max((_connections(each) for each in self.shards), default=0)

    def redis_info(self, name: str) -> list[int]:
        """Return one of the numbers of INFO for each shard."""
        found = []
        for each in self.shards:
            with each.client() as client:
                found.append(int(client.info("everything")[name]))
        return found

    def stop(self) -> None:
        for process in reversed(self.processes()):
            process.kill()
        self.process.wait()
        if self.redis:
            self.redis.stop()

    def _listens(self) -> bool:
        try:
            return any(
                connection.laddr.port == self.port and connection.status == psutil.CONN_LISTEN
                for process in self.processes()
                for connection in process.net_connections(kind="tcp")
            )
        except psutil.NoSuchProcess:  # the process that checks the settings has ended
            return False


def _connections(shard: RedisServer) -> int:
    with shard.client() as client:
        clients = client.client_list()
    return sum("M" not in each["flags"] and "S" not in each["flags"] for each in clients) - 1


def close(store: EventStore) -> None:
    """Close the connections of a store."""
    for server in store.engine.servers():
        server.close()


class Tailrace(Server):
    name = "Tailrace"

    def command(self) -> list[str]:
        return [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "wsgi:app"]

    def environ(self) -> dict[str, str]:
        return {**super().environ(), "PORT": str(self.port), "LOG_LEVEL": "warning"}

    @cached_property
    def _store(self) -> EventStore:
        return EventStore(self.redis.url)

    def append(self, run: int, data: dict) -> None:
        self._store.add(f"bench-{run}", "llm", "stream", data)

    def stop(self) -> None:
        super().stop()
        if "_store" in vars(self):
            close(self._store)


class Uncounted(Tailrace):
    """Tailrace with metrics that count nothing: the difference is what they cost."""

    name = "Tailrace, nothing counted"

    def command(self) -> list[str]:
        return [*super().command()[:-1], "tests.bench.uncounted:app"]


class Payloads(Tailrace):
    """Tailrace with streams of payloads: the difference is what `format=payload` costs."""

    name = "Tailrace, payloads"

    def command(self) -> list[str]:
        return [*super().command()[:-1], "tests.bench.payloads:app"]


class Tracking(Tailrace):
    """Tailrace with the reader of a cluster on one server: the difference is the reader."""

    name = "Tailrace, tracking reader"

    def command(self) -> list[str]:
        return [*super().command()[:-1], "tests.bench.tracking:app"]


class OneMaster(Tailrace):
    """Tailrace on a cluster without replicas: the difference is what a cluster costs."""

    name = "Tailrace, cluster of 1"
    masters = 1

    def start_redis(self) -> ClusterServers:
        return ClusterServers(self.directory, self.masters, 0).start()


class TwoMasters(OneMaster):
    name = "Tailrace, cluster of 2"
    masters = 2


class ThreeMasters(OneMaster):
    name = "Tailrace, cluster of 3"
    masters = 3


class TwoWorkers(Tailrace):
    name = "Tailrace, 2 workers"
    workers = 2

    def environ(self) -> dict[str, str]:
        return {**super().environ(), "WEB_CONCURRENCY": str(self.workers)}


class FourWorkers(TwoWorkers):
    name = "Tailrace, 4 workers"
    workers = 4


class FourWorkersOnThreeMasters(FourWorkers, ThreeMasters):
    name = "Tailrace, 4 workers, cluster of 3"


class PlainFlask(Server):
    name = "Flask, one XREAD a viewer"

    @classmethod
    def available(cls) -> bool:
        return PEER_ENVIRONMENT.exists()

    def command(self) -> list[str]:
        return [
            str(PEER_ENVIRONMENT / "bin" / "gunicorn"),
            *("-c", str(PEERS / "gunicorn.conf.py"), "-b", f"127.0.0.1:{self.port}"),
            *("--chdir", str(PEERS), "plain_flask:app"),
        ]

    @cached_property
    def _client(self) -> redis.Redis:
        return self.redis.client()

    def append(self, run: int, data: dict) -> None:
        event = {"data": self.body(data)}
        self._client.xadd(f"run:bench-{run}:events", event, maxlen=10_000)


class FastApi(PlainFlask):
    name = "FastAPI, sse-starlette"

    def command(self) -> list[str]:
        return [
            str(PEER_ENVIRONMENT / "bin" / "uvicorn"),
            *("--host", "127.0.0.1", "--port", str(self.port), "--app-dir", str(PEERS)),
            *("--log-level", "warning", "--no-access-log", "--loop", "uvloop"),
            *("--http", "httptools", "--backlog", "8192", "fastapi_app:app"),
        ]


class Nchan(Server):
    name = "nginx with nchan"

    def start_redis(self) -> None:
        return None

    @staticmethod
    def _modules() -> str | None:
        found = (path for path in NCHAN_MODULES if Path(path, "ngx_nchan_module.so").exists())
        return next(found, None)

    @classmethod
    def available(cls) -> bool:
        return cls._modules() is not None and shutil.which("nginx") is not None

    def command(self) -> list[str]:
        configuration = self.directory / "nginx.conf"
        template = (PEERS / "nginx.conf").read_text()
        configuration.write_text(
            template.format(modules=self._modules(), directory=self.directory, port=self.port)
        )
        return ["nginx", "-c", str(configuration), "-e", str(self.directory / "error.log")]

    def body(self, data: dict) -> bytes:
        """Return an event of the size that Tailrace delivers."""
        return json.dumps(
            {
                "id": "1795478097897-0",
                "run_id": "bench",
                "sequence": 1000,
                "timestamp": "2026-01-01T00:00:00.000Z",
                "event": {"category": "llm", "action": "stream"},
                "data": data,
                "source": None,
            },
            separators=(",", ":"),
        ).encode()


# Tailrace, beside itself with something else. Each is measured with --compare only.
COMPARED: dict[str, tuple[type[Server], ...]] = {
    "clusters": (Tailrace, OneMaster, TwoMasters, ThreeMasters),
    "workers": (FourWorkers, FourWorkersOnThreeMasters),
    "readers": (Tailrace, Tracking),
}

ALL = (Tailrace, Nchan, FastApi, PlainFlask)
