"""Following a run live, over Server-Sent Events or as JSON lines."""

import logging
import time
from typing import Any

from flask import Blueprint, Response, request

from app.routes.gateway import gateway
from app.routes.problems import problem
from app.routes.schemas import StreamQuery
from app.streaming.disconnect import DisconnectWatch
from app.streaming.errors import StoreUnavailable
from app.streaming.event import check_run_id
from app.streaming.replies import LogInfo
from app.streaming.sse import EventStream, Filter, JsonLines, WireFormat
from app.streaming.subscriber import Start, Subscriber

blueprint = Blueprint("stream", __name__)
log = logging.getLogger("tailrace.stream")

_stream_query = StreamQuery()


@blueprint.get("/runs/<run_id>/events/stream")
def follow(run_id: str) -> Response:
    """History from the cursor, then live, until the run ends or the client goes."""
    check_run_id(run_id)
    query = _stream_query.of_request()
    start, wire = _start(query), _wire_format(query["typed"])
    if request.method == "HEAD":
        return _response(wire, b"")
    info = _info(run_id)
    if info and start.nothing_follows(info):
        return Response(status=204)
    settings = gateway().settings
    subscriber = Subscriber(
        run_id,
        start,
        Filter(frozenset(query["category"]), frozenset(query["action"])),
        wire,
        store=gateway().store,
        readers=gateway().readers,
        info=info,
        heartbeat_seconds=settings.heartbeat_seconds,
        retry_ms=settings.retry_ms,
    )
    if not gateway().subscribers.admit(subscriber):
        return _overloaded(wire, settings.retry_ms)
    return _stream(subscriber, wire)


def _start(query: dict[str, Any]) -> Start:
    # A browser that reconnects sends the header to the URL that it first opened, whose
    # parameter is older.
    if header := request.headers.get("Last-Event-ID"):
        return Start.parse(header, "Last-Event-ID")
    if parameter := query["last_event_id"]:
        return Start.parse(parameter, "last_event_id")
    if parameter := query["last_event_id_camel"]:
        return Start.parse(parameter, "lastEventId")
    return Start(tail=query["tail"])


def _wire_format(typed: bool) -> WireFormat:
    accepted = request.accept_mimetypes.best_match(
        ("text/event-stream", "application/x-ndjson"), default="text/event-stream"
    )
    return JsonLines() if accepted == "application/x-ndjson" else EventStream(typed)


def _info(run_id: str) -> LogInfo | None:
    try:
        return gateway().store.info(run_id)
    except StoreUnavailable:
        return None


def _stream(subscriber: Subscriber, wire: WireFormat) -> Response:
    subscribers, opened = gateway().subscribers, time.monotonic()
    watch = DisconnectWatch(
        request.environ.get("gunicorn.socket"), lambda: subscriber.end("disconnected")
    )
    fields = {"run": subscriber.run_id, "client": request.remote_addr}
    _log("stream opened", fields | {"from": str(subscriber.start)})

    def close() -> None:
        watch.close()
        subscriber.close()
        subscribers.discard(subscriber)
        seconds = round(time.monotonic() - opened, 3)
        ended = {
            "reason": subscriber.reason,
            "seconds": seconds,
            "events": subscriber.events_sent,
        }
        _log("stream ended", fields | ended)

    response = _response(wire, subscriber.chunks())
    response.call_on_close(close)
    return response


def _log(message: str, fields: dict[str, Any]) -> None:
    """One line: on a terminal with its fields behind it, in JSON with each by its name."""
    text = " ".join(f"{name}={value}" for name, value in fields.items())
    log.info("%s %s", message, text, extra=fields)


def _overloaded(wire: WireFormat, retry_ms: int) -> Response:
    # A browser never comes back from a 503, but from the end of a stream it does.
    if "text/event-stream" in request.accept_mimetypes.values():
        return _response(wire, wire.retry(retry_ms))
    return problem(503, "too many streams, or the worker is about to stop")


def _response(wire: WireFormat, body: Any) -> Response:
    response = Response(body, content_type=wire.content_type)
    response.headers["Cache-Control"] = "no-cache, no-transform"
    response.headers["X-Accel-Buffering"] = "no"
    return response
