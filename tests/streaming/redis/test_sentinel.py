"""URLs of Sentinels, what they say of the master, and connections to a former master."""

import contextlib
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import SimpleNamespace

import pytest
import redis

from app.launcher.installed_redis import find_server
from app.streaming.errors import InvalidInput, StoreUnavailable
from app.streaming.redis import connection, redis_url, sentinel
from app.streaming.redis.availability import Availability
from app.streaming.redis.sentinel import GIVES_UP, PROMOTES, WatchedMaster, leads_to_master
from app.streaming.redis.shared_connection import SharedConnection
from tests.clocks import replace_time
from tests.servers import ReplicatedServers, free_port, wait_until
from tests.streaming.redis.callers import Caller

# URLs


@pytest.mark.parametrize(
    "url",
    ["redis+sentinel://", "redis+sentinel://h", "redis+sentinel://h/", "redis+sentinel://h/s/one"],
)
def test_a_sentinel_url_without_a_service_or_with_a_bad_database_is_refused(url):
    with pytest.raises(InvalidInput, match=r"REDIS_URL: .*/service/database"):
        redis_url.make_client(url)


@pytest.mark.parametrize(
    "credentials", ["u/x", "u?x", "u#x", "u:p/x", "u:p?x", "u:#", "?", "/", "#"]
)
def test_delimiters_in_credentials_must_be_percent_encoded(credentials):
    with pytest.raises(InvalidInput, match=r"REDIS_URL: .*percent-encoded"):
        redis_url.make_client(f"redis+sentinel://{credentials}@host/service")


@pytest.mark.parametrize(
    ("credentials", "username", "password"),
    [
        ("u%2Fx:p%3F%23%40%25", "u/x", "p?#@%"),
        (":p%2Fx", None, "p/x"),
        ("u:p@x:y", "u", "p@x:y"),
    ],
)
def test_credentials_are_sent_to_the_servers_behind_the_sentinels(credentials, username, password):
    client = redis_url.make_client(f"redis+sentinel://{credentials}@one,two:1/service/2")
    settings = client.connection_pool.connection_kwargs
    assert (settings.get("username"), settings["password"]) == (username, password)
    assert settings["db"] == 2
    sentinel_settings = settings["connection_pool"].sentinel_manager.sentinel_kwargs
    assert (sentinel_settings["username"], sentinel_settings["password"]) == (None, None)


def test_the_sentinels_have_credentials_of_their_own():
    url = "redis+sentinel://u:p@one/service/2?sentinel_username=s&sentinel_password=a%2Fb"
    settings = redis_url.make_client(url).connection_pool.connection_kwargs
    assert settings["password"] == "p"
    sentinel_settings = settings["connection_pool"].sentinel_manager.sentinel_kwargs
    assert (sentinel_settings["username"], sentinel_settings["password"]) == ("s", "a/b")
    assert "a%2Fb" not in redis_url.without_password(url)


# What Sentinels say

FORMER, NEW = ("10.0.0.1", 6379), ("10.0.0.2", 6380)


class FakeSentinel:
    """Names a master, as of a failover; or is away while `address` is None."""

    def __init__(self, address: tuple[str, int] | None, epoch: int):
        self.address, self.epoch = address, epoch

    def sentinel_get_master_addr_by_name(self, service: str) -> tuple[bytes, int]:
        if self.address is None:
            raise redis.ConnectionError("away")
        return self.address[0].encode(), self.address[1]

    def sentinel_master(self, service: str) -> dict:
        return {"config-epoch": self.epoch}


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=1000.0)
    replace_time(monkeypatch, sentinel, monotonic=lambda: clock.now)
    monkeypatch.setattr(WatchedMaster, "_watch", lambda self: None)
    return clock


