"""Starting, stopping and killing `python -m app`: what it says, keeps and leaves behind."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import psutil
import pytest
import requests

from app import own_redis
from app.own_redis import OwnRedis, OwnRedisError, find_server
from app.settings import Settings
from tests.clients import Stream
from tests.servers import ROOT, RedisServer, free_port, wait_until

LAUNCHER = [sys.executable, "-m", "app"]
GUNICORN = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "wsgi:app"]
DRAIN_SECONDS = 2


class Gateway:
    """A gateway of a directory of its own, by one of the two commands that start one."""

    def __init__(self, directory: Path, command: list[str], **settings: object):
        self.port = settings.setdefault("PORT", free_port())
        self.url = f"http://127.0.0.1:{self.port}"
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

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    @property
    def said(self) -> str:
        return self.out + self.err

    def wait_until_it_serves(self) -> "Gateway":
        wait_until(lambda: self.status("readyz") == 200, f"it is ready\n{self.said}")
        return self

    def status(self, path: str) -> int | None:
        if self.process.poll() is not None:
            raise AssertionError(f"the gateway ended:\n{self.said}")
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
        """The child that runs a program or script of one of these names."""

        def found() -> list[psutil.Process]:
            return [child for child in self.process.children() if is_named(child)]

        def is_named(child: psutil.Process) -> bool:
            with contextlib.suppress(psutil.Error):
                words = {child.name(), *(Path(word).name for word in child.cmdline())}
                return not words.isdisjoint(names)
            return False

        [child] = wait_until(found, f"there is a child {names}")
        return child


class Home:
    """A directory with what the launcher needs, and all that runs there."""

    def __init__(self, directory: Path):
        self.directory = directory.resolve()
        self._launched: list[Gateway] = []
        for name in ("app", "wsgi.py", "gunicorn.conf.py"):
            (directory / name).symlink_to(ROOT / name)

    def launch(self, command: list[str] = LAUNCHER, **settings: object) -> Gateway:
        self._launched.append(Gateway(self.directory, command, **settings))
        return self._launched[-1]

    def processes(self) -> list[psutil.Process]:
        """What lives with this directory, or one below, as its own."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                here = Path(process.cwd()).is_relative_to(self.directory)
                if here and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def wait_until_nothing_is_left(self) -> None:
        wait_until(lambda: not self.processes(), "no process is left", seconds=30)

    def end_all(self) -> None:
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for gateway in self._launched:
            gateway.process.wait(30)
        self.wait_until_nothing_is_left()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    yield home
    home.end_all()


@pytest.fixture
def gateway(home: Home) -> Gateway:
    """One that was launched with nothing set, and serves."""
    return home.launch().wait_until_it_serves()


def own_port(gateway: Gateway) -> int:
    return int(re.search(r"^REDIS_URL=redis://127\.0\.0\.1:(\d+)/0$", gateway.out, re.M)[1])


# What it says


def test_it_says_in_one_line_where_it_serves_and_in_one_where_its_redis_is(home, gateway):
    serves, redis_url = gateway.out.splitlines()
    assert gateway.url in serves
    assert ".data" in serves
    assert redis_url == f"REDIS_URL=redis://127.0.0.1:{own_port(gateway)}/0"
    assert (home.directory / ".data" / "appendonlydir").is_dir()
    assert gateway.redis().net_connections("tcp")[0].laddr.port == own_port(gateway)


def test_a_url_of_dotenv_is_used_and_no_redis_is_started(home, redis_server):
    (home.directory / ".env").write_text(f"REDIS_URL={redis_server.url}\n")
    gateway = home.launch().wait_until_it_serves()
    assert redis_server.url in gateway.out
    assert not (home.directory / ".data").exists()
    assert gateway.stop() == 0
    home.wait_until_nothing_is_left()


def test_json_logs_are_json_in_every_line_with_the_fields_of_a_streams_end(home):
    gateway = home.launch(LOG_FORMAT="json").wait_until_it_serves()
    gateway.append("started", "lifecycle")
    gateway.append("completed", "lifecycle")
    with Stream(f"{gateway.url}/runs/1/events/stream?") as stream:
        stream.wait_for_end()
    assert gateway.stop() == 0
    lines = [json.loads(line) for line in gateway.err.splitlines()]
    [ended] = [line for line in lines if line["message"].startswith("stream ended")]
    assert (ended["level"], ended["logger"]) == ("INFO", "tailrace.stream")
    assert {"run": "1", "reason": "ended", "events": 2}.items() <= ended.items()
    assert 0 <= ended["seconds"] < 20


# What it keeps, and what it leaves behind


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_events_survive_a_stop_and_nothing_else_does(home, gateway, number):
    gateway.append()
    assert gateway.stop(number) == 0
    home.wait_until_nothing_is_left()
    assert "Traceback" not in gateway.said
    again = home.launch().wait_until_it_serves()
    again.append()
    assert again.sequences() == [1, 2]


