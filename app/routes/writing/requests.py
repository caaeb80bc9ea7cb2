"""The way back: what viewers request of a run's producer."""

from flask import Blueprint, abort, request
from werkzeug.wrappers import Response as BaseResponse

from ...metrics.answers import APPEND_COUNTS
from ...streaming.errors import RunEnded
from ...streaming.event import REQUEST_CATEGORY, check_run_id
from ...streaming.new_event import NewEvent
from ..access.access import declares
from ..admission import Reservation
from ..gateway import gateway
from ..schemas import RequestSchema, idempotency_key
from .events import append_response, appended_json, traceparent_of_request
from .json_body import check_is_json, read_json

blueprint = Blueprint("requests", __name__)

_request_schema = RequestSchema()


@blueprint.post("/runs/<any_run_id:run_id>/requests")
@declares("request")
def add(run_id: str) -> BaseResponse:
    """Append `request.<action>` to the run's log, for its producer: 201.

    404 without a log: nobody would read the request. 409 if the run has ended.
    """
    check_run_id(run_id)
    key = idempotency_key(request.headers.get("Idempotency-Key"))
    check_is_json()
    here = gateway()
    max_event_bytes = here.store.max_event_bytes
    with Reservation(here.admission, here.store.lane_of(run_id)) as reservation:
        body = read_json(reservation, here.settings.max_body_bytes, max_event_bytes)
        asked = _request_schema.load(body)
        new_event = NewEvent.of(
            REQUEST_CATEGORY,
            asked["action"],
            asked["data"],
            asked["source"],
            max_bytes=max_event_bytes,
        ).within(traceparent_of_request())
        here.access.check_events([new_event], None)
        state = here.store.state(run_id)
        if state.is_archived and state.ended:
            raise RunEnded(f"run {run_id} has ended, and is archived")
        if state.is_archived or not state.exists:
            abort(404, f"run {run_id} has no log")
        reservation.begin_append()
        appended = here.store.append_new(run_id, [new_event], idempotency_key=key)
        body = appended_json(run_id, False, [new_event], appended)
    APPEND_COUNTS["view"].stored(1, repeated=appended.repeated)
    return append_response(body, appended.repeated)
