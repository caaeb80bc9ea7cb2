"""Spans for OpenTelemetry: what they say, whose children they are, and when there are none."""

import json
import subprocess
import sys

import pytest
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from app import create_app
from app.settings import Settings
from app.tracing import Tracing
from tests.servers import ROOT

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACED = f"00-{TRACE}-{PARENT}-01"
NAMES = {"event_category": "llm", "event_action": "stream"}
ENDED = {"event_category": "lifecycle", "event_action": "completed"}
PATH = "/runs/1/events"


class Traced:
    """A gateway whose spans stay in memory."""

    def __init__(self, fake_client):
        self._exporter = InMemorySpanExporter()
        self._tracing = Tracing(self._exporter)
        self.store = self._tracing.event_store(client=fake_client)
        self.app = create_app(Settings(), event_store=self.store)
        self._tracing.init_app(self.app)
        self.http = self.app.test_client()

    def spans(self) -> dict:
        """Return the spans so far by their names, and forget them."""
        self._tracing.flush()
        found = {span.name: span for span in self._exporter.get_finished_spans()}
        self._exporter.clear()
        return found


@pytest.fixture
def traced(fake_client, monkeypatch) -> Traced:
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    return Traced(fake_client)


def test_an_append_is_a_child_of_its_producers_span_and_redis_one_of_it(traced):
    headers = {"traceparent": TRACED, "X-Request-Id": "a-1", "User-Agent": "curl/8"}
    answer = traced.http.post(f"{PATH}?access_token=secret", json=[NAMES, NAMES], headers=headers)
    spans = traced.spans()
    append, redis = spans["POST /runs/{run_id}/events"], spans["append.lua"]
    assert append.kind is SpanKind.SERVER
    assert f"{append.parent.trace_id:032x}-{append.parent.span_id:016x}" == f"{TRACE}-{PARENT}"
    assert redis.parent.span_id == append.context.span_id
    assert redis.context.trace_id == append.context.trace_id == int(TRACE, 16)
    assert (redis.kind, redis.attributes["db.system.name"]) == (SpanKind.CLIENT, "redis")
    assert dict(append.attributes) == {
        "http.request.method": "POST",
        "http.response.status_code": 201,
        "http.route": "/runs/{run_id}/events",
        "url.path": PATH,
        "url.scheme": "http",
        "network.protocol.version": "1.1",
        "client.address": "127.0.0.1",
        "server.address": "localhost",
        "user_agent.original": "curl/8",
        "tailrace.request_id": "a-1",
        "tailrace.run_id": "1",
        "tailrace.events": 2,
        "tailrace.sequence": answer.json["events"][0]["sequence"],
    }
    assert append.resource.attributes["service.name"] == "tailrace"
    assert traced.store.get_events(1)[0].traceparent == TRACED


@pytest.mark.parametrize("header", [None, "none", f"ff-{TRACE}-{PARENT}-01"])
def test_an_append_of_no_trace_begins_one(traced, header):
    traced.http.post(PATH, json=NAMES, headers={} if header is None else {"traceparent": header})
    assert traced.spans()["POST /runs/{run_id}/events"].parent is None


def test_what_the_producer_does_not_sample_is_no_span(traced):
    traced.http.post(PATH, json=NAMES, headers={"traceparent": f"{TRACED[:-2]}00"})
    assert traced.spans() == {}


def test_a_refusal_is_no_error_of_the_gateway_and_an_unexpected_error_is(traced, monkeypatch):
    traced.http.post(PATH, json={})
    refused = traced.spans()["POST /runs/{run_id}/events"]
    assert refused.attributes["http.response.status_code"] == 422
    assert refused.status.status_code is StatusCode.UNSET
    monkeypatch.setattr(traced.store, "page", None)
    traced.http.get(PATH)
    failed = traced.spans()["GET /runs/{run_id}/events"]
    assert failed.attributes["error.type"] == "500"
    assert failed.status.status_code is StatusCode.ERROR


def test_reads_and_paths_that_do_not_exist_are_spans_of_few_names(traced):
    traced.http.get("/healthz")
    traced.http.get("/nothing/at/all")
    traced.http.open("/healthz", method="ODD")
    spans = traced.spans()
    assert spans.keys() == {"GET /healthz", "GET", "HTTP"}
    assert spans["HTTP"].attributes["http.request.method"] == "_OTHER"


