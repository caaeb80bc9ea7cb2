"""Problem details (RFC 9457): one shape for every error, and the refusals of a query."""

import json

import pytest
from flask.testing import FlaskClient

from app import create_app
from app.settings import Settings
from app.streaming.event_store import EventStore
from tests.servers import free_port

NAMES = {"event_category": "llm", "event_action": "stream"}
PATH = "/runs/1/events"
# The members that a problem may have beyond those of RFC 9457.
EXTENSIONS = {"stored", "last_sequence", "ended", "full"}


class BrokenStore(EventStore):
    """A store with a bug."""

    def append_new(self, *args, **kwargs):
        raise RuntimeError("an internal secret")

    state = run = page = delete = check_ready = append_new


@pytest.fixture
def broken(fake_client) -> FlaskClient:
    return create_app(Settings(), event_store=BrokenStore(client=fake_client)).test_client()


@pytest.fixture
def without_redis() -> FlaskClient:
    """Return a client of a gateway whose Redis cannot be reached."""
    store = EventStore(f"redis://127.0.0.1:{free_port()}")
    return create_app(Settings(), event_store=store).test_client()


def check_problem(response, status: int) -> dict:
    """Check that a response is a problem (RFC 9457) with this status; return the document."""
    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["Cache-Control"] == "no-store"
    document = json.loads(response.data)
    assert set(document) - {"errors", *EXTENSIONS} == {
        "type",
        "title",
        "status",
        "detail",
        "request_id",
    }
    assert document["status"] == status
    assert document["request_id"] == response.headers["X-Request-Id"]
    assert document["title"]
    assert document["detail"]
    assert "Traceback" not in response.text
    return document


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("GET", "/no", {}, 404),
        ("GET", "/favicon.ico", {}, 404),
        ("GET", "/run", {}, 404),
        ("GET", "/runs//events", {}, 404),
        ("GET", "/runs/1/events/", {}, 404),
        ("GET", "/runs/a%2Fb/events", {}, 400),
        ("GET", "/runs/1", {}, 404),
        ("POST", "/runs//events", {"json": NAMES}, 404),
        ("GET", "/runs/a b", {}, 400),
        ("POST", PATH, {"data": "{", "content_type": "application/json"}, 400),
        ("POST", PATH, {"data": "{}", "content_type": "text/plain"}, 415),
        ("POST", PATH, {"json": {}}, 422),
        ("POST", PATH, {"json": {**NAMES, "data": "x" * 300_000}}, 413),
        ("POST", PATH, {"json": {**NAMES, "data": "x" * 5_000_000}}, 413),
    ],
)
def test_every_refusal_is_a_problem_document(http, method, path, options, status):
    check_problem(http.open(path, method=method, **options), status)


def test_an_unknown_path_and_a_run_without_a_log_have_different_details(http):
    assert http.get("/nothing-here").json["detail"] == "there is no such path"
    assert http.get("/runs/1").json["detail"] == "run 1 has no log"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", PATH, {"GET", "HEAD", "POST", "DELETE", "OPTIONS"}),
        ("PATCH", "/runs/1", {"GET", "HEAD", "OPTIONS"}),
        ("POST", "/runs/1/events/stream", {"GET", "HEAD", "OPTIONS"}),
        ("DELETE", "/healthz", {"GET", "HEAD", "OPTIONS"}),
    ],
)
def test_a_method_that_is_not_allowed_is_405_with_the_allowed_methods(http, method, path, allowed):
    response = http.open(path, method=method)
    check_problem(response, 405)
    assert set(response.headers["Allow"].split(", ")) == allowed


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", PATH), ("GET", PATH), ("DELETE", PATH), ("GET", "/runs/1"), ("GET", "/readyz")],
)
def test_an_unexpected_error_is_500_and_its_details_are_only_in_the_log(
    broken, caplog, method, path
):
    response = broken.open(path, method=method, json=NAMES)
    check_problem(response, 500)
    assert "secret" not in response.text
    assert "an internal secret" in caplog.text


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", PATH), ("GET", PATH), ("DELETE", PATH), ("GET", "/runs/1"), ("GET", "/readyz")],
)
def test_an_unreachable_redis_is_503_with_retry_after(without_redis, method, path):
    response = without_redis.open(path, method=method, json=NAMES)
    check_problem(response, 503)
    assert int(response.headers["Retry-After"]) > 0


def test_a_stream_opens_while_redis_is_unreachable(without_redis):
    with without_redis.get("/runs/1/events/stream") as response:
        assert response.status_code == 200
        assert next(response.response).startswith(b"retry: ")


BAD_IDS = [
    *("abc", "1", "1-", "-1", "-", "1-2-3", "1--2", "%2B1-1", "1-1%20", "1-1%0A", "1_0-1"),
    *("18446744073709551616-0", "0-18446744073709551616", "9" * 5000 + "-0", "$", "*", "%D9%A3-1"),
]


@pytest.mark.parametrize("bad", ["", *BAD_IDS])
@pytest.mark.parametrize("field", ["after", "before"])
def test_a_page_cursor_that_is_no_event_id_is_400(http, field, bad):
    problem = check_problem(http.get(f"{PATH}?{field}={bad}"), 400)
    assert [error["field"] for error in problem["errors"]] == [field]


@pytest.mark.parametrize("bad", [*BAD_IDS, "Latest", "newest"])
@pytest.mark.parametrize("field", ["last_event_id", "lastEventId"])
def test_an_invalid_stream_cursor_is_400(http, field, bad):
    problem = check_problem(http.get(f"/runs/1/events/stream?{field}={bad}"), 400)
    assert [error["field"] for error in problem["errors"]] == [field]


@pytest.mark.parametrize("bad", ["abc", "1-", "-1", "1-2-3", "18446744073709551616-0", "LATEST"])
def test_an_invalid_last_event_id_header_is_400(http, bad):
    response = http.get("/runs/1/events/stream?tail=1", headers={"Last-Event-ID": bad})
    problem = check_problem(response, 400)
    assert [error["field"] for error in problem["errors"]] == ["Last-Event-ID"]


@pytest.mark.parametrize(
    ("path", "field", "bad"),
    [
        *((PATH, "limit", bad) for bad in ("0", "-1", "1e9", "1001", "", "x", "1.0", "%2B1")),
        (PATH, "limit", "9" * 99),
        *((PATH, "order", bad) for bad in ("up", "", "ASC", "desc%20")),
        *(("/runs/1/events/stream", "typed", bad) for bad in ("maybe", "", "2")),
        *(("/runs/1/events/stream", "tail", bad) for bad in ("-1", "x", "", "1.5", "9" * 99)),
    ],
)
def test_an_invalid_parameter_is_400_and_named(http, path, field, bad):
    problem = check_problem(http.get(f"{path}?{field}={bad}"), 400)
    assert [error["field"] for error in problem["errors"]] == [field]


def test_all_invalid_parameters_of_a_query_are_named_at_once(http):
    problem = check_problem(http.get(f"{PATH}?limit=0&order=up&after=x&other=1"), 400)
    assert {error["field"] for error in problem["errors"]} == {"limit", "order", "after"}


def test_a_problem_quotes_little_of_what_a_client_sent(http):
    names = {**{f"{number}" * 100_000: 1 for number in range(10)}, "event": {"x" * 1_000_000: 1}}
    response = http.post("/runs/1/events", json=names)
    assert response.status_code == 422
    assert len(response.data) < 20_000
    response = http.post("/runs/1/events", json={str(number): 1 for number in range(10_000)})
    assert response.status_code == 422
    assert len(response.json["errors"]) <= 100