@pytest.mark.parametrize("which", ["process", "master"])
def test_events_survive_kill_9_and_no_process_does(home, gateway, which):
    gateway.append()
    with Stream(f"{gateway.url}/runs/1/events/stream?") as stream:
        stream.wait_for_control("caught_up")
        victim = gateway.process if which == "process" else gateway.master()
        victim.kill()
        assert gateway.process.wait(30) != 0
        home.wait_until_nothing_is_left()
        stream.wait_for_end()
    again = home.launch().wait_until_it_serves()
    again.append()
    assert again.sequences() == [1, 2]


def test_a_killed_redis_is_started_again_on_its_port_with_its_data(home, gateway):
    gateway.append()
    with Stream(f"{gateway.url}/runs/1/events/stream?") as stream:
        stream.wait_for_control("caught_up")
        first = gateway.redis()
        first.kill()
        wait_until(lambda: not first.is_running(), "the killed one is gone")
        assert gateway.redis().pid != first.pid
        gateway.wait_until_it_serves()
        gateway.append()
        stream.wait_for_events(2)
    assert stream.sequences == [1, 2]
    assert {link.laddr.port for link in gateway.redis().net_connections("tcp")} == {
        own_port(gateway)
    }
    assert gateway.stop() == 0
    home.wait_until_nothing_is_left()


def test_a_start_at_once_after_kill_9_has_the_same_data(home, gateway):
    gateway.append()
    gateway.process.kill()
    again = home.launch(PORT=gateway.port)
    wait_until(lambda: "REDIS_URL=" in again.out, "its Redis has started")
    again.wait_until_it_serves()
    again.append()
    assert again.sequences() == [1, 2]
    assert len(home.processes()) == 5  # the launcher, its reaper, Redis, the master, a worker


def test_the_second_of_two_in_one_directory_stops_and_says_why(home, gateway):
    second = home.launch()
    assert second.process.wait(60) != 0
    assert "in use by another gateway" in second.err
    assert "Traceback" not in second.said
    assert second.out == ""
    gateway.append()
    assert gateway.sequences() == [1]


def test_two_in_directories_of_their_own_have_each_a_redis(home, gateway, tmp_path_factory):
    other = Home(tmp_path_factory.mktemp("other"))
    try:
        neighbour = other.launch().wait_until_it_serves()
        gateway.append()
        assert neighbour.sequences() == []
        assert own_port(neighbour) != own_port(gateway)
    finally:
        other.end_all()


def test_a_launcher_without_its_reaper_still_stops_as_it_should(home, gateway):
    gateway.reaper().kill()
    assert gateway.stop() == 0
    home.wait_until_nothing_is_left()
    assert "Traceback" not in gateway.said


def test_sigterm_ends_an_open_stream_with_a_retry_and_leaves_in_time(home, gateway):
    gateway.append()
    with Stream(f"{gateway.url}/runs/1/events/stream?") as stream:
        stream.wait_for_control("caught_up")
        stream.retry = None
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.process.wait(DRAIN_SECONDS + 8) == 0
        stream.wait_for_end()
    assert stream.error is None
    assert stream.retry is not None
    assert "reason=draining" in gateway.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_while_gunicorn_is_still_starting_is_as_clean(home, number):
    gateway = home.launch()
    gateway.master()
    assert gateway.stop(number) == 0
    home.wait_until_nothing_is_left()
    assert "Traceback" not in gateway.said


FAKE_SERVER = """#!/bin/sh
case "$1" in
  --version) echo "{version}" ;;
  *) exec sleep 600 ;;
esac
"""


def put_server_on_path(directory: Path, version: str) -> str:
    """A directory with a `redis-server` that never answers, as a PATH beginning with it."""
    folder = directory / "bin"
    folder.mkdir()
    (folder / "redis-server").write_text(FAKE_SERVER.format(version=version))
    (folder / "redis-server").chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_stop_while_its_redis_is_still_starting_leaves_nothing(home, number):
    path = put_server_on_path(home.directory, "Redis server v=7.2.4 sha=0")
    gateway = home.launch(PATH=path)
    gateway.child("sleep")
    gateway.process.send_signal(number)
    gateway.process.wait(30)
    home.wait_until_nothing_is_left()
    assert "Traceback" not in gateway.said


# What it refuses

WRONG = [
    ("PORT", "abc"),
    ("PORT", "0"),
    ("LOG_FORMAT", "xml"),
    ("STREAM_MAXLEN", "-1"),
    ("REDIS_URL", "http://x"),
    ("REDIS_URL", "redis://127.0.0.1:x/0"),
    ("REDIS_URL", "redis://[x"),
]


@pytest.mark.parametrize("command", [LAUNCHER, GUNICORN], ids=["launcher", "gunicorn"])
@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_wrong_setting_stops_the_start_by_its_name(home, command, name, value):
    gateway = home.launch(command, **{name: value})
    assert gateway.process.wait(30) != 0
    assert gateway.err.count(name) == 1
    assert "Traceback" not in gateway.said
    home.wait_until_nothing_is_left()
    assert not (home.directory / ".data").exists()


