"""What the launcher and gunicorn refuse: wrong settings, and servers that are away or too old."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.integration.launcher.launched import GUNICORN, LAUNCHER
from tests.servers import RedisServer, free_port, wait_until

# Settings

WRONG = [
    ("PORT", "abc"),
    ("PORT", "0"),
    ("LOG_FORMAT", "xml"),
    ("STREAM_MAXLEN", "-1"),
    ("REDIS_URL", "http://x"),
    ("REDIS_URL", "redis://127.0.0.1:x/0"),
    ("REDIS_URL", "redis://[x"),
    ("REDIS_URL", "rediss://127.0.0.1?ssl_cert_reqs=CERT_NONE"),
    ("REDIS_URL", "redis://:PW#x@127.0.0.1"),
    ("HOST", "*"),
    ("HOST", "no-such-host.invalid"),
]


@pytest.mark.parametrize("command", [LAUNCHER, GUNICORN], ids=["launcher", "gunicorn"])
@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_wrong_setting_stops_the_start_and_is_named(home, command, name, value):
    gateway = home.launch(command, **{name: value})
    assert gateway.process.wait(30) != 0
    assert gateway.err.count(name) == 1
    assert "Traceback" not in gateway.output
    assert "PW" not in gateway.output
    home.wait_until_empty()
    assert not (home.directory / ".data").exists()


def test_an_option_that_redis_py_looks_at_late_is_refused_too(home, redis_server):
    gateway = home.launch(REDIS_URL=f"{redis_server.url}?socket_connect_timeout=-1")
    assert gateway.process.wait(30) == 2
    [line] = [line for line in gateway.err.splitlines() if "REDIS_URL" in line]
    assert "an option cannot be used" in line
    assert "Traceback" not in gateway.output


def test_empty_variables_count_as_absent(home, redis_server):
    """gunicorn itself reads these two."""
    (home.directory / ".env").write_text(f"PORT={free_port()}\n")
    gateway = home.launch(PORT="", WEB_CONCURRENCY="", REDIS_URL=redis_server.url)
    gateway.move_to(int((home.directory / ".env").read_text().partition("=")[2]))
    gateway.wait_until_it_serves()
    assert gateway.stop() == 0


def test_all_wrong_settings_are_named_together_with_those_of_dotenv(home):
    (home.directory / ".env").write_text("RETRY_MS=soon\n")
    gateway = home.launch(PORT="abc", LOG_FORMAT="xml")
    assert gateway.process.wait(30) != 0
    assert all(name in gateway.err for name in ("PORT", "LOG_FORMAT", "RETRY_MS"))
    assert "Traceback" not in gateway.output


@pytest.mark.parametrize(
    ("argument", "printed"), [("--help", "usage"), ("-h", "usage"), ("--version", "tailrace ")]
)
def test_help_and_the_version_start_nothing(home, argument, printed):
    gateway = home.launch([*LAUNCHER, argument])
    assert gateway.process.wait(30) == 0
    assert gateway.out.startswith(printed)


def test_check_prints_the_settings_without_the_password(home):
    gateway = home.launch([*LAUNCHER, "check"], REDIS_URL="redis://me:geheim@127.0.0.1:1/0")
    assert gateway.process.wait(30) == 0
    assert json.loads(gateway.out)["redis_url"] == "redis://me:***@127.0.0.1:1/0"
    assert "geheim" not in gateway.output


def test_an_unknown_argument_prints_the_usage(home):
    gateway = home.launch([*LAUNCHER, "fly"])
    assert gateway.process.wait(30) == 64
    assert "usage" in gateway.err


# Redis servers


@pytest.mark.parametrize("command", [LAUNCHER, GUNICORN], ids=["launcher", "gunicorn"])
def test_a_server_that_is_away_is_named_and_awaited(home, command, tmp_path_factory):
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
        assert "geheim" not in gateway.output
    finally:
        server.stop()


class OldRedis:
    """A server that reports Redis 6.2, and answers OK to every other command."""

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
    assert "Traceback" not in gateway.output
    home.wait_until_empty()


@pytest.mark.parametrize("command", [LAUNCHER, GUNICORN], ids=["launcher", "gunicorn"])
def test_a_cluster_is_refused_by_name(home, cluster, command):
    gateway = home.launch(command, REDIS_URL=cluster.url)
    assert gateway.process.wait(30) != 0
    assert f"{cluster.url}: Redis is in cluster mode" in gateway.err
    assert "Traceback" not in gateway.output
    home.wait_until_empty()
