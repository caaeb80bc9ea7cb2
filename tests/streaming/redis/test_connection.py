"""Commands over connections and over the pool, and the errors that come from failures."""

import socket
import threading
from collections.abc import Iterator
from unittest.mock import Mock, call

import pytest
import redis
from redis.exceptions import BusyLoadingError, NoScriptError, ReadOnlyError, ResponseError

from app.streaming.errors import NotALog, StoreUnavailable
from app.streaming.redis import connection, redis_url
from app.streaming.redis.scripts import Script
from app.streaming.redis.server import Server
from tests.servers import free_port, wait_until


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Return a port that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (ResponseError("WRONGTYPE Operation against a key"), NotALog),
        (ResponseError("ERR Error running script: -WRONGTYPE Operation"), NotALog),
        (ResponseError("user_script:7: attempt to index a nil value script: 5a"), NotALog),
        (ResponseError("The user executing the script can't run this"), StoreUnavailable),
        (ResponseError("OOM command not allowed"), StoreUnavailable),
        (ResponseError("LOADING Redis is loading"), StoreUnavailable),
        (NoScriptError("No matching script"), NoScriptError),
    ],
)
def test_an_error_reply_raises_the_error_of_its_kind(reply, error):
    with pytest.raises(error):
        connection.checked(reply)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ResponseError("LOADING Redis is loading"), "loading"),
        (connection.Loading("LOADING Redis is loading"), "loading"),
        (BusyLoadingError("Redis is loading the dataset in memory"), "loading"),
        (ReadOnlyError("You can't write against a read only replica."), "read_only"),
        (ResponseError("NOPERM this user has no permissions"), "forbidden"),
        (ResponseError("OOM command not allowed"), "full"),
        (redis.TimeoutError("Timeout reading from socket"), "timeout"),
        (redis.ConnectionError("Connection closed by server."), "connection"),
        (ResponseError("ERR unknown command"), "other"),
    ],
)
def test_a_failure_is_counted_by_its_kind(error, kind, monkeypatch):
    errors = Mock()  # the metric itself counts what threads of other tests meet too
    monkeypatch.setattr(connection, "REDIS_ERRORS", errors)
    connection.count_error(error)
    assert call.of(kind).add() in errors.mock_calls


@pytest.mark.parametrize("reply", [None, b"", 0, [], [b"WRONGTYPE"]])
def test_any_other_reply_is_returned_unchanged(reply):
    assert connection.checked(reply) is reply


def test_an_error_of_one_command_does_not_hide_the_replies_of_others(fake_client):
    fake_client.set("a", "text")
    length, value = connection.call_all(fake_client, ("XLEN", "a"), ("GET", "a"))
    assert connection.is_wrong_type(length)
    assert value == b"text"


def test_a_refused_connection_raises_store_unavailable():
    client = redis_url.make_client(f"redis://127.0.0.1:{free_port()}")
    with pytest.raises(StoreUnavailable) as raised:
        connection.call(client, "INCR", "a")
    assert raised.value.stored is False


def test_a_server_that_never_answers_raises_store_unavailable(silent_port):
    client = redis_url.make_client(f"redis://127.0.0.1:{silent_port}?socket_timeout=0.1")
    with pytest.raises(StoreUnavailable) as raised:
        connection.call(client, "INCR", "a")
    assert raised.value.stored is None


def test_a_pool_whose_replies_are_lost_says_whether_anything_may_have_been_written(
    silent_port, tmp_path
):
    pool = Server(redis_url.make_client(f"redis://127.0.0.1:{silent_port}?socket_timeout=0.1")).pool
    (tmp_path / "read.lua").write_text("return 1")
    (tmp_path / "write.lua").write_text("return 2")
    read = Script(pool, tmp_path / "read.lua", keys=1, reads=True).command("a")
    write = Script(pool, tmp_path / "write.lua", keys=1).command("a")
    for commands, stored in (
        ([("XRANGE", "a", "-", "+")], False),
        ([("ASKING",), ("XLEN", "a"), read], False),
        ([("EXPIRE", "a", 1)], None),
        ([("XLEN", "a"), write], None),
        ([write, read], None),
    ):
        with pytest.raises(StoreUnavailable) as raised:
            pool.call_all(*commands)
        assert raised.value.stored is stored


