"""One run as a whole."""

from flask import Blueprint, Response, abort

from ...server.response import JsonResponse
from ..access.access import declares
from ..gateway import gateway

blueprint = Blueprint("runs", __name__)


@blueprint.get("/runs/<run_id>")
@declares("read")
def show(run_id: str) -> Response:
    """Answer the state of the run and of its log; 404 if there is no log."""
    run = gateway().store.run(run_id)
    if run is None:
        abort(404, f"run {run_id} has no log")
    return JsonResponse(run.to_json())
