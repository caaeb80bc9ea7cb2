"""AG-UI, and TanStack AI, which speaks it."""

from flask import Blueprint, Response, request
from marshmallow import fields

from ...streaming.event import check_run_id
from ...streaming.wire.dialects import AG_UI
from ..access.access import declares
from ..admission import Reservation
from ..gateway import gateway
from ..schemas import Query
from ..writing.json_body import discard_body
from . import answers

blueprint = Blueprint("compat-ag-ui", __name__, url_prefix="/compat/ag-ui")


class _JoinQuery(Query):
    """The query of TanStack AI; the header Last-Event-ID overrides its cursor."""

    run_id = fields.String(required=True, data_key="runId")
    offset = fields.String(load_default="-1")


_query = _JoinQuery()


@blueprint.route("/<any_run_id:run_id>", methods=("GET", "POST"))
@declares("read")
def resume(run_id: str) -> Response:
    """Stream the answer of a run. An HttpAgent posts its input, which does not matter here."""
    check_run_id(run_id)
    if request.method == "POST":
        with Reservation(gateway().admission) as reservation:
            discard_body(reservation)
    return answers.resume(run_id, answers.last_event_id(), AG_UI)


@blueprint.get("")
@declares("list")
def join() -> Response:
    """Stream the answer of a run that the query names."""
    query = _query.of_request()
    run_id = check_run_id(query["run_id"])
    gateway().access.check_readable([run_id])
    if cursor := answers.last_event_id():
        return answers.resume(run_id, cursor, AG_UI)
    return answers.resume(run_id, query["offset"], AG_UI, "offset")
