"""LangGraph's SDK: `runs.join_stream` of a run, and its status."""

from urllib.parse import quote

import orjson
from flask import Blueprint, Response, abort

from ...server.response import JsonResponse
from ...streaming.event import check_run_id
from ...streaming.wire.dialects import LANGGRAPH
from ..access.access import declares
from ..gateway import gateway
from . import answers

blueprint = Blueprint("compat-langgraph", __name__, url_prefix="/compat/langgraph")

# What a run is called that has ended with a lifecycle event; any other is an error.
_STATUSES = {"completed": "success", "cancelled": "interrupted"}


@blueprint.get("/threads/<thread_id>/runs/<run_id>/stream")
@declares("read")
def join_stream(thread_id: str, run_id: str) -> Response:
    """Stream a run. The thread does not matter here."""
    check_run_id(run_id)
    response = answers.resume(run_id, answers.last_event_id(), LANGGRAPH)
    # With this header the SDK comes back by itself. It is relative to the SDK's base URL.
    response.headers["Location"] = f"/threads/{quote(thread_id, safe='')}/runs/{run_id}/stream"
    response.autocorrect_location_header = False
    return response


@blueprint.get("/threads/<thread_id>/runs/<run_id>")
@declares("read")
def get(thread_id: str, run_id: str) -> Response:
    """Answer the status of a run. The SDK asks for it when a stream ends without saying why."""
    run = gateway().store.run(check_run_id(run_id))
    if run is None:
        abort(404, f"run {run_id} has no log")
    members = {"run_id": run_id, "thread_id": thread_id, "status": "running"}
    if run.log.ended and run.last_event is not None:
        members["status"] = _STATUSES.get(run.last_event.action or "", "error")
    return JsonResponse(orjson.dumps(members))
