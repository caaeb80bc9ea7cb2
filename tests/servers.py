"""Real servers for tests: Redis or Valkey, Redis with Sentinel, and the gateway."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Self, TypeVar

import psutil
import redis
import requests

from app.launcher.installed_redis import cut_half_transaction, find_server

ROOT = Path(__file__).parent.parent


Result = TypeVar("Result")

# One socket for every port that `free_port` has returned.
# A test process keeps so many ports for itself, the last ones: `select` takes no file above 1,023.
MAX_RESERVATIONS = 400

_reservations: deque[socket.socket] = deque()


def wait_until(predicate: Callable[[], Result], description: str, seconds: float = 20.0) -> Result:
    """Wait until the predicate returns something true, and return that.

    Raises AssertionError with the description after the given number of seconds.
    """
    until = time.monotonic() + seconds
    while True:
        if result := predicate():
            return result
        if time.monotonic() > until:
            raise AssertionError(f"not within {seconds} s: {description}")
        time.sleep(0.01)


def free_port() -> int:
    """Return a TCP port that no other test process is given while this one runs.

    On Linux, a bound socket that does not listen keeps the port from all other processes. A
    server that sets SO_REUSEADDR, as all of ours do, can still listen on the port, and listen
    again after a restart. While no server listens, connections are refused.
    """
    reservation = socket.socket()
    reservation.bind(("127.0.0.1", 0))
    port = reservation.getsockname()[1]
    if sys.platform == "linux":
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _reservations.append(reservation)
        if len(_reservations) > MAX_RESERVATIONS:
            _reservations.popleft().close()
    else:
        reservation.close()
    return port


# Options of a Redis server that has on disk what it acknowledged.
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


class Server:
    """A process that starts and stops, also as a context manager."""

    process: subprocess.Popen | None = None

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self) -> Self:
        raise NotImplementedError

    def stop(self) -> object:
        """Kill the process, also if it is frozen. Safe to call again."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


