"""Host names: a page whose own name leads to a gateway on loopback cannot use it."""

import pytest
from flask.testing import FlaskClient

from app import create_app
from app.routes.access.hosts import MAX_REMEMBERED
from app.settings import Settings

LOOPBACK = [("127.0.0.1", 8082)]
FOREIGN = [
    "evil.example",
    "evil.example:8082",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "notlocalhost",
    "192.168.0.1",
    "[2001:db8::1]:8082",
    "127.1",
    "0.0.0.0",
    "",
    ":8082",
    "local host",
    "x" * 8000,
]
LOCAL = [
    "localhost",
    "LocalHost:8082",
    "localhost.",
    "a.localhost:1",
    "127.0.0.1",
    "127.0.0.1:8082",
    "127.9.9.9",
    "[::1]",
    "[::1]:8082",
]


@pytest.fixture
def client_of(fake_store):
    def client_of(listens_on: list[object], allowed: str = "") -> FlaskClient:
        settings = Settings.load({"ALLOWED_HOSTS": allowed})
        app = create_app(settings, event_store=fake_store)
        app.extensions["tailrace"].hosts.listens_on(listens_on)
        return app.test_client()

    return client_of


def status(client: FlaskClient, host: str, method: str = "GET", path: str = "/runs/1") -> int:
    environ = {"HTTP_HOST": host}
    return client.open(path, method=method, environ_overrides=environ).status_code


@pytest.mark.parametrize("host", FOREIGN)
def test_a_gateway_on_loopback_does_not_answer_to_a_foreign_name(client_of, host):
    assert status(client_of(LOOPBACK), host) == 421


@pytest.mark.parametrize("host", LOCAL)
def test_a_gateway_on_loopback_answers_to_its_own_names(client_of, host):
    client = client_of(LOOPBACK)
    for _ in range(2):  # the second time it is remembered
        assert status(client, host) == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/runs/1/events"),
        ("GET", "/runs/1/events"),
        ("GET", "/runs/1/events/stream"),
        ("DELETE", "/runs/1/events"),
        ("OPTIONS", "/runs/1/events"),
        ("GET", "/nothing"),
    ],
)
def test_no_request_for_a_foreign_host_is_carried_out(client_of, fake_store, method, path):
    fake_store.add(1, "llm", "stream")
    assert status(client_of(LOOPBACK), "evil.example", method, path) == 421
    assert len(fake_store.get_events(1)) == 1


def test_the_answer_names_the_setting(client_of):
    response = client_of(LOOPBACK).get("/runs/1", environ_overrides={"HTTP_HOST": "evil.example"})
    assert response.mimetype == "application/problem+json"
    assert "ALLOWED_HOSTS" in response.json["detail"]
    assert response.json["errors"][0]["field"] == "Host"


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_checks_may_name_any_host(client_of, path):
    assert status(client_of(LOOPBACK), "10.0.0.7:8082", path=path) == 200


@pytest.mark.parametrize(
    "addresses",
    [
        [("0.0.0.0", 80)],
        [("127.0.0.1", 80), ("10.0.0.1", 80)],
        ["/run/tailrace.sock"],
        [("::", 80)],
    ],
)
def test_a_gateway_beyond_loopback_answers_to_every_name(client_of, addresses):
    assert status(client_of(addresses), "a.example") == 404


@pytest.mark.parametrize("addresses", [LOOPBACK, [("0.0.0.0", 80)]])
def test_names_that_are_allowed_are_answered_and_no_others(client_of, addresses):
    client = client_of(addresses, "A.example, .b.example,10.0.0.1,[2001:db8::1]")
    for host in (
        "a.example",
        "a.EXAMPLE:443",
        "x.b.example",
        "10.0.0.1:1",
        "[2001:DB8:0::1]",
        "localhost",
    ):
        assert status(client, host) == 404
    for host in ("x.a.example", "b.example", "xb.example", "c.example"):
        assert status(client, host) == 421


def test_all_names_can_be_allowed(client_of):
    assert status(client_of(LOOPBACK, "*"), "a.example") == 404


def test_what_is_remembered_is_bounded(client_of):
    client = client_of(LOOPBACK)
    for number in range(200):
        assert status(client, f"{number}.localhost") == 404
    assert len(client.application.extensions["tailrace"].hosts._remembered) == MAX_REMEMBERED
