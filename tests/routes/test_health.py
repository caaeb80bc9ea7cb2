"""The health checks: `/healthz` for the process, `/readyz` for Redis and the drain."""

import pytest
from flask.testing import FlaskClient

from app import create_app
from app.auth import revocation_log
from app.auth.revocation_log import REVOCATIONS
from app.settings import Settings
from app.streaming.event_store import EventStore
from tests.servers import RedisServer, free_port


@pytest.fixture
def unreachable_store() -> EventStore:
    """Return a store whose Redis cannot be reached."""
    return EventStore(f"redis://127.0.0.1:{free_port()}")


def client_of(store: EventStore) -> FlaskClient:
    return create_app(Settings(), event_store=store).test_client()


def test_a_gateway_on_redis_is_alive_and_ready(store):
    http = client_of(store)
    assert http.get("/healthz").status_code == 200
    assert http.get("/readyz").status_code == 200


def test_a_gateway_without_redis_is_alive_but_not_ready(unreachable_store):
    http = client_of(unreachable_store)
    assert http.get("/healthz").status_code == 200
    response = http.get("/readyz")
    assert (response.status_code, response.mimetype) == (503, "application/problem+json")
    assert int(response.headers["Retry-After"]) > 0


def test_a_gateway_on_a_cluster_says_why_it_is_not_ready(cluster):
    response = client_of(EventStore(cluster.url)).get("/readyz")
    assert response.status_code == 503
    assert "cluster mode" in response.json["detail"]


def test_a_gateway_without_redis_does_not_say_what_redis_said(unreachable_store):
    assert client_of(unreachable_store).get("/readyz").json["detail"] == "Redis cannot serve now"


def test_a_gateway_is_ready_once_it_has_read_what_was_revoked(redis_server):
    store = EventStore(redis_server.url)
    http = create_app(Settings(auth_secret=("s" * 32,)), event_store=store).test_client()
    assert http.get("/readyz").status_code == 200


def test_a_gateway_that_cannot_know_what_was_revoked_is_not_ready(tmp_path, monkeypatch):
    monkeypatch.setattr(revocation_log, "FIRST_READ_SECONDS", 0.1)
    with RedisServer(tmp_path) as server, server.client() as client:
        client.set(REVOCATIONS, "no stream")
        store = EventStore(server.url)
        http = create_app(Settings(auth_secret=("s" * 32,)), event_store=store).test_client()
        assert http.get("/readyz").status_code == 503
        assert client_of(store).get("/readyz").status_code == 200


def test_a_gateway_that_is_about_to_stop_is_not_ready(store):
    http = client_of(store)
    http.application.extensions["tailrace"].drain()
    assert http.get("/readyz").status_code == 503
    assert http.get("/healthz").status_code == 200
