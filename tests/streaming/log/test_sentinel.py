"""URLs of Sentinels, and connections to a server that is no longer the master."""

import pytest

from app.streaming.errors import InvalidInput
from app.streaming.log import connection, redis_url
from app.streaming.log.sentinel import leads_to_master


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


def test_a_connection_leads_to_the_master_until_sentinel_names_another_server():
    client = redis_url.make_client("redis+sentinel://localhost/service/0")
    link = connection.make_connection(client)
    link.host, link.port = "10.0.0.1", 6379
    assert leads_to_master(link)  # no Sentinel has answered yet
    link.connection_pool.master_address = ("10.0.0.1", 6379)
    assert leads_to_master(link)
    link.connection_pool.master_address = ("10.0.0.2", 6379)
    assert not leads_to_master(link)


def test_a_connection_without_sentinels_always_leads_to_the_master():
    client = redis_url.make_client("redis://localhost/0")
    assert leads_to_master(connection.make_connection(client))
