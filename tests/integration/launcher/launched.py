"""A directory in which `python -m app` starts a gateway, and all processes that run there."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import psutil
import requests

from app.settings import Settings
from tests.servers import ROOT, free_port, wait_until

LAUNCHER = [sys.executable, "-m", "app"]
GUNICORN = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "wsgi:app"]
DRAIN_SECONDS = 2


class LaunchedGateway:
    """A gateway that one of the two commands has started in a directory."""

    def __init__(self, directory: Path, command: list[str], **settings: object):
        self.move_to(settings.setdefault("PORT", free_port()))
        number = len(list(directory.glob("*.out")))
        self._out, self._err = (directory / f"{number}.{name}" for name in ("out", "err"))
        names = {setting.name.upper() for setting in fields(Settings)}
        environ = {name: value for name, value in os.environ.items() if name not in names}
        environ |= {"DRAIN_SECONDS": str(DRAIN_SECONDS)}
        environ |= {name: str(value) for name, value in settings.items()}
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = psutil.Popen(
                command, cwd=directory, env=environ, stdout=out, stderr=err,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip

    def move_to(self, port: int) -> None:
        """Expect the gateway on another port."""
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    @property
    def output(self) -> str:
        return self.out + self.err

    def wait_until_it_serves(self) -> "LaunchedGateway":
        wait_until(lambda: self.status("readyz") == 200, f"it is ready\n{self.output}")
        return self

    def status(self, path: str) -> int | None:
        if self.process.poll() is not None:
            raise AssertionError(f"the gateway exited:\n{self.output}")
        with contextlib.suppress(requests.ConnectionError):
            return requests.get(f"{self.url}/{path}", timeout=10).status_code

    def append(self, action: str = "stream", category: str = "llm") -> None:
        event = {"event_category": category, "event_action": action}
        assert requests.post(f"{self.url}/runs/1/events", json=event, timeout=10).ok

    def sequences(self) -> list[int]:
        answer = requests.get(f"{self.url}/runs/1/events", timeout=10).json()
        return [event["sequence"] for event in answer["events"]]

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)

    def redis(self) -> psutil.Process:
        return self.child("valkey-server", "redis-server")

    def reaper(self) -> psutil.Process:
        return self.child("reaper.py")

    def master(self) -> psutil.Process:
        return self.child("gunicorn")

    def child(self, *names: str) -> psutil.Process:
        """Wait for a child that runs a program or script with one of these names, and return it."""

        def found() -> list[psutil.Process]:
            return [child for child in self.process.children() if is_named(child)]

        def is_named(child: psutil.Process) -> bool:
            with contextlib.suppress(psutil.Error):
                words = {child.name(), *(Path(word).name for word in child.cmdline())}
                return not words.isdisjoint(names)
            return False

        [child] = wait_until(found, f"a child process {names}")
        return child


class Directory:
    """A directory with what the launcher needs, and the processes that run there."""

    def __init__(self, directory: Path):
        self.directory = directory.resolve()
        self._launched: list[LaunchedGateway] = []
        directory.mkdir(exist_ok=True)
        for name in ("app", "wsgi.py", "gunicorn.conf.py"):
            (directory / name).symlink_to(ROOT / name)

    def launch(self, command: list[str] = LAUNCHER, **settings: object) -> LaunchedGateway:
        self._launched.append(LaunchedGateway(self.directory, command, **settings))
        return self._launched[-1]

    def processes(self) -> list[psutil.Process]:
        """Return every process whose working directory is this one, or one below it."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                is_here = Path(process.cwd()).is_relative_to(self.directory)
                if is_here and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def wait_until_empty(self) -> None:
        wait_until(lambda: not self.processes(), "no process is left", seconds=30)

    def end_all(self) -> None:
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for gateway in self._launched:
            gateway.process.wait(30)
        self.wait_until_empty()


def own_port(gateway: LaunchedGateway) -> int:
    """Return the port of the Redis server that the launcher has started."""
    return int(
        re.search(r"^REDIS_URL=redis://:[\w-]{32}@127\.0\.0\.1:(\d+)/0$", gateway.out, re.M)[1]
    )


def own_url(gateway: LaunchedGateway) -> str:
    """Return the URL of that server, as the launcher prints it."""
    return re.search(r"^REDIS_URL=(.*)$", gateway.out, re.M)[1]
