"""The Redis or Valkey server that the launcher starts when REDIS_URL names none."""

import contextlib
import fcntl
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import Popen
from typing import IO
from urllib.parse import urlsplit

from ..streaming.errors import StoreUnavailable
from ..streaming.event_store import EventStore
from ..streaming.redis.own_server import LOCK, last_url, write_url
from .installed_redis import OwnRedisError, cut_half_transaction, find_server

# In the directory of the data: the server that wrote them, and whether it has ended in order.
WRITER = "written-by"
ENDED = "ended-in-order"

# Redis ends in order at this signal. SIGTERM it does not get (see launcher.py).
STOP_SIGNAL = signal.SIGINT

MIN_PORT = 6379
PORTS_TO_TRY = 100
LOCK_SECONDS = 15.0
# A server reads its append-only file before it answers.
START_SECONDS = 120.0
STOP_SECONDS = 30.0


class OwnRedis:
    """A server that is a child of this process, with its data in a locked directory.

    The append-only file is on. The server itself holds the lock, so the lock lasts exactly as
    long as the server. Only this user can look into the directory, and so knows the password.
    """

    def __init__(
        self,
        directory: Path,
        spawn: Callable[..., "Popen[bytes]"] = Popen,
        leave_if_stopped: Callable[[], None] = lambda: None,
    ) -> None:
        """Raises OwnRedisError without a server.

        `spawn` starts a process as Popen does. `leave_if_stopped` is called again and again while
        the server starts, and may raise SystemExit.
        """
        self._directory = directory.resolve()
        self._writer = _read(self._directory / WRITER)
        self.server = find_server(self._writer)
        self._spawn = spawn
        self._leave_if_stopped = leave_if_stopped
        self._process: Popen[bytes] | None = None
        self._port = 0
        self._password = ""

    @property
    def url(self) -> str:
        return f"redis://:{self._password}@127.0.0.1:{self._port}/0"

    @property
    def pid(self) -> int | None:
        """The process id of the server, None before it is started."""
        return self._process.pid if self._process else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server, and wait until it answers; raises OwnRedisError.

        A server that is started again keeps its port and its password, so that clients find it.
        """
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with contextlib.suppress(PermissionError):  # a volume may belong to another user
                self._directory.chmod(0o700)
            with open(self._directory / LOCK, "w") as lock:
                self._acquire(lock)
                kept = urlsplit(last_url(self._directory) or "").password
                self._password = self._password or kept or secrets.token_urlsafe(24)
                self._start_on_a_port(lock)
        except OSError as error:
            raise OwnRedisError(
                f"cannot write to {self._directory}, where its own Redis keeps the data "
                f"({error.strerror}): start elsewhere, or set REDIS_URL"
            ) from None

    def _start_on_a_port(self, lock: IO[str]) -> None:
        ended = self._directory / ENDED
        if not ended.exists():  # the check reads all data
            cut_half_transaction(self.server.path, self._directory)
        ended.unlink(missing_ok=True)
        ports = [self._port] if self._port else free_ports()
        for self._port in ports:
            write_url(self._directory, self.url)
            self._start_server(lock)
            if self._answers():
                (self._directory / WRITER).write_text(f"{self.server}\n")
                return
            self.stop()
            if is_free(self._port):
                break  # it has failed for another reason
        raise OwnRedisError("\n".join(self._failure()))

    def _failure(self) -> Iterator[str]:
        yield f"{self.server.path} did not start; see {self._log}"
        if not self.server.reads_data_of(self._writer):
            yield (
                f"{self._directory} was written by {self._writer}, and this is {self.server}: "
                f"install {self._writer} or newer, so that it is on PATH, or set REDIS_URL, or "
                "move the directory away"
            )
        yield from (_read(self._log) or "").splitlines()[-3:]

    def stop(self) -> None:
        """Stop the server, whose data is on disk; safe to repeat."""
        if self._process is None:
            return
        self._process.send_signal(STOP_SIGNAL)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.returncode == 0:
            with contextlib.suppress(OSError):
                (self._directory / ENDED).touch()

    @property
    def _log(self) -> Path:
        return self._directory / "redis.log"

    def _acquire(self, lock: IO[str]) -> None:
        # The server of a launcher that was killed a moment ago may still be stopping.
        until, printed = time.monotonic() + LOCK_SECONDS, False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if not printed:
                    message = f"tailrace: waiting for {self._directory}, which is in use"
                    print(message, file=sys.stderr, flush=True)
                    printed = True
                if time.monotonic() > until:
                    raise OwnRedisError(
                        f"{self._directory} is in use by another gateway; stop that one, or "
                        "give both a server with REDIS_URL"
                    ) from None
                time.sleep(0.1)

    def _start_server(self, lock: IO[str]) -> None:
        self._process = self._spawn(
            [
                self.server.path,
                "-",  # it reads the password there: everybody sees the arguments of a process
                *("--bind", "127.0.0.1", "--port", str(self._port)),
                *("--dir", str(self._directory), "--logfile", str(self._log)),
                *("--appendonly", "yes", "--save", "", "--daemonize", "no"),
            ],
            pass_fds=(lock.fileno(),),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,  # it says there that it reads its standard input
        )
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._process.stdin as configuration:
            configuration.write(f"requirepass {self._password}\n".encode())

    def _answers(self) -> bool:
        """Wait until the server has its data; return False if it ended, or another has the port.

        It answers INFO while it loads its data, which it may yet find damaged.
        """
        store, until = EventStore(self.url), time.monotonic() + START_SECONDS
        while time.monotonic() < until and self.running:
            self._leave_if_stopped()
            with contextlib.suppress(StoreUnavailable):
                if store.server()["process_id"] != str(self.pid):
                    return False
                if store.server("persistence")["loading"] == "0":
                    return True
            time.sleep(0.02)
        return False


def _read(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def free_ports() -> Iterator[int]:
    """Yield the free ports of the loopback interface, from the default port of Redis on."""
    yield from filter(is_free, range(MIN_PORT, MIN_PORT + PORTS_TO_TRY))


def is_free(port: int) -> bool:
    """Return whether no server uses a port of the loopback interface."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
