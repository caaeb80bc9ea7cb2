"""The Redis server that the launcher starts: which binary, which port, and what a stop leaves."""

import contextlib
import os
import signal
import socket
from pathlib import Path

import pytest

from app import own_redis
from app.own_redis import OwnRedis, OwnRedisError, find_server
from app.streaming.event_store import EventStore
from tests.integration.launcher.launched import own_port
from tests.servers import ROOT, free_port, wait_until

SILENT_SERVER = ROOT / "tests" / "programs" / "silent_redis_server.sh"


def path_with_silent_server(directory: Path) -> str:
    """Install a `redis-server` that never answers, and return a PATH that begins with it."""
    folder = directory / "bin"
    folder.mkdir()
    (folder / "redis-server").symlink_to(SILENT_SERVER)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_stop_while_its_redis_starts_leaves_no_process(home, number):
    path = path_with_silent_server(home.directory)
    gateway = home.launch(PATH=path, SERVER_VERSION="Redis server v=7.2.4 sha=0")
    gateway.child("sleep")
    gateway.process.send_signal(number)
    gateway.process.wait(30)
    home.wait_until_empty()
    assert "Traceback" not in gateway.output


def test_without_any_server_the_error_says_what_to_install_or_set(monkeypatch):
    monkeypatch.setattr(own_redis.shutil, "which", lambda name: None)
    monkeypatch.setattr(own_redis, "find_spec", lambda name: None)
    with pytest.raises(OwnRedisError, match=r"7\.0 or newer.*install one, or set REDIS_URL"):
        find_server()


def test_a_server_on_the_path_that_is_too_old_is_skipped(monkeypatch, tmp_path):
    monkeypatch.setenv("SERVER_VERSION", "Redis server v=6.2.14 sha=0")
    monkeypatch.setenv("PATH", path_with_silent_server(tmp_path))
    assert not find_server()[0].startswith(str(tmp_path))
    monkeypatch.setattr(own_redis, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(OwnRedisError, match="REDIS_URL"):
        find_server()


def test_a_server_on_the_path_that_is_new_enough_is_used(monkeypatch, tmp_path):
    monkeypatch.setenv("SERVER_VERSION", "Valkey server v=9.0.1 sha=0")
    monkeypatch.setenv("PATH", path_with_silent_server(tmp_path))
    assert find_server() == (str(tmp_path / "bin" / "redis-server"), "Valkey 9.0.1")


def test_another_server_on_the_port_is_not_mistaken_for_the_own_one(
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


def test_a_redis_that_cannot_be_started_again_ends_the_gateway(home):
    gateway = home.launch().wait_until_it_serves()
    redis = gateway.redis()
    port = own_port(gateway)
    gateway.process.send_signal(signal.SIGSTOP)
    redis.kill()
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        wait_until(lambda: is_bound(thief, port), "the test has taken the port of the dead server")
        thief.listen()
        gateway.process.send_signal(signal.SIGCONT)
        assert gateway.process.wait(60) != 0
    home.wait_until_empty()


def is_bound(taker: socket.socket, port: int) -> bool:
    with contextlib.suppress(OSError):
        taker.bind(("127.0.0.1", port))
        return True
    return False


def encoded(*arguments: str) -> bytes:
    """Return a command as a server writes it into its append-only file."""
    parts = [b"$%d\r\n%b\r\n" % (len(each), each.encode()) for each in arguments]
    return b"*%d\r\n%b" % (len(parts), b"".join(parts))


def test_half_a_transaction_in_its_file_costs_no_event_and_comes_not_back(tmp_path):
    """Its file ends within a command, as after a `kill -9` in the middle of a write."""
    server = OwnRedis(tmp_path)
    for number in range(3):
        server.start()
        try:
            store = EventStore(server.url)
            assert [event.data for event in store.get_events("r")] == list(range(number))
            store.add("r", "llm", "stream", number)
        finally:
            os.kill(server.pid, signal.SIGKILL)
            server.stop()
        half = [encoded("MULTI"), encoded("XADD", "run:r:events", "*", "data", "9")]
        with (tmp_path / "appendonlydir" / "appendonly.aof.1.incr.aof").open("ab") as file:
            file.write(b"".join([*half, encoded("HSET", "run:r:keys", "a", "b")[:-4]]))