def test_a_pool_without_a_free_connection_raises_store_unavailable(redis_server, monkeypatch):
    monkeypatch.setattr(redis_url, "POOL_WAIT_SECONDS", 0.05)
    monkeypatch.setattr(redis_url, "POOL_SIZE", 1)
    client = redis_url.make_client(redis_server.url)
    link = client.connection_pool.get_connection()
    with pytest.raises(StoreUnavailable):
        connection.call(client, "PING")
    client.connection_pool.release(link)
    assert connection.call(client, "PING") == b"PONG"


def test_an_unread_reply_never_answers_the_next_command(redis_server):
    client = redis_url.make_client(f"{redis_server.url}?socket_timeout=0.2")
    with pytest.raises(StoreUnavailable):
        connection.call(client, "BLPOP", "nothing-comes", 1)
    assert connection.call(client, "ECHO", "mine") == b"mine"


def test_an_interrupted_exchange_closes_its_connection():
    link = Mock()
    link.read_response.side_effect = [b"first", KeyboardInterrupt]
    with pytest.raises(KeyboardInterrupt):
        connection.exchange(link, ("PING",), ("PING",))
    link.disconnect.assert_called_once()


def test_a_connection_closed_by_the_server_is_replaced(redis_server, redis_client):
    client = redis_url.make_client(redis_server.url)
    own_id = connection.call(client, "CLIENT", "ID")
    redis_client.client_kill_filter(_id=own_id)

    def answers() -> bool:
        try:
            return connection.call(client, "PING") == b"PONG"
        except StoreUnavailable:
            return False

    wait_until(answers, "another connection is made")
    assert connection.call(client, "CLIENT", "ID") != own_id


def test_many_threads_share_the_pool(redis_server):
    client, wrong = redis_url.make_client(redis_server.url), []

    def echo(number: int) -> None:
        for turn in range(20):
            text = b"%d-%d" % (number, turn)
            if connection.call(client, "ECHO", text) != text:
                wrong.append(text)

    threads = [threading.Thread(target=echo, args=(number,)) for number in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("decode", [False, True])
def test_a_connection_outside_the_pool_reaches_the_same_server(redis_server, decode):
    client = redis.Redis(port=redis_server.port, db=2, decode_responses=decode)
    link = connection.make_connection(client, read_timeout=7)
    try:
        assert link.socket_timeout == 7
        assert b"db=2 " in connection.exchange(link, ("CLIENT", "INFO"))[0]
    finally:
        link.disconnect()


def test_a_pool_is_closed_without_taking_a_connection_from_its_user(redis_server):
    client = redis_url.make_client(redis_server.url)
    used, idle = (client.connection_pool.get_connection() for _ in range(2))
    client.connection_pool.release(idle)
    connection.close_pool(client)
    assert idle._sock is None
    assert used._sock is not None  # redis-py may be waiting for it right now
    with pytest.raises((redis.ConnectionError, OSError)):
        connection.exchange(used, ("PING",))
    client.connection_pool.release(used)
    assert connection.call(client, "PING") == b"PONG"


def test_a_call_that_is_in_progress_fails_when_its_pool_is_closed(redis_server, redis_client):
    client, errors = redis_url.make_client(redis_server.url), []

    def wait_for_nothing() -> None:
        try:
            connection.call(client, "BLPOP", "closed-pool", 0)
        except StoreUnavailable as error:
            errors.append(error)

    thread = threading.Thread(target=wait_for_nothing)
    thread.start()
    wait_until(lambda: "blpop" in [each["cmd"] for each in redis_client.client_list()], "it waits")
    connection.close_pool(client)
    thread.join(3)
    assert len(errors) == 1
