"""The units of systemd: its own checks, and what a gateway tells it."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests

from app.settings import Settings
from tests.deploy.files import DEPLOY, SECONDS_AFTER_DRAIN, settings_in
from tests.servers import ROOT, GatewayServer, wait_until

FOLDER = DEPLOY / "systemd"
GATEWAY = FOLDER / "tailrace@.service"
UNITS = [GATEWAY, FOLDER / "tailrace-archive.service"]
ENVIRONMENT = dict(settings_in((FOLDER / "tailrace.env").read_text()))
HOME = "/srv/tailrace"

# In tenths, as systemd-analyze counts: from 0 (no rights) to 100.
MAX_EXPOSURE = 20

analyzed = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None and "CI" not in os.environ,
    reason="systemd-analyze is not installed (.ci/run installs it)",
)
each_unit = pytest.mark.parametrize("unit", UNITS, ids=lambda each: each.name)


def values_of(unit: Path, name: str) -> list[str]:
    """Return the values of a directive, in their order."""
    return re.findall(rf"^{name}=(.*)$", unit.read_text(), re.MULTILINE)


def analyze(*arguments: str | Path) -> str:
    """Run systemd-analyze, which must succeed, and return what it says."""
    done = subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, encoding="utf-8", timeout=50
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def installed(unit: Path, directory: Path) -> Path:
    """Copy a unit, with a directory in place of /srv/tailrace; return the path of an instance."""
    python = directory / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True, exist_ok=True)
    python.unlink(missing_ok=True)
    python.symlink_to(sys.executable)
    copy = directory / unit.name.replace("@", "@8082")
    copy.write_text(unit.read_text().replace(HOME, str(directory)))
    return copy


@analyzed
@each_unit
def test_systemd_finds_nothing_wrong(unit, tmp_path):
    assert analyze("verify", "--man=no", installed(unit, tmp_path)) == ""


@analyzed
def test_systemd_finds_what_is_wrong(tmp_path):
    copy = installed(GATEWAY, tmp_path)
    copy.write_text(copy.read_text().replace("KillMode=mixed", "KilMode=mixed"))
    assert "'KilMode'" in analyze("verify", "--man=no", copy)


@analyzed
@each_unit
def test_a_unit_has_few_rights(unit, tmp_path):
    copy = installed(unit, tmp_path)
    analyze("security", "--offline=true", f"--threshold={MAX_EXPOSURE}", copy)


def test_the_settings_are_the_gateways():
    Settings.load(ENVIRONMENT)
    assert set(ENVIRONMENT) <= Settings.names()


def test_a_gateway_is_stopped_only_after_its_drain():
    [seconds] = values_of(GATEWAY, "TimeoutStopSec")
    assert int(seconds) >= int(ENVIRONMENT["DRAIN_SECONDS"]) + SECONDS_AFTER_DRAIN


def test_both_units_have_the_same_rights():
    def rights(unit: Path) -> str:
        text = unit.read_text()
        return text[text.index("ProtectSystem=") : text.index("UMask=")]

    assert rights(UNITS[0]) == rights(UNITS[1])


# What a gateway tells systemd


class Supervised(GatewayServer):
    """A gateway that is started as the unit says, by a service manager that listens."""

    def __init__(self, directory: Path, *arguments: object, **settings: object):
        super().__init__(*arguments, **settings)
        self._environ |= {"NOTIFY_SOCKET": str(directory / "notify")}
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._listener.bind(self._environ["NOTIFY_SOCKET"])
        self._listener.settimeout(50)

    def start(self) -> "Supervised":
        [command] = values_of(GATEWAY, "ExecStart")
        words = command.replace(f"{HOME}/.venv/bin/python", sys.executable).split()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                words, cwd=ROOT, env=self._environ, stderr=log, stdout=log
            )
        return self

    def stop(self, number: int = signal.SIGINT) -> int:
        self._listener.close()
        return super().stop(number)

    def told(self) -> dict[str, str]:
        """Return the next message to systemd."""
        lines = self._listener.recv(4096).decode().split("\n")
        return dict(line.split("=", 1) for line in lines)


@pytest.fixture
def supervised(redis_server, tmp_path) -> Iterator[Supervised]:
    log = tmp_path / "log"
    with Supervised(tmp_path, redis_server.url, log, WEB_CONCURRENCY=2) as gateway:
        yield gateway


def test_systemd_is_told_when_the_workers_serve_and_not_before(supervised):
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{supervised.url}/readyz", timeout=20)
    assert supervised.told() == {"READY": "1", "STATUS": "serving"}
    assert len(supervised.workers()) == 2
    assert requests.get(f"{supervised.url}/readyz", timeout=20).ok


def test_systemd_is_told_of_a_reload_and_when_it_is_over(supervised):
    assert supervised.told()["READY"] == "1"
    before = set(supervised.workers())
    [reload] = values_of(GATEWAY, "ExecReload")
    command = reload.replace("$MAINPID", str(supervised.process.pid))
    subprocess.run(command.split(), check=True)
    told = supervised.told()
    assert told.pop("MONOTONIC_USEC").isdigit()
    assert told == {"RELOADING": "1"}
    assert supervised.told()["READY"] == "1"
    assert len(set(supervised.workers()) - before) == 2
    assert supervised.stop(signal.SIGTERM) == 0


def test_old_workers_serve_until_all_new_ones_do(supervised):
    assert supervised.told()["READY"] == "1"
    before = set(supervised.workers())
    supervised.process.send_signal(signal.SIGHUP)
    assert supervised.told()["RELOADING"] == "1"
    new = wait_until(lambda: set(supervised.workers()) - before, "a new worker starts")
    frozen = new.pop()
    frozen.suspend()  # it takes long to start
    try:
        again = {each.pid for each in before}
        for _ in range(30):
            assert requests.get(f"{supervised.url}/readyz", timeout=20).ok
        assert again <= {each.pid for each in supervised.workers()}
    finally:
        frozen.resume()
    assert supervised.told()["READY"] == "1"
    psutil.wait_procs(before, timeout=30)
    wait_until(lambda: not before & set(supervised.workers()), "the old workers end")
