"""The connections to Redis: what is pinned about them, and the errors that leave them."""

import socket
import threading
from collections.abc import Iterator
from unittest.mock import Mock

import pytest
import redis
from redis.exceptions import NoScriptError, ResponseError

from app.streaming.errors import InvalidInput, NotALog, StoreUnavailable
from app.streaming.log import connection
from tests.servers import free_port, wait_until


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def make_blocking_client(url):
    return connection.make_blocking_client(connection.make_client(url), 5.0)


@pytest.mark.parametrize("make", [connection.make_client, make_blocking_client])
@pytest.mark.parametrize("base", ["redis://localhost/3", "redis+sentinel://localhost/service/3"])
@pytest.mark.parametrize("query", ["", "?protocol=3&decode_responses=true&retry_on_timeout=true"])
def test_a_url_cannot_undo_what_is_pinned(make, base, query):
    settings = make(f"{base}{query}").connection_pool.connection_kwargs
    assert settings["protocol"] == 2
    assert settings["decode_responses"] is False
    assert settings["driver_info"] is None
    assert settings["retry"].get_retries() == 0
    assert settings["retry_on_timeout"] is False
    assert settings["db"] == 3
    assert 0 < settings["socket_connect_timeout"] <= settings["socket_timeout"] <= 10


@pytest.mark.parametrize("base", ["redis://localhost", "redis+sentinel://localhost/service/0"])
def test_a_url_may_set_a_time_out_of_its_own(base):
    client = connection.make_client(f"{base}?socket_timeout=1.5")
    assert client.connection_pool.connection_kwargs["socket_timeout"] == 1.5


@pytest.mark.parametrize("url", ["redis://localhost", "redis+sentinel://localhost/service"])
def test_the_pool_is_bounded_and_waits(url):
    pool = connection.make_client(url).connection_pool
    assert isinstance(pool, redis.BlockingConnectionPool)
    assert pool.max_connections == 16


@pytest.mark.parametrize(
    "url", ["http://localhost", "localhost:6379", "redis://localhost:port", "redis://h/?nonsense=1"]
)
def test_a_url_that_cannot_be_used_is_refused_and_the_variable_is_named(url):
    with pytest.raises(InvalidInput) as refused:
        connection.make_client(url)
    assert refused.value.field == "REDIS_URL"


@pytest.mark.parametrize(
    "url",
    ["redis+sentinel://", "redis+sentinel://h", "redis+sentinel://h/", "redis+sentinel://h/s/one"],
)
def test_a_url_of_sentinels_without_a_service_or_with_another_database_is_refused(url):
    with pytest.raises(InvalidInput, match=r"REDIS_URL: .*/service/database"):
        connection.make_client(url)


@pytest.mark.parametrize(
    "credentials", ["u/x", "u?x", "u#x", "u:p/x", "u:p?x", "u:#", "?", "/", "#"]
)
def test_credentials_that_would_end_a_url_of_sentinels_must_be_encoded(credentials):
    with pytest.raises(InvalidInput, match=r"REDIS_URL: .*percent-encoded"):
        connection.make_client(f"redis+sentinel://{credentials}@host/service")


@pytest.mark.parametrize(
    ("credentials", "username", "password"),
    [
        ("u%2Fx:p%3F%23%40%25", "u/x", "p?#@%"),
        (":p%2Fx", None, "p/x"),
        ("u:p@x:y", "u", "p@x:y"),
    ],
)
def test_encoded_credentials_are_those_of_the_servers_behind_sentinels(
    credentials, username, password
):
    client = connection.make_client(f"redis+sentinel://{credentials}@one,two:1/service/2")
    settings = client.connection_pool.connection_kwargs
    assert (settings.get("username"), settings["password"]) == (username, password)
    assert settings["db"] == 2


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://:secret@host:1/0", "redis://:***@host:1/0"),
        ("rediss://me:se:cr@et@host/0?a=b", "rediss://me:***@host/0?a=b"),
        ("redis://me@host", "redis://me@host"),
    ],
)
def test_a_password_is_not_shown(url, shown):
    assert connection.without_password(url) == shown


