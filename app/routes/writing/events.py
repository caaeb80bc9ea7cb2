"""Appending a run's events, and deleting them."""

from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

import orjson
from flask import Blueprint, Response, request
from werkzeug.exceptions import ServiceUnavailable
from werkzeug.wrappers import Response as BaseResponse

from ...metrics.answers import APPEND_COUNTS
from ...server.bodies.gunicorn_body import read_pieces
from ...server.bodies.nonblocking_body import NonBlockingBody, detect_dead_peer
from ...server.response import JsonResponse
from ...streaming.errors import InvalidInput, copy_of
from ...streaming.event import check_run_id, parse_traceparent
from ...streaming.new_event import Appended, NewEvent
from ...streaming.wire.dialects import DIALECTS, RAW
from ..access.access import declares
from ..admission import Reservation
from ..gateway import client_of_request, gateway
from ..ingest.ingest import Ingest, append_alone
from ..ingest.json_lines import JsonLines
from ..ingest.line_reader import LineReader
from ..ingest.sse_reader import SseReader
from ..problems import WAY, respond
from ..schemas import AppendQuery, EventSchema, idempotency_key
from .json_body import BodyKind, body_kind, read_json

blueprint = Blueprint("events", __name__)

_event_schema = EventSchema()
_append_query = AppendQuery()
_counts = APPEND_COUNTS["view"]


@blueprint.post("/runs/<any_run_id:run_id>/events")
@declares("append")
def append(run_id: str) -> BaseResponse:
    """Append an event, or an array of events: 201, or 200 if a repeat had been stored before.

    With a body of lines, or of Server-Sent Events, append each as it arrives: 200 with how many
    were stored.
    """
    check_run_id(run_id)
    query = _append_query.of_request()
    key = idempotency_key(request.headers.get("Idempotency-Key"))
    kind = body_kind()
    if kind is not BodyKind.EVENT_STREAM:
        _check_without_dialect(query)
    if kind is not BodyKind.JSON:
        if key is not None:
            raise InvalidInput("Idempotency-Key", "is for one event, or for an array of events")
        return _ingest(run_id, query, kind)
    here = gateway()
    with Reservation(here.admission, here.store.lane_of(run_id)) as reservation:
        # The parsed body is dropped before the wait for Redis: a kilobyte of JSON may take a
        # hundred in Python.
        max_event_bytes = here.store.max_event_bytes
        is_batch, new_events, lease = parse_events(
            read_json(reservation, here.settings.max_body_bytes, max_event_bytes),
            max_event_bytes,
            traceparent_of_request(),
        )
        here.access.check_events(new_events, lease)
        reservation.begin_append()
        appended = here.store.append_new(
            run_id,
            new_events,
            idempotency_key=key,
            expected_sequence=query["expected_sequence"],
            lease_seconds=lease,
        )
        body = appended_json(run_id, is_batch, new_events, appended)
    _counts.stored(len(new_events), repeated=appended.repeated)
    return append_response(body, appended.repeated)


def _check_without_dialect(query: Mapping[str, Any]) -> None:
    """Raise InvalidInput for parameters that only a body of Server-Sent Events may have."""
    for name in ("dialect", "lease_seconds"):
        if query[name] is not None:
            raise InvalidInput(name, "is only for a body of the type text/event-stream")


def _ingest(run_id: str, query: Mapping[str, Any], kind: BodyKind) -> BaseResponse:
    """Append the lines of the request's body: 200 with what was stored, once it has ended.

    An error ends it with a problem that names the first line whose event was not stored. What was
    stored before it stays, and the problem counts it.
    """
    request.environ[WAY] = "lines"
    here = gateway()
    reservation = Reservation(here.admission, here.store.lane_of(run_id))
    ingest = Ingest(
        run_id,
        query["expected_sequence"],
        reservation,
        _line_reader(kind, query["dialect"], here.store.max_event_bytes),
        max_line_bytes=here.settings.max_body_bytes,
        check=here.access.event_check(),
        traceparent=traceparent_of_request(),
        lease_seconds=query["lease_seconds"],
    )
    owner = here.access.owner_of_stream(here.streams, ())
    if not here.streams.admit(ingest, client_of_request(), owner):
        refusal = ServiceUnavailable("too many streams, or the worker is about to stop")
        return respond(refusal, **ingest.error_members())
    try:
        detect_dead_peer(request.environ.get("gunicorn.socket"))
        body = NonBlockingBody.of(request.environ)
        if body is not None:
            here.ingest_loops.read(ingest, body)
        else:
            append_alone(ingest, read_pieces(request.stream), here.store)
        if ingest.error is not None:
            raise copy_of(ingest.error)  # other requests may have the same one
        ingest.reason = "ended"
    except Exception as error:  # also an unexpected one is answered with what was stored
        ingest.reason = ingest.reason or "refused"
        return respond(error, **ingest.error_members())
    finally:
        reservation.resize(0)
        here.streams.closed(ingest)
        ingest.error = None  # its frames hold the request, and the request holds it
    return JsonResponse(orjson.dumps(ingest.result()))


def _line_reader(kind: BodyKind, dialect: str | None, max_event_bytes: int) -> LineReader:
    if kind is BodyKind.JSON_LINES:
        return JsonLines(max_event_bytes)
    return SseReader(DIALECTS[dialect or RAW.name], max_event_bytes)


def parse_events(
    body: Any, max_event_bytes: int, traceparent: bytes
) -> tuple[bool, list[NewEvent], int | None]:
    """Return whether a body holds an array, the events to append, and the lease.

    `traceparent` is for events that have none of their own.
    """
    if isinstance(body, list | Iterator):
        new_events, lease = _event_schema.new_events_from(body, max_event_bytes)
        if traceparent:
            new_events = [each.within(traceparent) for each in new_events]
        return True, new_events, lease
    new_event, lease = _event_schema.new_event_from(body, max_event_bytes)
    return False, [new_event.within(traceparent) if traceparent else new_event], lease


def traceparent_of_request() -> bytes:
    """Return the trace in which the current request came, empty if there is no valid one."""
    return parse_traceparent(request.environ.get("HTTP_TRACEPARENT", ""))


def appended_json(
    run_id: str, is_batch: bool, new_events: list[NewEvent], appended: Appended
) -> bytes:
    """Return the body of the response to an append: the event, or the ids of an array's."""
    if not is_batch:
        return new_events[0].as_stored(run_id, appended).to_json()
    numbered = zip(appended.ids(), count(appended.first_sequence), strict=False)
    events = [{"id": event_id, "sequence": sequence} for event_id, sequence in numbered]
    return orjson.dumps({"events": events})


def append_response(body: bytes, repeated: bool) -> Response:
    """Return the response to an append: 201, or 200 if a repeat had been stored before."""
    response = JsonResponse(body, 200 if repeated else 201)
    if repeated:
        response.headers["Idempotent-Replayed"] = "true"
    return response


@blueprint.delete("/runs/<any_run_id:run_id>/events")
@declares("delete")
def delete(run_id: str) -> Response:
    """Remove the run's log, if there is one."""
    gateway().store.delete(run_id)
    return Response(status=204)
