"""The client that a URL makes: what the URL may set, what is pinned, and which URLs are refused."""

import re
import socket

import pytest
import redis
from redis.connection import Connection, SSLConnection

from app.streaming.errors import InvalidInput
from app.streaming.redis import connection, redis_url


def make_blocking_client(url):
    return connection.make_blocking_client(redis_url.make_client(url), 5.0)


@pytest.mark.parametrize("make", [redis_url.make_client, make_blocking_client])
@pytest.mark.parametrize("base", ["redis://localhost/3", "redis+sentinel://localhost/service/3"])
@pytest.mark.parametrize("query", ["", "?protocol=3&decode_responses=true&retry_on_timeout=true"])
def test_a_url_cannot_change_a_pinned_setting(make, base, query):
    settings = make(f"{base}{query}").connection_pool.connection_kwargs
    assert settings["protocol"] == 2
    assert settings["decode_responses"] is False
    assert settings["driver_info"] is None
    assert settings["retry"].get_retries() == 0
    assert settings["retry_on_timeout"] is False
    assert settings["db"] == 3
    assert 0 < settings["socket_connect_timeout"] <= settings["socket_timeout"] <= 10


@pytest.mark.parametrize("base", ["redis://localhost", "redis+sentinel://localhost/service/0"])
def test_a_url_can_set_the_timeout(base):
    client = redis_url.make_client(f"{base}?socket_timeout=1.5")
    assert client.connection_pool.connection_kwargs["socket_timeout"] == 1.5


@pytest.mark.parametrize("url", ["redis://localhost", "redis+sentinel://localhost/service"])
def test_the_pool_is_bounded_and_its_callers_wait(url):
    pool = redis_url.make_client(url).connection_pool
    assert isinstance(pool, redis.BlockingConnectionPool)
    assert pool.max_connections == 16


@pytest.mark.parametrize(
    "url", ["http://localhost", "localhost:6379", "redis://localhost:port", "redis://h/?nonsense=1"]
)
def test_a_wrong_url_is_refused_with_the_name_of_the_variable(url):
    with pytest.raises(InvalidInput) as refused:
        redis_url.make_client(url)
    assert refused.value.field == "REDIS_URL"


@pytest.mark.parametrize(
    "url",
    [
        "redis://:PW1#x@host",
        "redis://:64#PW1@host",
        "redis://u:PW1?x=PW2@host",
        "redis://u:12?PW1=x@host/0",
        "redis://u:12?db=PW1@host/0",
        "redis://:PW1/x@host",
        "redis://:1/PW1@host",
        "valkeys://:PW1#x@host",
        "unix://u:PW1#x@/path",
        "redis://u:PW1@host:port",
        "redis://u:PW1@host:99999",
        "redis://u:PW1@[host",
        "redis://u:P[W1@host:x",
        "redis://u:PW1@host/x",
        "redis://u:PW1@host/0?nonsense=1",
        "http://u:PW1@host",
        "rediss://host?ssl_password=PW1&ssl_cert_reqs=CERT_NONE",
        "redis+sentinel://u:PW1@host:x/s",
        "redis+sentinel://u:PW1#x@host/s",
    ],
)
def test_what_is_said_of_a_wrong_url_has_no_part_of_a_password(url):
    with pytest.raises(InvalidInput) as refused:
        redis_url.make_client(url)
    assert refused.value.field == "REDIS_URL"
    assert not re.search("PW[12]|99999", str(refused.value))
    if re.search("[#?/].*@", url.partition("://")[2]):
        assert "percent-encoded" in str(refused.value)


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("ssl_cert_reqs=CERT_NONE", "ssl_cert_reqs must be none, optional or required"),
        ("nonsense=1", "nonsense is no option"),
        ("socket_timeout=soon", "socket_timeout"),
    ],
)
def test_a_wrong_option_is_named(query, named):
    with pytest.raises(InvalidInput, match=named):
        redis_url.make_client(f"rediss://host?{query}")


@pytest.mark.parametrize(
    ("url", "kind"),
    [("valkey://u:p@host:1/2", Connection), ("valkeys://u:p@host:1/2", SSLConnection)],
)
def test_the_schemes_of_valkey_are_those_of_redis(url, kind):
    pool = redis_url.make_client(url).connection_pool
    assert issubclass(pool.connection_class, SSLConnection) is (kind is SSLConnection)
    settings = pool.connection_kwargs
    assert (settings["host"], settings["port"], settings["db"]) == ("host", 1, 2)
    assert (settings["username"], settings["password"]) == ("u", "p")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://:secret@host:1/0", "redis://:***@host:1/0"),
        ("rediss://me:se:cr@et@host/0?a=b", "rediss://me:***@host/0?a=b"),
        ("redis://me@host", "redis://me@host"),
        ("rediss://host?ssl_password=a%26b&db=1", "rediss://host?ssl_password=***&db=1"),
        ("rediss://host?ssl_%70assword=a", "rediss://host?ssl_%70assword=***"),
        ("valkey://:secret@host/1", "valkey://:***@host/1"),
        (
            "redis+sentinel://u:secret@one,two:1/s?sentinel_password=other",
            "redis+sentinel://u:***@one,two:1/s?sentinel_password=***",
        ),
    ],
)
def test_a_password_is_not_shown(url, shown):
    assert redis_url.without_password(url) == shown


def test_the_default_url_comes_from_the_environment_then_from_env(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REDIS_URL", raising=False)
    assert redis_url.default_url() == "redis://localhost:6379/0"
    (tmp_path / ".env").write_text("REDIS_URL=redis://of-env/1\n")
    assert redis_url.default_url() == "redis://of-env/1"
    monkeypatch.setenv("REDIS_URL", "")
    assert redis_url.default_url() == "redis://of-env/1"
    monkeypatch.setenv("REDIS_URL", "redis://of-environ/2")
    assert redis_url.default_url() == "redis://of-environ/2"


def test_idle_connections_have_tcp_keepalive(redis_server):
    link = connection.make_connection(redis_url.make_client(redis_server.url))
    link.connect()
    try:
        assert link._sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if hasattr(socket, "TCP_KEEPIDLE"):
            assert link._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 2
    finally:
        link.disconnect()