def watched_by(*sentinels: FakeSentinel) -> tuple[WatchedMaster, object]:
    """Return the record of a master, and a connection to FORMER that uses it."""
    client = redis_url.make_client("redis+sentinel://localhost/service/0")
    link = connection.make_connection(client)
    link.host, link.port = FORMER
    master = link.connection_pool
    master._sentinels = list(sentinels)
    return master, link


def published(channel: str, data: str) -> dict:
    return {"channel": channel.encode(), "data": data.encode()}


def test_a_connection_leads_to_the_master_until_sentinel_names_another_server(clock):
    said = FakeSentinel(FORMER, 0)
    master, link = watched_by(said)
    assert leads_to_master(link)  # no Sentinel has answered yet
    master.hear(0, None)
    assert leads_to_master(link)
    said.address, said.epoch = NEW, 1
    master.hear(0, published("+switch-master", "service 10.0.0.1 6379 10.0.0.2 6380"))
    assert not leads_to_master(link)
    assert master.get_master_address() == NEW


def test_a_sentinel_that_missed_a_failover_does_not_bring_the_former_master_back(clock):
    knows, late = FakeSentinel(NEW, 2), FakeSentinel(FORMER, 1)
    master, _ = watched_by(late, knows)
    for number in (0, 1, 0, 1, 0):
        with contextlib.suppress(redis.ConnectionError):
            master.hear(number, None)
    assert master.get_master_address() == NEW
    knows.address = None
    clock.now += sentinel.FRESH_SECONDS - 1
    master.hear(0, None)
    assert master.get_master_address() == NEW
    clock.now += 1  # who knew better has been away for long
    master.hear(0, None)
    assert master.get_master_address() == FORMER


def test_a_sentinel_that_is_away_is_passed_over(clock):
    master, _ = watched_by(FakeSentinel(None, 0), FakeSentinel(NEW, 0))
    assert master.get_master_address() == NEW


def test_without_any_sentinel_the_last_answer_stays_valid(clock):
    said = FakeSentinel(None, 0)
    master, _ = watched_by(said)
    with pytest.raises(redis.ConnectionError, match="no Sentinel names a master for 'service'"):
        master.get_master_address()
    said.address = NEW
    assert master.get_master_address() == NEW
    said.address = None
    clock.now += 3600
    assert master.get_master_address() == NEW


ABOUT = "slave 10.0.0.2:6380 10.0.0.2 6380 @ service 10.0.0.1 6379"


def test_while_a_replica_is_promoted_nothing_is_sent_to_the_master(clock):
    said = FakeSentinel(FORMER, 0)
    master, link = watched_by(said)
    master.hear(0, None)
    master.hear(0, published(PROMOTES, ABOUT))
    master.hear(0, None)  # the Sentinel itself has not found out yet
    assert not leads_to_master(link)
    with pytest.raises(redis.ConnectionError, match="about to name another master"):
        master.get_master_address()
    said.address = NEW
    master.hear(0, published("+promoted-slave", ABOUT))
    assert master.get_master_address() == NEW


@pytest.mark.parametrize("end", ["it is given up", "it takes too long", "it is about another"])
def test_a_promotion_that_does_not_happen_leaves_the_master_in_use(clock, end):
    master, link = watched_by(FakeSentinel(FORMER, 0))
    master.hear(0, None)
    about = ABOUT if end != "it is about another" else ABOUT.replace("service", "service-2")
    master.hear(0, published(PROMOTES, about))
    if end == "it is given up":
        master.hear(0, published(GIVES_UP, "master service 10.0.0.1 6379"))
    elif end == "it takes too long":
        clock.now += sentinel.MAX_PROMOTION_SECONDS
    assert leads_to_master(link)
    assert master.get_master_address() == FORMER


def test_a_connection_without_sentinels_always_leads_to_the_master():
    client = redis_url.make_client("redis://localhost/0")
    assert leads_to_master(connection.make_connection(client))


# Real servers


