"""The Redis server that the launcher starts: which binary, which port, and what a stop leaves."""

import contextlib
import os
import signal
import socket
import stat
import subprocess
from pathlib import Path

import pytest
import redis

from app.launcher import installed_redis, own_redis
from app.launcher.installed_redis import OwnRedisError, find_server
from app.launcher.own_redis import OwnRedis
from app.streaming.event_store import EventStore
from app.streaming.redis.redis_url import DEFAULT_URL, default_url
from tests.integration.launcher.launched import own_port, own_url
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


def test_a_stop_whose_exception_was_dropped_ends_the_wait_for_its_redis(monkeypatch, tmp_path):
    """As Python drops what a signal handler raises in a destructor."""
    monkeypatch.setenv("SERVER_VERSION", "Redis server v=7.2.4 sha=0")
    monkeypatch.setenv("PATH", path_with_silent_server(tmp_path))
    looks = []

    def leave_at_the_third_look() -> None:
        looks.append(1)
        if len(looks) == 3:
            raise SystemExit(0)

    server = OwnRedis(tmp_path / "data", leave_if_stopped=leave_at_the_third_look)
    with pytest.raises(SystemExit):
        server.start()
    server.stop()
    assert not server.running


def test_without_any_server_the_error_says_what_to_install_or_set(monkeypatch):
    monkeypatch.setattr(installed_redis.shutil, "which", lambda name: None)
    monkeypatch.setattr(installed_redis, "find_spec", lambda name: None)
    with pytest.raises(OwnRedisError, match=r"7\.0 or newer.*install one, or set REDIS_URL"):
        find_server()