def test_lines_are_one_span(traced):
    body = f"{json.dumps(NAMES)}\n{json.dumps(ENDED)}\n"
    traced.http.post(PATH, data=body, content_type="application/x-ndjson")
    assert traced.spans().keys() == {"POST /runs/{run_id}/events"}


def test_a_stream_is_a_span_for_its_opening_and_a_linked_one_for_all_of_it(traced):
    traced.http.post(PATH, json=[NAMES, ENDED])
    traced.spans()
    answer = traced.http.get(f"{PATH}/stream", headers={"traceparent": TRACED})
    opening = traced.spans()["GET /runs/{run_id}/events/stream"]
    assert opening.context.trace_id == int(TRACE, 16)
    assert b"lifecycle.completed" in answer.data
    answer.close()
    whole = traced.spans()["stream"]
    assert [link.context for link in whole.links] == [opening.context]
    assert (whole.parent, whole.context.trace_id == opening.context.trace_id) == (None, False)
    assert whole.end_time >= opening.end_time
    assert whole.attributes["tailrace.run_id"] == "1"
    assert whole.attributes["tailrace.events"] == 2
    assert whole.attributes["tailrace.reason"] == "ended"


def test_a_stream_that_its_client_does_not_sample_has_no_spans(traced):
    traced.http.post(PATH, json=[NAMES, ENDED])
    traced.spans()
    with traced.http.get(f"{PATH}/stream", headers={"traceparent": f"{TRACED[:-2]}00"}) as answer:
        assert answer.data
    assert traced.spans() == {}


def test_the_span_of_one_request_is_none_of_the_next(traced):
    traced.http.post(PATH, json=NAMES, headers={"traceparent": TRACED})
    traced.store.add(1, "llm", "stream")
    assert traced.spans().keys() == {"POST /runs/{run_id}/events", "append.lua"}
    traced.http.post(PATH, json=NAMES)
    assert traced.spans()["append.lua"].context.trace_id != int(TRACE, 16)


def test_a_name_that_the_operator_gives_counts(fake_client, monkeypatch):
    for name, value in (
        ("OTEL_SERVICE_NAME", "runs"),
        ("OTEL_RESOURCE_ATTRIBUTES", "service.name=runs,a=b"),
    ):
        with monkeypatch.context() as environ:
            environ.setenv(name, value)
            traced = Traced(fake_client)
            traced.http.get("/healthz")
            resource = traced.spans()["GET /healthz"].resource
            assert resource.attributes["service.name"] == "runs"


class Stuck(SpanExporter):
    """A collector that never answers."""

    def __init__(self) -> None:
        import threading

        self.wait = threading.Event()

    def export(self, spans) -> SpanExportResult:
        self.wait.wait()
        return SpanExportResult.FAILURE


def test_a_collector_that_does_not_answer_holds_up_the_end_for_a_bounded_time(
    fake_client, monkeypatch
):
    monkeypatch.setattr("app.tracing.SHUTDOWN_SECONDS", 0.1)
    exporter = Stuck()
    tracing = Tracing(exporter)
    tracing.tracer.start_span("a").end()
    tracing.shutdown()  # else the test would time out
    exporter.wait.set()


PROGRAM = """
import sys
from app import create_app
app = create_app()
print("app.tracing" in sys.modules)
print("tailrace.tracing" in app.extensions, "tailrace.plain_appends" in app.extensions)
"""


@pytest.mark.parametrize(
    ("variables", "is_on"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "runs"}, False),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://a"}, False),
        ({"OTEL_SDK_DISABLED": "TRUE", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://a"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1"}, True),
        ({"OTEL_TRACES_EXPORTER": "console"}, True),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, None),
    ],
)
def test_the_standard_variables_turn_it_on(variables, is_on):
    ended = run(PROGRAM, variables)
    assert ended.stdout.split() == [str(is_on is not False), str(bool(is_on)), str(not is_on)]
    assert ("no spans are made" in ended.stderr) == (is_on is None)


def test_without_the_extra_the_gateway_starts_all_the_same():
    hidden = "import sys; sys.modules['opentelemetry'] = None\n"
    ended = run(hidden + PROGRAM, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"})
    assert ended.stdout.split()[1:] == ["False", "True"]
    assert "no spans are made" in ended.stderr


def run(program: str, variables: dict[str, str]) -> subprocess.CompletedProcess:
    environ = {"PYTHONPATH": str(ROOT), "REDIS_URL": "redis://127.0.0.1:1", **variables}
    return subprocess.run(
        [sys.executable, "-c", program],
        env=environ,
        cwd="/",
        check=True,
        capture_output=True,
        text=True,
    )
