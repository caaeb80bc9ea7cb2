"""CORS: pages of some origins may read, and no page of another origin may append."""

import pytest
from flask.testing import FlaskClient

from app import create_app
from app.settings import Settings

LOCAL = [
    *("http://localhost", "http://localhost:5173", "https://localhost:8443"),
    *("http://127.0.0.1:3000", "http://[::1]:8080"),
]
ALLOWED = "https://named.example"
FOREIGN = [
    *("https://foreign.example", "http://named.example", "https://named.example:8443"),
    *("https://named.example.foreign.example", "https://sub.named.example"),
    *("http://localhost.foreign.example", "http://foreign.example/localhost", "null"),
    *("http://localhost:1@foreign.example", "http://notlocalhost"),
]


@pytest.fixture
def settings() -> Settings:
    return Settings(cors_origins=(ALLOWED,))


def allowed_origin(response) -> str | None:
    return response.headers.get("Access-Control-Allow-Origin")


@pytest.mark.parametrize("origin", [*LOCAL, ALLOWED])
@pytest.mark.parametrize("path", ["/runs/1/events", "/healthz", "/nothing-here", "/runs/a b"])
def test_local_pages_and_allowed_origins_may_read_responses_and_errors(http, origin, path):
    response = http.get(path, headers={"Origin": origin})
    assert allowed_origin(response) == origin
    assert "Origin" in response.headers["Vary"]


@pytest.mark.parametrize("origin", [*LOCAL, ALLOWED])
def test_local_pages_and_allowed_origins_may_follow_a_stream(http, origin):
    with http.get("/runs/1/events/stream", headers={"Origin": origin}) as response:
        assert allowed_origin(response) == origin


@pytest.mark.parametrize("origin", FOREIGN)
def test_pages_of_other_origins_may_not_read(http, origin):
    assert allowed_origin(http.get("/runs/1/events", headers={"Origin": origin})) is None


def test_an_origin_beyond_localhost_must_be_allowed_explicitly(fake_store):
    http = create_app(Settings(), event_store=fake_store).test_client()
    assert allowed_origin(http.get("/healthz", headers={"Origin": ALLOWED})) is None


def test_an_asterisk_allows_every_origin(fake_store):
    settings = Settings(cors_origins=("*",))
    http = create_app(settings, event_store=fake_store).test_client()
    response = http.get("/healthz", headers={"Origin": FOREIGN[0]})
    assert allowed_origin(response) in ("*", FOREIGN[0])


def preflight(http: FlaskClient, origin: str, method: str, header: str):
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": header,
    }
    return http.options("/runs/1/events", headers=headers)


def test_a_page_may_send_the_last_event_id_header(http):
    response = preflight(http, LOCAL[1], "GET", "last-event-id")
    assert response.status_code == 200
    assert allowed_origin(response) == LOCAL[1]
    assert "last-event-id" in response.headers["Access-Control-Allow-Headers"].lower()


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_no_page_of_another_origin_may_append_or_delete(http, method):
    response = preflight(http, ALLOWED, method, "content-type")
    assert method not in response.headers.get("Access-Control-Allow-Methods", "")
    assert "content-type" not in response.headers.get("Access-Control-Allow-Headers", "").lower()


def test_an_allowed_origin_is_no_pattern(fake_store):
    settings = Settings(cors_origins=("https://a.named.example",))
    http = create_app(settings, event_store=fake_store).test_client()
    for origin in ("https://axnamed.example", "https://a.named.example.foreign.example"):
        assert allowed_origin(http.get("/healthz", headers={"Origin": origin})) is None


def test_the_case_of_an_origin_does_not_matter(fake_store):
    settings = Settings.load({"CORS_ORIGINS": "https://App.Example"})
    http = create_app(settings, event_store=fake_store).test_client()
    response = http.get("/healthz", headers={"Origin": "https://app.example"})
    assert allowed_origin(response) == "https://app.example"
