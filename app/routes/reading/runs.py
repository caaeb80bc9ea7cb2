"""The runs: the list of them, how they begin and end, and one run as a whole."""

from collections.abc import Mapping
from typing import Any

import orjson
from flask import Blueprint, Response, abort

from ...server.response import JsonResponse
from ...streaming.follow.replay import Replay
from ...streaming.runs.changes import CHANGES
from ...streaming.runs.run_index import Place
from ...streaming.wire.formats import StreamFormat, WireFormat
from ...streaming.wire.run_changes import (
    ChangesEventStream,
    ChangesLines,
    ChangesPayloadEvents,
    RunFilter,
)
from ..access.access import declares
from ..gateway import gateway
from ..schemas import ChangesQuery, RunsQuery
from .accept import prefers_json_lines
from .stream import EVENT_STREAM, open_stream, start_of, wants_payload
from .stream import blueprint as streams

blueprint = Blueprint("runs", __name__)

_runs_query = RunsQuery()
_changes_query = ChangesQuery()


@blueprint.get("/runs")
@declares("list")
def page() -> Response:
    """Answer a page of the runs that the bearer may read, the latest activity first."""
    here, query = gateway(), _runs_query.of_request()
    after = query["after"]
    found = here.store.runs.page(
        state=query["state"],
        prefix=query["prefix"],
        after=None if after is None else Place.parse(after, "after"),
        limit=query["limit"],
        allowed=here.access.readable().matcher(),
    )
    following = b'"%b"' % str(found.next).encode() if found.next else b"null"
    runs = b",".join([run.to_json() for run in found.runs])
    more = b"" if not found.unavailable else b',"unavailable":' + orjson.dumps(found.unavailable)
    response = JsonResponse(b'{"runs":[%b],"next":%b%b}' % (runs, following, more))
    here.admission.hold_until_sent(response)
    return response


@streams.get("/runs/stream")
@declares("list")
def follow_all() -> Response:
    """Stream how runs begin and end, are lost and deleted."""
    query = _changes_query.of_request()
    start = start_of(query)
    replay = Replay(CHANGES, start, gateway().streams.services)
    return open_stream(replay, _changes_format(query), start)


@blueprint.get("/runs/<run_id>")
@declares("read")
def show(run_id: str) -> Response:
    """Answer the state of the run and of its log; 404 if there is no log."""
    run = gateway().store.run(run_id)
    if run is None:
        abort(404, f"run {run_id} has no log")
    return JsonResponse(run.to_json())


def _changes_format(query: Mapping[str, Any]) -> StreamFormat:
    readable, prefix = gateway().access.readable(), query["prefix"]
    is_readable = readable.matcher()

    def allowed(run_id: str) -> bool:
        return run_id.startswith(prefix) and is_readable(run_id)

    as_lines = prefers_json_lines(EVENT_STREAM)
    wire: WireFormat
    if wants_payload(query, as_lines):
        wire = ChangesPayloadEvents()
    else:
        wire = ChangesLines() if as_lines else ChangesEventStream(query["typed"])
    return StreamFormat(RunFilter((prefix, *readable.patterns), allowed), wire)
