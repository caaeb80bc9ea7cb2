"""Which pages of other origins may read, and that none of them may append."""

import pytest
from flask.testing import FlaskClient

from app import create_app
from app.settings import Settings

LOCAL = [
    *("http://localhost", "http://localhost:5173", "https://localhost:8443"),
    *("http://127.0.0.1:3000", "http://[::1]:8080"),
]
NAMED = "https://named.example"
FOREIGN = [
    *("https://foreign.example", "http://named.example", "https://named.example:8443"),
    *("https://named.example.foreign.example", "https://sub.named.example"),
    *("http://localhost.foreign.example", "http://foreign.example/localhost", "null"),
    *("http://localhost:1@foreign.example", "http://notlocalhost"),
]


@pytest.fixture
def settings() -> Settings:
    return Settings(cors_origins=(NAMED,))


def allowed(answer) -> str | None:
    return answer.headers.get("Access-Control-Allow-Origin")


@pytest.mark.parametrize("origin", [*LOCAL, NAMED])
@pytest.mark.parametrize("path", ["/runs/1/events", "/healthz", "/nothing-here", "/runs/a b"])
def test_local_pages_and_named_origins_may_read_errors_included(http, origin, path):
    answer = http.get(path, headers={"Origin": origin})
    assert allowed(answer) == origin
    assert "Origin" in answer.headers["Vary"]


@pytest.mark.parametrize("origin", [*LOCAL, NAMED])
def test_local_pages_and_named_origins_may_follow(http, origin):
    with http.get("/runs/1/events/stream", headers={"Origin": origin}) as answer:
        assert allowed(answer) == origin


@pytest.mark.parametrize("origin", FOREIGN)
def test_foreign_pages_may_not_read(http, origin):
    assert allowed(http.get("/runs/1/events", headers={"Origin": origin})) is None


def test_an_origin_is_local_only_unless_it_is_named(fake_store):
    http = create_app(Settings(), event_store=fake_store).test_client()
    assert allowed(http.get("/healthz", headers={"Origin": NAMED})) is None


def test_a_star_names_every_origin(fake_store):
    settings = Settings(cors_origins=("*",))
    http = create_app(settings, event_store=fake_store).test_client()
    answer = http.get("/healthz", headers={"Origin": FOREIGN[0]})
    assert allowed(answer) in ("*", FOREIGN[0])


def preflight(http: FlaskClient, origin: str, method: str, header: str):
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": header,
    }
    return http.options("/runs/1/events", headers=asked)


def test_a_page_may_send_the_header_that_resumes_a_stream(http):
    answer = preflight(http, LOCAL[1], "GET", "last-event-id")
    assert answer.status_code == 200
    assert allowed(answer) == LOCAL[1]
    assert "last-event-id" in answer.headers["Access-Control-Allow-Headers"].lower()


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_no_page_of_another_origin_may_write(http, method):
    answer = preflight(http, NAMED, method, "content-type")
    assert method not in answer.headers.get("Access-Control-Allow-Methods", "")
    assert "content-type" not in answer.headers.get("Access-Control-Allow-Headers", "").lower()


def test_no_origin_is_a_pattern(fake_store):
    settings = Settings(cors_origins=("https://a.named.example",))
    http = create_app(settings, event_store=fake_store).test_client()
    for origin in ("https://axnamed.example", "https://a.named.example.foreign.example"):
        assert allowed(http.get("/healthz", headers={"Origin": origin})) is None
