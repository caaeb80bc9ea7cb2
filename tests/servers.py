"""Real servers for the tests: Redis or Valkey, and the gateway under gunicorn."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import redis
import requests

from app.own_redis import find_server

ROOT = Path(__file__).parent.parent


def wait_until(predicate: Callable[[], object], what: str, seconds: float = 20.0) -> object:
    """Wait until the predicate gives something true, and give it; fails, saying `what`."""
    until = time.monotonic() + seconds
    while True:
        if result := predicate():
            return result
        if time.monotonic() > until:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.01)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class RedisServer:
    """A server of its own port, whose data lives in `directory`."""

    def __init__(self, directory: Path, *options: str):
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._directory = directory
        self._options = options
        self.process: subprocess.Popen | None = None

    def start(self) -> "RedisServer":
        binary, _ = find_server()
        self.process = subprocess.Popen(
            [
                binary,
                *("--port", str(self.port), "--bind", "127.0.0.1"),
                *("--dir", str(self._directory), "--logfile", str(self._directory / "log")),
                *("--save", "", *self._options),
            ]
        )
        wait_until(self._answers, "Redis answers")
        return self

    def stop(self) -> None:
        """End it as kill -9 does; safe to repeat."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
            self.process = None

    def pause(self) -> None:
        """Stop it in its tracks: connections stay open and nothing is answered."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, protocol=2)

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return client.ping()
        except redis.ConnectionError:
            return False


class ReplicatedServers:
    """A master, a replica and one Sentinel that looks after them."""

    def __init__(self, directory: Path):
        for name in ("master", "replica"):
            (directory / name).mkdir()
        self.master = RedisServer(directory / "master").start()
        source = ("--replicaof", f"127.0.0.1 {self.master.port}")
        with self.master.client() as client:
            client.config_set("repl-diskless-sync-delay", 0)
        self.replica = RedisServer(directory / "replica", *source).start()
        self.port = free_port()
        self.url = f"redis+sentinel://127.0.0.1:{self.port}/mymaster/0"
        configuration = directory / "sentinel.conf"
        configuration.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {directory}\n"
            f"logfile {directory / 'sentinel.log'}\n"
            f"sentinel monitor mymaster 127.0.0.1 {self.master.port} 1\n"
            "sentinel down-after-milliseconds mymaster 500\n"
            "sentinel failover-timeout mymaster 3000\n"
        )
        self._sentinel = subprocess.Popen([find_server()[0], configuration, "--sentinel"])
        wait_until(self._is_synchronous, "the replica has caught up, and Sentinel knows it")

    def cut_replica_off(self) -> None:
        """Let the replica have nothing any more of what is written."""
        self.replica.pause()
        with self.master.client() as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "replica")

    def fail_over(self) -> None:
        """Kill the master; the replica, paused or not, is to take its place."""
        self.master.stop()
        self.replica.resume()

    def switch(self) -> None:
        """Have Sentinel make the replica the master, both of them being well."""
        with contextlib.closing(socket.create_connection(("127.0.0.1", self.port))) as asked:
            asked.sendall(b"SENTINEL FAILOVER mymaster\r\n")
            assert asked.recv(65536) == b"+OK\r\n"

    def master_port(self) -> int:
        """Where Sentinel says that the master is."""
        with contextlib.closing(socket.create_connection(("127.0.0.1", self.port))) as asked:
            asked.sendall(b"SENTINEL GET-MASTER-ADDR-BY-NAME mymaster\r\n")
            return int(asked.recv(65536).split(b"\r\n")[4])

    def stop(self) -> None:
        self._sentinel.kill()
        self._sentinel.wait()
        self.replica.stop()
        self.master.stop()

    def _is_synchronous(self) -> bool:
        with self.master.client() as client, contextlib.suppress(Exception):
            online = client.info("replication")["slave0"]["state"] == "online"
            with contextlib.closing(socket.create_connection(("127.0.0.1", self.port))) as asked:
                asked.sendall(b"SENTINEL REPLICAS mymaster\r\n")
                return online and str(self.replica.port).encode() in asked.recv(65536)
        return False


class GatewayServer:
    """The gateway as `gunicorn -c gunicorn.conf.py wsgi:app`, with settings as variables."""

    def __init__(
        self, redis_url: str, log: Path, *, application: str = "wsgi:app", **settings: object
    ):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        self._application = application
        self._environ = {
            **{name: value for name, value in os.environ.items() if name != "REDIS_URL"},
            "REDIS_URL": redis_url,
            "PORT": str(self.port),
            "DRAIN_SECONDS": "1",
            **{name: str(value) for name, value in settings.items()},
        }
        self.process: subprocess.Popen | None = None

    def start(self) -> "GatewayServer":
        gunicorn = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py"]
        command = [*gunicorn, self._application]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=self._environ, stderr=log, stdout=log
            )
        wait_until(self._answers, "the gateway answers")
        return self

    def stop(self, number: int = signal.SIGINT) -> int:
        """End it with a signal and give its exit status; safe to repeat."""
        if self.process is None:
            return 0
        self.process.send_signal(number)
        status = self.process.wait(30)
        self.process = None
        return status

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"the gateway ended:\n{self.log.read_text()}")
        try:
            return requests.get(f"{self.url}/healthz", timeout=5).ok
        except requests.ConnectionError:
            return False
