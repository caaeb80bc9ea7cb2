"""Following a run live, over Server-Sent Events or as JSON lines."""

import logging
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from flask import Blueprint, Response, request
from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header
from werkzeug.wsgi import ClosingIterator

from ..server.hijack import hijack
from ..streaming.errors import StoreUnavailable
from ..streaming.event import check_run_id
from ..streaming.follow.replay import Start
from ..streaming.follow.subscriber import Subscriber
from ..streaming.wire.formats import EventStream, Filter, JsonLines, StreamFormat, WireFormat
from .gateway import gateway
from .problems import problem
from .schemas import StreamQuery

blueprint = Blueprint("stream", __name__)

log = logging.getLogger("tailrace.stream")

_stream_query = StreamQuery()
_CONTENT_TYPES = ("text/event-stream", "application/x-ndjson")


@blueprint.get("/runs/<any_run_id:run_id>/events/stream")
def follow(run_id: str) -> Response:
    """History from the cursor, then live, until the run ends or the client goes."""
    check_run_id(run_id)
    query = _stream_query.of_request()
    start, view = _start(query), _view(query)
    if request.method == "HEAD":
        return _response(view.wire)
    streams = gateway().streams
    subscriber = streams.subscriber(run_id, start, view)
    if _is_over(subscriber):
        return Response(status=204)
    if not streams.admit(subscriber, request.remote_addr or "", start=str(start)):
        return _overloaded()
    response = _response(view.wire, StreamResponse)
    response.subscriber = subscriber
    return response


class StreamResponse(Response):
    """A response whose body is a subscriber's: through an client_socket, or else iterated."""

    automatically_set_content_length = False
    subscriber: Subscriber

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        try:
            start_response(self.status, self.get_wsgi_headers(environ).to_wsgi_list())
            client_socket = hijack(start_response)
        except BaseException:  # the client has gone already, or the worker is stopping
            self.subscriber.end("disconnected")
            self.subscriber.close()
            raise
        if client_socket is None:
            return ClosingIterator(self.subscriber.chunks(), self.subscriber.close)
        self.subscriber.deliver_to(client_socket)
        return ()


def _start(query: Mapping[str, Any]) -> Start:
    # A browser that reconnects sends the header to the URL that it first opened, whose
    # parameter is older.
    if header := request.headers.get("Last-Event-ID"):
        return Start.parse(header, "Last-Event-ID")
    if parameter := query["last_event_id"]:
        return Start.parse(parameter, "last_event_id")
    if parameter := query["last_event_id_camel"]:
        return Start.parse(parameter, "lastEventId")
    return Start(tail=query["tail"])


def _view(query: Mapping[str, Any]) -> StreamFormat:
    json_lines = _wants_json_lines(request.headers.get("Accept", ""))
    return _shared_view(
        frozenset(query["category"]), frozenset(query["action"]), json_lines, query["typed"]
    )


@lru_cache(maxsize=100)
def _wants_json_lines(accept: str) -> bool:
    accepted = parse_accept_header(accept, MIMEAccept)
    return accepted.best_match(_CONTENT_TYPES, default=_CONTENT_TYPES[0]) == _CONTENT_TYPES[1]


@lru_cache(maxsize=1000)
def _shared_view(
    categories: frozenset[str], actions: frozenset[str], json_lines: bool, typed: bool
) -> StreamFormat:
    """One object for all who see the same."""
    return StreamFormat(
        Filter(categories, actions), JsonLines() if json_lines else EventStream(typed)
    )


def _is_over(subscriber: Subscriber) -> bool:
    try:
        return subscriber.nothing_follows()
    except StoreUnavailable:
        return False


def _overloaded() -> Response:
    # A browser never comes back from a 503, but from the end of a stream it does.
    accepted = (
        kind.partition(";")[0].strip().lower() for kind in request.accept_mimetypes.values()
    )
    log.warning("stream refused: too many, or draining path=%r", request.path)
    if "text/event-stream" in accepted:
        response = _response(EventStream())
        response.data = EventStream().retry(gateway().settings.retry_ms)
        return response
    return problem(503, "too many streams, or the worker is about to stop")


def _response(wire: WireFormat, kind: type[Response] = Response) -> Response:
    response = kind(content_type=wire.content_type)
    response.headers["Cache-Control"] = "no-cache, no-transform"
    response.headers["X-Accel-Buffering"] = "no"
    return response