def test_every_wrong_setting_is_named_at_once_those_of_dotenv_too(home):
    (home.directory / ".env").write_text("RETRY_MS=soon\n")
    gateway = home.launch(PORT="abc", LOG_FORMAT="xml")
    assert gateway.process.wait(30) != 0
    assert all(name in gateway.err for name in ("PORT", "LOG_FORMAT", "RETRY_MS"))
    assert "Traceback" not in gateway.said


def test_an_unknown_argument_is_answered_with_the_usage(home):
    gateway = home.launch([*LAUNCHER, "fly"])
    assert gateway.process.wait(30) == 2
    assert "usage" in gateway.err


# A Redis of others


@pytest.mark.parametrize("command", [LAUNCHER, GUNICORN], ids=["launcher", "gunicorn"])
def test_an_absent_server_is_named_and_waited_for(home, command, tmp_path_factory):
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    url = f"redis://default:geheim@127.0.0.1:{server.port}/0"
    gateway = home.launch(command, REDIS_URL=url)
    try:
        wait_until(lambda: gateway.status("healthz") == 200, "it serves")
        assert gateway.status("readyz") == 503
        assert f"cannot reach Redis at redis://default:***@127.0.0.1:{server.port}/0" in gateway.err
        server.start()
        gateway.wait_until_it_serves()
        gateway.append()
        assert gateway.stop() == 0
        assert "geheim" not in gateway.said
    finally:
        server.stop()


class OldRedis:
    """A server that says it is Redis 6.2, and yes to everything else."""

    def __init__(self):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client: socket.socket) -> None:
        info = b"# Server\r\nredis_version:6.2.14\r\nredis_mode:standalone\r\n"
        answers = {b"INFO": b"$%d\r\n%b\r\n" % (len(info), info), b"PING": b"+PONG\r\n"}
        with contextlib.suppress(OSError), client, client.makefile("rb") as requests:
            while head := requests.readline():
                lines = [requests.readline() for _ in range(2 * int(head[1:]))]
                client.sendall(answers.get(lines[1].strip().upper(), b"+OK\r\n"))


@pytest.fixture
def old_redis() -> Iterator[OldRedis]:
    server = OldRedis()
    yield server
    server.close()


@pytest.mark.parametrize("command", [LAUNCHER, GUNICORN], ids=["launcher", "gunicorn"])
def test_a_server_that_is_too_old_is_refused(home, old_redis, command):
    gateway = home.launch(command, REDIS_URL=old_redis.url)
    assert gateway.process.wait(30) != 0
    for part in ("7.0", "6.2.14", old_redis.url):
        assert part in gateway.err
    assert "Traceback" not in gateway.said
    home.wait_until_nothing_is_left()


# Its own Redis


def test_no_server_at_all_is_said_with_what_to_do(monkeypatch):
    monkeypatch.setattr(own_redis.shutil, "which", lambda name: None)
    monkeypatch.setattr(own_redis, "find_spec", lambda name: None)
    with pytest.raises(OwnRedisError, match=r"7\.0 or newer.*install one, or set REDIS_URL"):
        find_server()


def test_a_server_on_path_that_is_too_old_is_passed_over(monkeypatch, tmp_path):
    path = put_server_on_path(tmp_path, "Redis server v=6.2.14 sha=0")
    monkeypatch.setenv("PATH", path)
    assert not find_server()[0].startswith(str(tmp_path))
    monkeypatch.setattr(own_redis, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(OwnRedisError, match="REDIS_URL"):
        find_server()


def test_a_server_on_path_that_is_new_enough_is_taken(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", put_server_on_path(tmp_path, "Valkey server v=9.0.1 sha=0"))
    assert find_server() == (str(tmp_path / "bin" / "redis-server"), "Valkey 9.0.1")


def test_a_server_that_took_the_port_meanwhile_is_not_taken_for_its_own(
    monkeypatch, tmp_path, redis_server
):
    monkeypatch.setattr(own_redis, "free_ports", lambda: [redis_server.port, free_port()])
    server = OwnRedis(tmp_path)
    try:
        server.start()
        assert server.url != redis_server.url
        assert server.running
    finally:
        server.stop()


def test_a_redis_that_cannot_be_started_again_takes_the_gateway_with_it(home):
    gateway = home.launch().wait_until_it_serves()
    redis = gateway.redis()
    port = own_port(gateway)
    gateway.process.send_signal(signal.SIGSTOP)
    redis.kill()
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        wait_until(lambda: is_bound(thief, port), "the port of the dead server is taken")
        thief.listen()
        gateway.process.send_signal(signal.SIGCONT)
        assert gateway.process.wait(60) != 0
    home.wait_until_nothing_is_left()


def is_bound(taker: socket.socket, port: int) -> bool:
    with contextlib.suppress(OSError):
        taker.bind(("127.0.0.1", port))
        return True
    return False