class RedisServer(Server):
    """A server on a free port. Its data lives in `directory`.

    `binary` is the path of its program; without it, it is the one that the launcher would start.
    With a file of `configuration`, the server has nothing but that and the options.
    """

    def __init__(
        self,
        directory: Path,
        *options: str,
        binary: str | None = None,
        configuration: Path | None = None,
    ):
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._directory = directory
        self._options = options if configuration else ("--save", "", *options)
        self._binary = binary
        self._configuration = [str(configuration)] if configuration else []
        self.process: subprocess.Popen | None = None

    def start(self) -> Self:
        binary = self._binary or find_server().path
        cut_half_transaction(binary, self._directory)  # as docs/guarantees.md asks for
        self.process = subprocess.Popen(
            [
                "redis-server",  # under another name, the same program is another tool
                *self._configuration,
                *("--port", str(self.port), "--bind", "127.0.0.1"),
                *("--dir", str(self._directory), "--logfile", str(self._directory / "log")),
                *self._options,
            ],
            executable=binary,
        )
        wait_until(self._answers, "Redis answers", 50)
        return self

    def stop(self) -> None:
        """Kill the server with SIGKILL. Safe to call again."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
            self.process = None

    def pause(self) -> None:
        """Stop the process with SIGSTOP: connections stay open, and nothing is answered."""
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
    """A master, a replica, and one Sentinel that watches them.

    The paths of the two servers' programs may be given.
    """

    def __init__(self, directory: Path, master: str | None = None, replica: str | None = None):
        for name in ("master", "replica"):
            (directory / name).mkdir()
        self.master = RedisServer(directory / "master", binary=master).start()
        source = ("--replicaof", f"127.0.0.1 {self.master.port}")
        with self.master.client() as client:
            client.config_set("repl-diskless-sync-delay", 0)
        self.replica = RedisServer(directory / "replica", *source, binary=replica).start()
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
        self._sentinel = subprocess.Popen([find_server().path, configuration, "--sentinel"])
        wait_until(self._is_synchronous, "the replica is in sync, and Sentinel knows it")

    def cut_replica_off(self) -> None:
        """Stop replication: the replica gets no more writes."""
        self.replica.pause()
        with self.master.client() as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "replica")

    def bring_replica_back(self) -> None:
        """Resume or start the replica, and wait until it has all that was written."""
        if self.replica.process is None:
            self.replica.start()
        self.replica.resume()
        wait_until(self._is_up_to_date, "the replica has all")

    def fail_over(self) -> None:
        """Kill the master, and resume the replica, which Sentinel then promotes."""
        self.master.stop()
        self.replica.resume()

    def start_former_master(self) -> None:
        """Start the killed master as a replica of the new one.

        It has lost its data. As a master, the Sentinel might promote it again.
        """
        self.master._options += ("--replicaof", f"127.0.0.1 {self.replica.port}")
        self.master.start()

    def be_patient(self) -> None:
        """Let the Sentinel promote nobody only because the machine is slow for a while."""
        with redis.Redis(port=self.port, protocol=2) as sentinel:
            sentinel.execute_command(
                "SENTINEL", "SET", "mymaster", "down-after-milliseconds", 30_000
            )

    def switch(self) -> None:
        """Ask Sentinel to promote the replica while both servers run."""
        # A Sentinel that does not know yet how fresh the replica is refuses.
        wait_until(lambda: self._ask_sentinel("FAILOVER") == b"+OK\r\n", "it begins")

    def master_port(self) -> int:
        """Return the port of the server that Sentinel names as the master."""
        return int(self._ask_sentinel("GET-MASTER-ADDR-BY-NAME").split(b"\r\n")[4])

    def stop(self) -> None:
        self._sentinel.kill()
        self._sentinel.wait()
        self.replica.stop()
        self.master.stop()

    def _is_synchronous(self) -> bool:
        with self.master.client() as client, contextlib.suppress(Exception):
            online = client.info("replication")["slave0"]["state"] == "online"
            return online and str(self.replica.port).encode() in self._ask_sentinel("REPLICAS")
        return False

    def _is_up_to_date(self) -> bool:
        with self.master.client() as client:
            replication = client.info("replication")
        replica = replication.get("slave0", {})
        return replica.get("offset", -1) >= replication["master_repl_offset"]

    def _ask_sentinel(self, command: str) -> bytes:
        """Send one Sentinel command about the master, and return the raw reply."""
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.sendall(f"SENTINEL {command} mymaster\r\n".encode())
            return connection.recv(65536)


class GatewayServer(Server):
    """The gateway, run as `gunicorn -c gunicorn.conf.py wsgi:app` with settings as variables."""

    def __init__(
        self,
        redis_url: str,
        log: Path,
        *,
        application: str = "wsgi:app",
        directory: Path = ROOT,
        **settings: object,
    ):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        self._application = application
        self._directory = directory
        self._environ = {
            **{name: value for name, value in os.environ.items() if name != "REDIS_URL"},
            "REDIS_URL": redis_url,
            "PORT": str(self.port),
            "DRAIN_SECONDS": "1",
            **{name: str(value) for name, value in settings.items()},
        }
        self.process: subprocess.Popen | None = None

    def start(self) -> Self:
        gunicorn = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py"]
        command = [*gunicorn, self._application]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self._directory, env=self._environ, stderr=log, stdout=log
            )
        wait_until(self._answers, "the gateway answers", 50)
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Stop the gateway. Its log may hold no traceback."""
        self.stop()
        assert "Traceback" not in self.log.read_text()

    def stop(self, number: int = signal.SIGINT) -> int:
        """Send a signal, and return the exit status. Safe to call again."""
        if self.process is None:
            return 0
        self.process.send_signal(number)
        status = self.process.wait(30)
        self.process = None
        return status

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def limit_files(self, count: int) -> None:
        """Replace the one worker by one that may have so many files open."""
        [former] = self.workers()
        psutil.Process(self.process.pid).rlimit(psutil.RLIMIT_NOFILE, (count, count))
        self.process.send_signal(signal.SIGHUP)
        former.wait(20)
        wait_until(lambda: requests.get(f"{self.url}/readyz", timeout=20).ok, "it is ready")

    def client_count(self) -> int:
        """Return how many client connections all workers hold."""
        return sum(
            each.laddr.port == self.port and each.status != psutil.CONN_LISTEN
            for worker in self.workers()
            for each in worker.net_connections(kind="tcp")
        )

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"the gateway exited:\n{self.log.read_text()}")
        # Asked a hundred times a start, and requests takes several times as long.
        connection = HTTPConnection("127.0.0.1", self.port, timeout=5)
        with contextlib.closing(connection), contextlib.suppress(OSError, HTTPException):
            connection.request("GET", "/healthz")
            return connection.getresponse().status == 200
        return False
