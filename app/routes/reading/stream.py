"""Following a run live, as Server-Sent Events or as JSON lines."""

import logging
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from flask import Blueprint, Response, request
from werkzeug.exceptions import ServiceUnavailable
from werkzeug.wrappers import Response as BaseResponse
from werkzeug.wsgi import ClosingIterator

from ...server.hijack import hijack
from ...server.request_ids import request_id_of
from ...streaming.errors import InvalidInput, StoreUnavailable
from ...streaming.event import check_run_id
from ...streaming.follow.replay import Replay
from ...streaming.follow.start import Start
from ...streaming.follow.subscriber import Subscriber, SubscriberReplay
from ...streaming.wire.formats import EventStream, Filter, JsonLines, StreamFormat, WireFormat
from ...streaming.wire.payload import PayloadEvents
from ..access.access import TooMany, declares
from ..gateway import gateway
from ..problems import respond
from ..schemas import StreamQuery
from .accept import accept_header, prefers_json_lines

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

blueprint = Blueprint("stream", __name__)

log = logging.getLogger("tailrace.stream")

ResponseType = TypeVar("ResponseType", bound=Response)

EVENT_STREAM = "text/event-stream"

_stream_query = StreamQuery()

# How long a client waits that has come to a worker which is stopping. Its connection is closed
# with the answer, so that the next request reaches another worker.
DRAINING_RETRY_MS = 75

# What is remembered is named by clients, so longer names are not.
MAX_REMEMBERED_LENGTH = 256


@blueprint.get("/runs/<any_run_id:run_id>/events/stream")
@declares("read")
def follow(run_id: str) -> Response:
    """Stream the history from the cursor, then what is live, until the run ends."""
    check_run_id(run_id)
    query = _stream_query.of_request()
    start, stream_format = start_of(query), _stream_format(query)
    return open_stream(Replay(run_id, start, gateway().streams.services), stream_format, start)


def open_stream(replay: SubscriberReplay, stream_format: StreamFormat, start: object) -> Response:
    """Answer with a stream, or with 204 if nothing follows; raises what `_come_back` answers.

    `start` is logged.
    """
    subscriber = gateway().streams.subscriber(replay, stream_format)
    if _is_over(subscriber):
        return Response(status=204)
    if request.method == "HEAD":
        return _response(stream_format.wire, Response)
    gateway().admit(subscriber, start=str(start))
    response = _response(stream_format.wire, StreamResponse)
    response.subscriber = subscriber
    return response


class StreamResponse(Response):
    """A response whose body a subscriber writes: to the hijacked connection, or as an iterable."""

    automatically_set_content_length = False
    subscriber: Subscriber

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
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


def start_of(query: Mapping[str, Any]) -> Start:
    """Return where a stream starts, as the request says."""
    found = cursor_of(query)
    if found is not None:
        name, cursor = found
        return Start.parse(cursor, name)
    if query["from_sequence"] is not None and query["tail"] is not None:
        raise InvalidInput("from_sequence", "cannot stand beside tail")
    return Start(tail=query["tail"], sequence=query["from_sequence"])


def cursor_of(query: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the cursor of a client that comes back, and what brought it."""
    # A client that reconnects adds its newest cursor, as the header or as `lastEventId`, to the
    # request that the page wrote. So what the client's machinery adds comes first, and of
    # several values the last.
    header = request.headers.get("Last-Event-ID", "").split(",")
    for name, values in (
        ("Last-Event-ID", [value for value in map(str.strip, header) if value]),
        ("lastEventId", query["last_event_id_camel"]),
        ("last_event_id", query["last_event_id"]),
    ):
        if values:
            return name, values[-1]
    return None


def _stream_format(query: Mapping[str, Any]) -> StreamFormat:
    categories, actions = query["category"], query["action"]
    is_short = sum(map(len, (*categories, *actions))) <= MAX_REMEMBERED_LENGTH
    make = _shared_format if is_short else _shared_format.__wrapped__
    return make(frozenset(categories), frozenset(actions), _wire_format(query))


@lru_cache(maxsize=1000)
def _shared_format(
    categories: frozenset[str], actions: frozenset[str], wire: WireFormat
) -> StreamFormat:
    """Return one object for all subscribers that get the same bytes."""
    return StreamFormat(Filter(categories, actions), wire)


def _wire_format(query: Mapping[str, Any]) -> WireFormat:
    as_lines = prefers_json_lines(EVENT_STREAM)
    if wants_payload(query, as_lines):
        return PayloadEvents()
    return JsonLines() if as_lines else EventStream(query["typed"])


def wants_payload(query: Mapping[str, Any], as_lines: bool) -> bool:
    """Whether the request asks for the data of events alone. Raises InvalidInput for lines."""
    if query["format"] != "payload":
        return False
    if as_lines:
        raise InvalidInput("format", "payload is for text/event-stream")
    return True


def _is_over(subscriber: Subscriber) -> bool:
    try:
        return subscriber.nothing_follows()
    except StoreUnavailable:
        return False


def let_come_back(streams: Blueprint) -> None:
    """Refuse the streams of a blueprint so that a browser comes back."""
    for kind in (TooMany, ServiceUnavailable, StoreUnavailable):
        streams.register_error_handler(kind, _come_back)


def _come_back(error: Exception) -> BaseResponse:
    """Refuse a stream: a browser never returns from a 503, but from the end of a stream it does."""
    fields = {
        "path": request.path,
        "request_id": request_id_of(request.environ),
        "detail": str(error),
    }
    message = "stream refused path=%(path)r request_id=%(request_id)s: %(detail)s"
    log.warning(message, fields, extra=fields)
    accepted = (kind.partition(";")[0].strip().lower() for kind in accept_header().split(","))
    if "text/event-stream" not in accepted:
        return respond(error)
    response = _response(EventStream(), Response)
    here = gateway()
    retry_ms = here.settings.retry_ms
    if here.streams.draining:
        retry_ms = min(retry_ms, DRAINING_RETRY_MS)
    response.data = EventStream().retry(retry_ms)
    return response


def _response(wire: WireFormat, kind: type[ResponseType]) -> ResponseType:
    response = kind(content_type=wire.content_type)
    # A proxy that compresses a stream holds back its events.
    response.headers["Cache-Control"] = "no-store, no-transform"
    response.headers["X-Accel-Buffering"] = "no"
    return response


let_come_back(blueprint)
