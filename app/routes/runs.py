"""The state of one run's log."""

import orjson
from flask import Blueprint, Response, abort

from .access.access import declares
from .gateway import gateway

blueprint = Blueprint("runs", __name__)


@blueprint.get("/runs/<run_id>")
@declares("read")
def show(run_id: str) -> Response:
    """Answer the state of the run's log; 404 if there is no log."""
    state = gateway().store.state(run_id, ttl=True)
    if not state.exists:
        abort(404, f"run {run_id} has no log")
    document = {
        "run_id": run_id,
        "length": state.length,
        "first_id": str(state.first_id) if state.first_id else None,
        "last_id": str(state.last_id),
        "last_sequence": state.last_sequence,
        "ended": state.ended,
        "ttl": state.ttl,
    }
    return Response(orjson.dumps(document), mimetype="application/json")