def test_the_default_url_is_that_of_the_environment_then_of_env_then_local(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REDIS_URL", raising=False)
    assert connection.default_url() == "redis://localhost:6379/0"
    (tmp_path / ".env").write_text("REDIS_URL=redis://of-env/1\n")
    assert connection.default_url() == "redis://of-env/1"
    monkeypatch.setenv("REDIS_URL", "")
    assert connection.default_url() == "redis://of-env/1"
    monkeypatch.setenv("REDIS_URL", "redis://of-environ/2")
    assert connection.default_url() == "redis://of-environ/2"


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (ResponseError("WRONGTYPE Operation against a key"), NotALog),
        (ResponseError("ERR Error running script: -WRONGTYPE Operation"), NotALog),
        (ResponseError("OOM command not allowed"), StoreUnavailable),
        (ResponseError("LOADING Redis is loading"), StoreUnavailable),
        (NoScriptError("No matching script"), NoScriptError),
    ],
)
def test_an_error_reply_is_raised_as_its_own_kind(reply, error):
    with pytest.raises(error):
        connection.checked(reply)


@pytest.mark.parametrize("reply", [None, b"", 0, [], [b"WRONGTYPE"]])
def test_any_other_reply_is_given_as_it_is(reply):
    assert connection.checked(reply) is reply


def test_an_error_of_one_command_does_not_hide_the_replies_of_others(fake_client):
    fake_client.set("a", "text")
    length, value = connection.call_all(fake_client, ("XLEN", "a"), ("GET", "a"))
    assert connection.is_wrong_type(length)
    assert value == b"text"


def test_nobody_there_is_an_error_of_this_package():
    client = connection.make_client(f"redis://127.0.0.1:{free_port()}")
    with pytest.raises(StoreUnavailable):
        connection.call(client, "PING")


def test_a_server_that_never_answers_is_given_up(silent_port):
    client = connection.make_client(f"redis://127.0.0.1:{silent_port}?socket_timeout=0.1")
    with pytest.raises(StoreUnavailable):
        connection.call(client, "PING")


def test_a_pool_that_is_used_up_is_an_error_of_this_package(redis_server, monkeypatch):
    monkeypatch.setattr(connection, "POOL_WAIT_SECONDS", 0.05)
    monkeypatch.setattr(connection, "POOL_SIZE", 1)
    client = connection.make_client(redis_server.url)
    link = client.connection_pool.get_connection()
    with pytest.raises(StoreUnavailable):
        connection.call(client, "PING")
    client.connection_pool.release(link)
    assert connection.call(client, "PING") == b"PONG"


def test_a_reply_that_was_not_read_never_answers_the_next_command(redis_server):
    client = connection.make_client(f"{redis_server.url}?socket_timeout=0.2")
    with pytest.raises(StoreUnavailable):
        connection.call(client, "BLPOP", "nothing-comes", 1)
    assert connection.call(client, "ECHO", "mine") == b"mine"


def test_an_exchange_that_is_broken_off_closes_its_connection():
    link = Mock()
    link.read_response.side_effect = [b"first", KeyboardInterrupt]
    with pytest.raises(KeyboardInterrupt):
        connection.exchange(link, ("PING",), ("PING",))
    link.disconnect.assert_called_once()


def test_a_connection_that_the_server_closed_is_replaced(redis_server, redis_client):
    client = connection.make_client(redis_server.url)
    own = connection.call(client, "CLIENT", "ID")
    redis_client.client_kill_filter(_id=own)

    def answers() -> bool:
        try:
            return connection.call(client, "PING") == b"PONG"
        except StoreUnavailable:
            return False

    wait_until(answers, "another connection is made")
    assert connection.call(client, "CLIENT", "ID") != own


def test_many_threads_share_the_pool(redis_server):
    client, wrong = connection.make_client(redis_server.url), []

    def echo(number: int) -> None:
        for turn in range(20):
            said = b"%d-%d" % (number, turn)
            if connection.call(client, "ECHO", said) != said:
                wrong.append(said)

    threads = [threading.Thread(target=echo, args=(number,)) for number in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("decode", [False, True])
def test_a_connection_of_ones_own_reaches_the_same_server(redis_server, decode):
    client = redis.Redis(port=redis_server.port, db=2, decode_responses=decode)
    link = connection.make_connection(client, read_timeout=7)
    try:
        assert link.socket_timeout == 7
        assert b"db=2 " in connection.exchange(link, ("CLIENT", "INFO"))[0]
    finally:
        link.disconnect()


def test_the_system_finds_out_that_the_other_end_of_an_idle_connection_has_gone(redis_server):
    link = connection.make_connection(connection.make_client(redis_server.url))
    link.connect()
    try:
        assert link._sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if hasattr(socket, "TCP_KEEPIDLE"):
            assert link._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 2
    finally:
        link.disconnect()
