"""Request ids: taken from the client if they are safe, and shown by every answer and in the log."""

import logging
import os

import pytest

from app import create_app
from app.server.request_ids import given_request_id, new_request_id, request_id_of_headers
from app.settings import Settings

NAMES = {"event_category": "llm", "event_action": "stream"}
GOOD = ["a", "a" * 128, "5f3a-17", "Root=1-67891233-abc/def:4+5@6.7~8_9", "0"]
BAD = ["", "a" * 129, "a" * 10_240, "a b", "a,b", 'a"b', "a;b", "é", "a\tb", "<a>", "a%0Ab"]


@pytest.mark.parametrize("request_id", GOOD)
@pytest.mark.parametrize(
    "path", ["/healthz", "/nothing", "/runs/1", "/runs/1/events", "/client.js"]
)
def test_an_answer_has_the_id_of_its_request(http, path, request_id):
    answer = http.get(path, headers={"X-Request-Id": request_id})
    assert answer.headers.getlist("X-Request-Id") == [request_id]
    if answer.status_code >= 400:
        assert answer.json["request_id"] == request_id


@pytest.mark.parametrize("request_id", BAD)
def test_an_id_that_is_not_safe_is_replaced(http, request_id):
    answer = http.get("/nothing", headers={"X-Request-Id": request_id})
    [new] = answer.headers.getlist("X-Request-Id")
    assert given_request_id(new) == new != request_id
    assert answer.json["request_id"] == new


def test_two_ids_are_none(http):
    answer = http.get("/healthz", headers=[("X-Request-Id", "a"), ("X-Request-Id", "b")])
    assert answer.headers["X-Request-Id"] not in ("a", "b", "a,b")
    assert request_id_of_headers([("X-REQUEST-ID", "a"), ("X-REQUEST-ID", "b")]) not in ("a", "b")
    assert request_id_of_headers([("HOST", "x"), ("X-REQUEST-ID", "a")]) == "a"


def test_no_two_requests_have_the_same_new_id(http):
    ids = {http.get("/healthz").headers["X-Request-Id"] for _ in range(20)}
    assert len(ids) == 20


def test_a_forked_worker_has_ids_of_its_own():
    before = new_request_id()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, new_request_id().encode())
        os._exit(0)
    os.waitpid(child, 0)
    forked = os.read(reading, 100).decode()
    os.close(reading), os.close(writing)
    prefixes = {each.partition("-")[0] for each in (before, forked, new_request_id())}
    assert len(prefixes) == 2


def test_an_unexpected_error_names_the_id_that_finds_its_traceback(fake_store, monkeypatch, caplog):
    def fail(*arguments, **options):
        raise RuntimeError("a bug")

    monkeypatch.setattr(fake_store, "append_new", fail)
    http = create_app(Settings(), event_store=fake_store).test_client()
    answer = http.post("/runs/1/events", json=NAMES, headers={"X-Request-Id": "a-1"})
    assert (answer.status_code, answer.json["request_id"]) == (500, "a-1")
    [record] = [each for each in caplog.records if each.exc_info]
    assert "request_id=a-1" in record.getMessage()
    assert record.request_id == "a-1"


def test_the_line_about_a_refused_append_has_it(http, caplog):
    caplog.set_level(logging.INFO, "tailrace.http")
    http.post("/runs/1/events", json={}, headers={"X-Request-Id": "a-1"})
    [record] = caplog.records
    assert record.getMessage().startswith("append refused path='/runs/1/events' status=422 ")
    assert "request_id=a-1" in record.getMessage()


def test_a_page_of_another_origin_may_send_and_read_it(http):
    origin = {"Origin": "http://localhost:3000"}
    asked = {"Access-Control-Request-Method": "GET"}
    allowed = http.options("/runs/1", headers=origin | asked).headers
    names = {each.strip().lower() for each in allowed["Access-Control-Allow-Headers"].split(",")}
    assert {"x-request-id", "traceparent", "tracestate"} <= names
    answer = http.get("/runs/1", headers=origin)
    exposed = answer.headers["Access-Control-Expose-Headers"].lower()
    assert set(exposed.split(", ")) == {
        "x-request-id",
        "location",
        "x-workflow-run-id",
        "x-workflow-stream-tail-index",
    }
    assert "Access-Control-Expose-Headers" not in http.get("/runs/1").headers
