"""The state of one run's log."""

import orjson
from flask import Blueprint, Response, abort

from app.routes.gateway import gateway

blueprint = Blueprint("runs", __name__)


@blueprint.get("/runs/<run_id>")
def show(run_id: str) -> Response:
    """The run's log as it is now; 404 when there is none."""
    info = gateway().store.info(run_id)
    if not info.exists:
        abort(404, f"run {run_id} has no log")
    document = {
        "run_id": run_id,
        "length": info.length,
        "first_id": str(info.first_id) if info.first_id else None,
        "last_id": str(info.last_id),
        "last_sequence": info.last_sequence,
        "ended": info.ended,
        "ttl": info.ttl,
    }
    return Response(orjson.dumps(document), mimetype="application/json")
