"""Spans of requests, appends and streams, for OpenTelemetry: the extra `otel`.

Nothing imports this module unless the standard variables ask for it (see wiring).
"""

import logging
import os
import re
import threading
from typing import Any, Unpack

from flask import Flask, Response, request
from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.trace import Link, Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from . import __version__
from .routes.gateway import SPAN
from .server.request_ids import request_id_of
from .streaming.event_store import EventStore
from .streaming.follow.open_streams import Entry, OpenStream
from .streaming.new_event import Appended, AppendOptions, NewEvent

# How long the end of a worker waits for the collector.
SHUTDOWN_SECONDS = 2.0

_EXPORTERS = {"otlp": OTLPSpanExporter, "console": ConsoleSpanExporter}
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "QUERY"})
_TOKEN = "tailrace.span_token"

# Of these the request's own span ends long before they do.
_STREAMS = ("stream", "history")

_propagator = TraceContextTextMapPropagator()

log = logging.getLogger("tailrace.tracing")


class Tracing:
    """The tracer of one worker, made after the fork."""

    def __init__(self, exporter: SpanExporter | None = None) -> None:
        """Without an exporter it is the one that OTEL_TRACES_EXPORTER names.

        Raises KeyError if there is no such one.
        """
        if exporter is None:
            exporter = _EXPORTERS[os.environ.get("OTEL_TRACES_EXPORTER") or "otlp"]()
        # The worker itself shuts it down: handlers at the exit run too late for gevent.
        self._provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self.tracer = self._provider.get_tracer("tailrace", __version__)

    def init_app(self, app: Flask) -> None:
        """Have each request of an app be a span, around everything else that it does."""
        app.before_request_funcs.setdefault(None, []).insert(0, self._begin)
        app.after_request_funcs.setdefault(None, []).insert(0, self._end)
        app.teardown_request(self._leave)
        app.extensions["tailrace.tracing"] = self
        app.extensions["tailrace"].streams.on_closed = self.stream_closed

    def event_store(self, *args: Any, **options: Any) -> "TracedEventStore":
        """Make an event store whose appends are spans."""
        return TracedEventStore(self.tracer, *args, **options)

    def flush(self) -> None:
        """Send what has ended so far."""
        self._provider.force_flush(int(SHUTDOWN_SECONDS * 1000))

    def shutdown(self) -> None:
        """Send what has ended, and end; a collector that is away is waited for only so long."""
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        ending.join(SHUTDOWN_SECONDS)

    def stream_closed(self, stream: OpenStream, entry: Entry) -> None:
        """Make the span of a whole stream, linked to that of the request which opened it.

        It is made at the end: a span that is open for days is kept by nobody, and lost with the
        worker.
        """
        span: Span | None = entry.client.span
        if span is None or stream.kind not in _STREAMS:
            return
        opening = span.get_span_context()
        if not opening.trace_flags.sampled:
            return
        standing = stream.standing()
        attributes: dict[str, Any] = {
            "tailrace.run_id": stream.run_id,
            "tailrace.request_id": entry.client.request_id,
            "tailrace.reason": stream.reason or "closed",
            "tailrace.events": standing.events,
            "tailrace.bytes": standing.bytes,
            "tailrace.cursor": standing.cursor or "",
        }
        self.tracer.start_span(
            stream.kind,
            context=Context(),
            kind=SpanKind.SERVER,
            links=[Link(opening)],
            start_time=int(entry.opened_at * 1e9),
            attributes=attributes,
        ).end()

    # A request

    def _begin(self) -> None:
        environ = request.environ
        carrier = {
            name: environ[key]
            for name, key in (
                ("traceparent", "HTTP_TRACEPARENT"),
                ("tracestate", "HTTP_TRACESTATE"),
            )
            if key in environ
        }
        parent = _propagator.extract(carrier, context=Context())
        span = self.tracer.start_span(
            _name(), context=parent, kind=SpanKind.SERVER, attributes=_attributes()
        )
        environ[SPAN] = span
        environ[_TOKEN] = context.attach(trace.set_span_in_context(span, Context()))

    def _end(self, response: Response) -> Response:
        """End the span. The head of the response is ready; of a stream it is the beginning."""
        span: Span | None = request.environ.get(SPAN)
        if span is not None:
            span.set_attribute("http.response.status_code", response.status_code)
            if response.status_code >= 500:
                span.set_attribute("error.type", str(response.status_code))
                span.set_status(StatusCode.ERROR)
            span.end()
        return response

    def _leave(self, error: BaseException | None) -> None:
        token = request.environ.pop(_TOKEN, None)
        if token is not None:
            context.detach(token)


class TracedEventStore(EventStore):
    """An event store whose appends are spans, within those of their requests."""

    def __init__(self, tracer: trace.Tracer, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._tracer = tracer

    def append_new(
        self, run_id: int | str, new_events: list[NewEvent], **options: Unpack[AppendOptions]
    ) -> Appended:
        """Append as EventStore does."""
        of_request = trace.get_current_span()
        of_request.set_attribute("tailrace.events", len(new_events))
        attributes = {"db.system.name": "redis", "db.operation.name": "EVALSHA"}
        with self._tracer.start_as_current_span(
            "append.lua", kind=SpanKind.CLIENT, attributes=attributes
        ):
            appended = super().append_new(run_id, new_events, **options)
        of_request.set_attribute("tailrace.sequence", appended.first_sequence)
        return appended


def _resource() -> Resource:
    """Return what the process says of itself: what the standard variables do, and its name."""
    named = "OTEL_SERVICE_NAME" in os.environ
    named = named or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    own: dict[str, Any] = {"service.version": __version__, "process.pid": os.getpid()}
    return Resource.create(own if named else own | {"service.name": "tailrace"})


def _name() -> str:
    """Return the name of a request's span: its method and its route, of which there are few."""
    method = request.method if request.method in _METHODS else "HTTP"
    route = _route()
    return f"{method} {route}" if route else method


def _route() -> str:
    rule = request.url_rule.rule if request.url_rule is not None else ""
    return re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule)


def _attributes() -> dict[str, str | int]:
    """Return the attributes of a request's span (Semantic conventions for HTTP spans).

    There is no query: it may hold a token.
    """
    environ = request.environ
    is_known = request.method in _METHODS
    found: dict[str, Any] = {
        "http.request.method": request.method if is_known else "_OTHER",
        "url.path": request.path,
        "url.scheme": request.scheme,
        "http.route": _route(),
        "network.protocol.version": environ.get("SERVER_PROTOCOL", "").removeprefix("HTTP/"),
        "client.address": request.remote_addr,
        "server.address": environ.get("HTTP_HOST", "").partition(":")[0],
        "user_agent.original": environ.get("HTTP_USER_AGENT"),
        "tailrace.request_id": request_id_of(environ),
        "tailrace.run_id": (request.view_args or {}).get("run_id"),
    }
    return {name: value for name, value in found.items() if value}
