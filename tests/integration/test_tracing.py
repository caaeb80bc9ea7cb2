"""Spans of real workers, sent to a collector: as they run, when they stop, after a kill."""

import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.servers import free_port, wait_until

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
NAMES = {"event_category": "llm", "event_action": "stream"}


class Collector:
    """What receives spans by OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: list[tuple[int, object]] = []  # each with the process that has sent it
        spans = self.spans

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.path == "/v1/traces"
                for of_process in ExportTraceServiceRequest.FromString(body).resource_spans:
                    attributes = {each.key: each.value for each in of_process.resource.attributes}
                    assert attributes["service.name"].string_value == "tailrace"
                    pid = attributes["process.pid"].int_value
                    for scope in of_process.scope_spans:
                        spans.extend((pid, span) for span in scope.spans)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self._thread = threading.Thread(target=self.server.serve_forever)
        self._thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()

    def named(self, name: str) -> list[tuple[int, object]]:
        return [each for each in self.spans if each[1].name == name]

    def has_append(self, number: int) -> bool:
        return any(
            span.parent_span_id.hex() == f"{number:016x}"
            for _, span in self.named("POST /runs/{run_id}/events")
        )


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.stop()


@pytest.fixture
def gateway(start_gateway, collector):
    """Start two workers, which send their spans at once."""
    return start_gateway(
        WEB_CONCURRENCY=2, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_BSP_SCHEDULE_DELAY=50
    )


def append(gateway, run_id: str, number: int, **names: str) -> None:
    """Append an event within the span of this number."""
    traceparent = f"00-{TRACE}-{number:016x}-01"
    url = f"{gateway.url}/runs/{run_id}/events"
    body = NAMES | names
    requests.post(
        url, json=body, headers={"traceparent": traceparent}, timeout=20
    ).raise_for_status()


def test_workers_send_their_spans_and_so_do_those_that_replace_killed_ones(
    gateway, collector, run_id
):
    numbers = iter(range(1, 1000))

    def all_workers_have_sent() -> bool:
        append(gateway, run_id, next(numbers))
        found = {pid for pid, _ in collector.named("append.lua")}
        return {each.pid for each in gateway.workers()} <= found

    wait_until(all_workers_have_sent, "both send")
    for killed in gateway.workers():
        killed.kill()
        wait_until(
            lambda pid=killed.pid: pid not in {each.pid for each in gateway.workers()}, "it is gone"
        )
    wait_until(lambda: len(gateway.workers()) == 2, "others run")
    wait_until(all_workers_have_sent, "the others send")
    [(_, span), *_] = collector.named("POST /runs/{run_id}/events")
    assert span.trace_id.hex() == TRACE
    ids = {span.span_id for _, span in collector.named("POST /runs/{run_id}/events")}
    assert all(span.parent_span_id in ids for _, span in collector.named("append.lua"))


def test_the_opening_of_a_stream_is_sent_while_it_is_open_and_all_of_it_at_its_end(
    gateway, collector, run_id
):
    append(gateway, run_id, 1)
    with requests.get(
        f"{gateway.url}/runs/{run_id}/events/stream",
        headers={"traceparent": f"00-{TRACE}-{2:016x}-01"},
        stream=True,
        timeout=20,
    ) as stream:
        opening = wait_until(
            lambda: collector.named("GET /runs/{run_id}/events/stream"), "the opening is sent"
        )
        assert collector.named("stream") == []
        append(gateway, run_id, 3, event_category="lifecycle", event_action="completed")
        assert b"lifecycle.completed" in stream.raw.read()
    [(_, whole)] = wait_until(lambda: collector.named("stream"), "all of it is sent")
    assert [link.span_id for link in whole.links] == [span.span_id for _, span in opening]
    attributes = {each.key: each.value for each in whole.attributes}
    assert attributes["tailrace.events"].int_value == 2


def test_a_worker_that_stops_sends_what_it_has(start_gateway, collector, run_id):
    gateway = start_gateway(
        OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{collector.url}/v1/traces",
        OTEL_BSP_SCHEDULE_DELAY=600_000,
    )
    for number in range(1, 20):
        append(gateway, run_id, number)
    assert collector.spans == []
    gateway.stop(signal.SIGTERM)
    assert all(collector.has_append(number) for number in range(1, 20))


def test_a_collector_that_is_away_holds_up_neither_appends_nor_the_stop(start_gateway, run_id):
    away = f"http://127.0.0.1:{free_port()}"
    gateway = start_gateway(OTEL_EXPORTER_OTLP_ENDPOINT=away, OTEL_BSP_SCHEDULE_DELAY=50)
    for number in range(1, 20):
        append(gateway, run_id, number)
    assert gateway.stop(signal.SIGTERM) == 0  # which waits up to 30 seconds
