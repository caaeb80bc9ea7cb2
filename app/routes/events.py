"""Writing a run's events, and reading their history in pages."""

from itertools import count
from typing import Any

import orjson
from flask import Blueprint, Response, request
from flask_cors.core import FLASK_CORS_EVALUATED
from werkzeug.exceptions import ServiceUnavailable

from ..server.nonblocking_body import NonBlockingBody, notice_lost_machines
from ..server.response import Answer
from ..streaming.errors import InvalidInput
from ..streaming.event import check_run_id
from ..streaming.new_event import Appended, NewEvent
from .admission import Reservation
from .gateway import gateway
from .ingest.ingest import Ingest, append_alone
from .json_body import is_json_lines, pieces, read_json
from .problems import as_problem
from .schemas import AppendQuery, EventSchema, PageQuery, idempotency_key

blueprint = Blueprint("events", __name__)

_event_schema = EventSchema()
_append_query = AppendQuery()
_page_query = PageQuery()


@blueprint.post("/runs/<any_run_id:run_id>/events")
def append(run_id: str) -> Response:
    """Append an event, or an array of them: 201 with what was stored, 200 if it was before.

    Or the lines of the body as they arrive: 200 with how many were stored.
    """
    check_run_id(run_id)
    expected = _append_query.of_request()["expected_sequence"]
    key = idempotency_key(request.headers.get("Idempotency-Key"))
    if is_json_lines():
        if key is not None:
            raise InvalidInput("Idempotency-Key", "is for one event, or an array of them")
        return _ingest(run_id, expected)
    here = gateway()
    with Reservation(here.admission) as reservation:
        # The body is not kept while Redis is waited for: what JSON says in a kilobyte may take
        # a hundred in Python.
        many, new_events, lease = _new_events_from(
            read_json(reservation, here.settings.max_body_bytes), here.store.max_event_bytes
        )
        reservation.take_place()
        appended = here.store.append_new(
            run_id, new_events, idempotency_key=key, expected_sequence=expected, lease_seconds=lease
        )
        response = Answer(
            _told(appended) if many else new_events[0].as_stored(run_id, appended).to_json(),
            200 if appended.repeated else 201,
        )
    if appended.repeated:
        response.headers["Idempotent-Replayed"] = "true"
    # No page of another origin may append, so there is nothing for flask-cors to weigh.
    setattr(response, FLASK_CORS_EVALUATED, True)
    return response


def _ingest(run_id: str, expected_sequence: int | None) -> Response:
    """Append the lines of the request's body: 200 with what was stored, once it has ended.

    What is wrong ends it with a problem that names the first line that was not stored. What
    was stored before stays, and is told.
    """
    here, reservation = gateway(), Reservation(gateway().admission)
    longest, most_bytes = here.settings.max_body_bytes, here.store.max_event_bytes
    ingest = Ingest(run_id, expected_sequence, reservation, longest, most_bytes)
    if not here.streams.admit(ingest, request.remote_addr or ""):
        refusal = ServiceUnavailable("too many streams, or the worker is about to stop")
        return as_problem(refusal, **ingest.error_members())
    try:
        notice_lost_machines(request.environ.get("gunicorn.socket"))
        body = NonBlockingBody.of(request.environ)
        if body is not None:
            here.ingest_loop.read(ingest, body)
        else:
            append_alone(ingest, pieces(request.stream), here.store)
        if ingest.error is not None:
            raise ingest.error
        ingest.reason = "ended"
    except Exception as error:  # an unexpected one too: what was stored is told
        ingest.reason = ingest.reason or "refused"
        return as_problem(error, **ingest.error_members())
    finally:
        reservation.now(0)
        here.streams.closed(ingest)
    return Answer(orjson.dumps(ingest.result()))


def _new_events_from(body: Any, max_bytes: int) -> tuple[bool, list[NewEvent], int | None]:
    """Whether a body holds several events, what is to be appended, and the lease."""
    if isinstance(body, list):
        return True, *_event_schema.new_events_from(body, max_bytes)
    new_event, lease = _event_schema.new_event_from(body, max_bytes)
    return False, [new_event], lease


def _told(appended: Appended) -> bytes:
    """The answer to a batch."""
    numbered = zip(appended.ids(), count(appended.first_sequence), strict=False)
    told = [{"id": event_id, "sequence": sequence} for event_id, sequence in numbered]
    return orjson.dumps({"events": told})


@blueprint.get("/runs/<any_run_id:run_id>/events")
def page(run_id: str) -> Response:
    """A page of history, and where the next one goes on."""
    query = _page_query.of_request()
    found = gateway().store.page(
        run_id,
        after=query["after"],
        before=query["before"],
        descending=query["order"] == "desc",
        limit=query["limit"],
        categories=query["category"],
        actions=query["action"],
    )
    events = b",".join(event.to_json() for event in found.events)
    following = b'"%b"' % str(found.next).encode() if found.next else b"null"
    answer = Answer(b'{"events":[%b],"next":%b}' % (events, following))
    gateway().unsent.hold(answer)
    return answer


@blueprint.delete("/runs/<any_run_id:run_id>/events")
def delete(run_id: str) -> Response:
    """Remove the run's log; there may be none."""
    gateway().store.delete(run_id)
    return Response(status=204)