def test_a_server_on_the_path_that_is_too_old_is_skipped(monkeypatch, tmp_path):
    monkeypatch.setenv("SERVER_VERSION", "Redis server v=6.2.14 sha=0")
    monkeypatch.setenv("PATH", path_with_silent_server(tmp_path))
    assert not find_server().path.startswith(str(tmp_path))
    monkeypatch.setattr(installed_redis, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(OwnRedisError, match="REDIS_URL"):
        find_server()


def test_a_server_on_the_path_that_is_new_enough_is_used(monkeypatch, tmp_path):
    monkeypatch.setenv("SERVER_VERSION", "Valkey server v=9.0.1 sha=0")
    monkeypatch.setenv("PATH", path_with_silent_server(tmp_path))
    assert find_server() == (str(tmp_path / "bin" / "redis-server"), "Valkey", "9.0.1")


def test_the_server_that_wrote_the_data_is_preferred_to_an_older_one_on_the_path(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("SERVER_VERSION", "Redis server v=7.0.15 sha=0")
    monkeypatch.setenv("PATH", path_with_silent_server(tmp_path))
    older = find_server()
    assert str(older) == "Redis 7.0.15"
    for writer, found in (
        ("Redis 7.0.15", older),
        ("Redis 7.0.2", older),
        ("Redis 7.2.0", older),  # the last hope, since no server is as new
        (None, older),
    ):
        assert find_server(writer) == found
    bundled = find_server("Valkey 7.2.0")
    assert bundled.name == "Valkey"
    assert find_server(str(bundled)) == bundled


def test_data_of_a_newer_server_are_refused_with_the_names_of_both(home):
    """As Valkey 8 leaves them to Redis 7.0: a file in a format that the server does not know."""
    folder = home.directory / ".data" / "appendonlydir"
    folder.mkdir(parents=True)
    (folder / "appendonly.aof.manifest").write_text(
        "file appendonly.aof.1.base.rdb seq 1 type b\nfile appendonly.aof.1.incr.aof seq 1 type i\n"
    )
    base = folder / "appendonly.aof.1.base.rdb"
    base.write_bytes(b"REDIS0999\xff" + bytes(8))
    (folder / "appendonly.aof.1.incr.aof").touch()
    (home.directory / ".data" / "written-by").write_text("Valkey 99.1.0\n")
    gateway = home.launch()
    assert gateway.process.wait(30) == 2
    assert f"was written by Valkey 99.1.0, and this is {find_server()}" in gateway.err
    assert "install Valkey 99.1.0 or newer" in gateway.err
    assert gateway.err.count("did not start") == 1
    assert "Traceback" not in gateway.output
    home.wait_until_empty()
    assert (home.directory / ".data" / "written-by").read_text() == "Valkey 99.1.0\n"
    assert base.read_bytes() == b"REDIS0999\xff" + bytes(8)


def test_only_its_user_can_use_its_redis(home, gateway):
    data = home.directory / ".data"
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    assert stat.S_IMODE((data / "redis-url").stat().st_mode) == 0o600
    with redis.Redis(port=own_port(gateway)) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
    with redis.from_url(own_url(gateway)) as client:
        assert client.ping()
    password = own_url(gateway).partition("@")[0].rpartition(":")[2]
    for process in home.processes():
        assert password not in " ".join(process.cmdline())
    assert password not in gateway.err
    assert (data / "written-by").read_text().strip() == str(find_server())


def test_the_password_lasts_and_an_open_directory_is_closed(home):
    (home.directory / ".data").mkdir(mode=0o755)
    first = home.launch().wait_until_it_serves()
    assert first.stop() == 0
    again = home.launch().wait_until_it_serves()
    passwords = {own_url(each).partition("@")[0] for each in (first, again)}
    assert len(passwords) == 1
    assert stat.S_IMODE((home.directory / ".data").stat().st_mode) == 0o700


def test_a_program_in_its_directory_finds_the_redis_that_runs_there(home, monkeypatch):
    monkeypatch.chdir(home.directory)
    monkeypatch.delenv("REDIS_URL", raising=False)
    assert default_url() == DEFAULT_URL
    gateway = home.launch().wait_until_it_serves()
    EventStore().add(1, "llm", "stream")
    assert gateway.sequences() == [1]
    assert default_url() == own_url(gateway)
    assert gateway.stop() == 0
    assert default_url() == DEFAULT_URL


def test_data_that_cannot_be_written_are_one_line_that_names_the_variable(home):
    (home.directory / ".data").touch()
    gateway = home.launch()
    assert gateway.process.wait(30) == 2
    [line] = gateway.err.splitlines()
    assert ".data" in line
    assert "REDIS_URL" in line


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


@pytest.mark.parametrize("damage", ["a flipped byte", "zeros at the end", "a lost end"])
def test_no_other_damage_of_its_file_is_cut_away(tmp_path, damage):
    server = OwnRedis(tmp_path)
    server.start()
    try:
        for number in range(20):
            EventStore(server.url).add("r", "llm", "stream", number, idempotency_key=str(number))
    finally:
        os.kill(server.pid, signal.SIGKILL)
        server.stop()
    file = tmp_path / "appendonlydir" / "appendonly.aof.1.incr.aof"
    content = file.read_bytes()
    if damage == "a flipped byte":
        middle = content.index(b"\r\n*", len(content) // 2) + 2
        content = content[:middle] + b"!" + content[middle + 1 :]
    elif damage == "zeros at the end":
        content += bytes(100)
    else:
        content += b"*1\r\n$5\r\nMULTI\r\n*1\r\n$4\r\nEXEC\r\nx"
    file.write_bytes(content)
    with pytest.raises(OwnRedisError):
        server.start()
    server.stop()
    assert file.read_bytes() == content


def test_a_server_that_finds_damage_late_has_not_started(tmp_path):
    """While it loads its data it answers INFO, but it may still find that they are damaged."""

    def spawn_slow(arguments: list, **options: object) -> subprocess.Popen:
        return subprocess.Popen([*arguments, "--key-load-delay", "500"], **options)

    server = OwnRedis(tmp_path, spawn_slow)
    server.start()
    try:
        with redis.Redis.from_url(server.url, protocol=2) as client:
            pipeline = client.pipeline(transaction=False)
            for number in range(4000):
                pipeline.set(f"key-{number}", number)
            pipeline.execute()
    finally:
        os.kill(server.pid, signal.SIGKILL)
        server.stop()
    file = tmp_path / "appendonlydir" / "appendonly.aof.1.incr.aof"
    content = file.read_bytes()
    last = content.rindex(b"\r\n*") + 2
    file.write_bytes(content[:last] + b"!" + content[last + 1 :])
    try:
        with pytest.raises(OwnRedisError):
            server.start()
    finally:
        server.stop()


def test_a_server_that_has_ended_in_order_needs_no_check(tmp_path, monkeypatch):
    checked: list[object] = []
    monkeypatch.setattr(own_redis, "cut_half_transaction", lambda *where: checked.append(where))
    server = OwnRedis(tmp_path)
    for _ in range(2):
        server.start()
        server.stop()
    assert len(checked) == 1
    server.start()
    os.kill(server.pid, signal.SIGKILL)
    server.stop()
    server.start()
    server.stop()
    assert len(checked) == 2