def test_a_sentinel_with_a_password_of_its_own_names_a_master_with_another(start_server):
    master = start_server("requirepass of-redis")
    port = start_server(
        f"sentinel monitor mymaster 127.0.0.1 {master} 1",
        "sentinel auth-pass mymaster of-redis",
        "requirepass of-sentinel",
        options=["--sentinel"],
    )
    url = f"redis+sentinel://:of-redis@127.0.0.1:{port}/mymaster/0"
    client = redis_url.make_client(f"{url}?sentinel_password=of-sentinel")
    assert connection.call(client, "PING") == b"PONG"
    for query in ("", "?sentinel_password=of-redis"):
        with pytest.raises(StoreUnavailable, match="no Sentinel names a master"):
            connection.call(redis_url.make_client(f"{url}{query}"), "PING")


@pytest.fixture
def start_server(tmp_path) -> Iterator[Callable[..., int]]:
    """Return a function that starts a server with a configuration, and returns its port."""
    processes: list[subprocess.Popen] = []

    def start(*lines: str, options: Sequence[str] = ()) -> int:
        port = free_port()
        configuration = tmp_path / f"{port}.conf"
        rest = (f"port {port}", "bind 127.0.0.1", f"dir {tmp_path}", f"logfile {tmp_path}/{port}")
        configuration.write_text("\n".join([*lines, *rest, ""]))
        processes.append(subprocess.Popen([find_server().path, configuration, *options]))

        def answers() -> bool:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                return True
            return False

        wait_until(answers, "the server listens")
        return port

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def replicated(tmp_path) -> Iterator[ReplicatedServers]:
    servers = ReplicatedServers(tmp_path)
    yield servers
    servers.stop()


class PoolCaller(threading.Thread):
    """Blocks on a connection of the pool, and keeps the error that ends it."""

    def __init__(self, client: redis.Redis):
        super().__init__(daemon=True)
        self._client = client
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            connection.call(self._client, "XREAD", "BLOCK", 0, "STREAMS", "nothing-comes", "0")
        except StoreUnavailable as error:
            self.error = error


def test_a_failover_ends_calls_that_wait_for_the_former_master(replicated):
    """And Sentinels that are away do not matter, as long as one is there."""
    url = f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{replicated.port}/mymaster/0"
    client = redis_url.make_client(f"{url}?socket_timeout=100")
    shared = SharedConnection(
        partial(connection.make_connection, client), Availability(lambda: None)
    )
    assert shared.call("SET", "a", 1) == b"OK"
    assert connection.call(client, "GET", "a") == b"1"
    reader, appends = PoolCaller(client), Caller(shared, "BLPOP", "nothing-comes", 0)

    def blocked_clients() -> int:
        with replicated.master.client() as master:
            return master.info("clients")["blocked_clients"]

    wait_until(lambda: blocked_clients() == 2, "both wait for the master")
    replicated.switch()
    assert isinstance(appends.outcome, StoreUnavailable)
    assert appends.outcome.stored is None
    reader.join(10)
    assert reader.error is not None

    def role(call: object) -> bytes | None:
        with contextlib.suppress(StoreUnavailable):
            return call("CONFIG", "GET", "port")[1]

    new_port = b"%d" % replicated.replica.port
    calls = shared.call, partial(connection.call, client)
    for call in calls:
        wait_until(lambda: role(call) == new_port, "the new master is in use")  # noqa: B023
    with replicated.master.client() as former:
        assert former.role()[0] == b"master", "too late: it is demoted already"


def test_nothing_listens_for_a_client_that_is_gone(replicated):
    def listeners() -> list[threading.Thread]:
        return [each for each in threading.enumerate() if each.name == "tailrace-master"]

    before = len(listeners())
    client = redis_url.make_client(replicated.url)
    assert connection.call(client, "PING") == b"PONG"
    assert len(listeners()) == before + 1
    client.connection_pool.disconnect()
    del client
    wait_until(lambda: len(listeners()) <= before, "the thread has ended")
