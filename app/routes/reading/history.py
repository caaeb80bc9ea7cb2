"""Reading the history of a run: in pages, as lines, and waiting for the next event."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from flask import Blueprint, Response, request

from ...server.response import JsonResponse
from ...streaming.backoff import Turns
from ...streaming.errors import InvalidInput
from ...streaming.event import Event, check_run_id
from ..access.access import declares
from ..gateway import gateway
from ..schemas import PageQuery
from .accept import JSON_LINES, prefers_json_lines

DEFAULT_PAGE_EVENTS = 100

blueprint = Blueprint("history", __name__)

_page_query = PageQuery()


@blueprint.get("/runs/<any_run_id:run_id>/events")
@declares("read")
def read(run_id: str) -> Response:
    """Answer a page of history and where the next one begins, or all of it as lines."""
    run_id, query = check_run_id(run_id), _page_query.of_request()
    selection = {
        "after": query["after"],
        "before": query["before"],
        "from_sequence": query["from_sequence"],
        "descending": query["order"] == "desc",
        "categories": query["category"],
        "actions": query["action"],
    }
    as_lines = query["download"] or prefers_json_lines("application/json")
    if query["wait"] and (as_lines or query["before"] or selection["descending"]):
        raise InvalidInput("wait", "cannot stand beside before, order=desc, or lines")
    return (_lines if as_lines else _page)(run_id, query, selection)


def _page(run_id: str, query: Mapping[str, Any], selection: dict[str, Any]) -> Response:
    """Answer a page; if it has to be waited for, count the request as a stream meanwhile.

    A worker that is stopping does not wait: the client asks another one.
    """
    here, limit = gateway(), query["limit"] or DEFAULT_PAGE_EVENTS
    found = here.store.page(run_id, **selection, limit=limit)
    waits = query["wait"] and not here.streams.draining
    if waits and not found.events and not found.is_last:
        poll = here.streams.long_poll(run_id)
        here.admit(poll)
        try:
            found = poll.wait(query["wait"], limit=limit, **selection)
        finally:
            here.streams.closed(poll)
    following = b'"%b"' % str(found.next).encode() if found.next else b"null"
    events = b",".join(_each_json(found.events))
    ended = b"true" if found.ended else b"false"
    response = JsonResponse(b'{"events":[%b],"next":%b,"ended":%b}' % (events, following, ended))
    here.admission.hold_until_sent(response)
    return response


def _lines(run_id: str, query: Mapping[str, Any], selection: dict[str, Any]) -> Response:
    """Stream the events as lines. What is appended meanwhile is not among them."""
    here = gateway()
    lines = here.streams.history_lines(run_id, limit=query["limit"], **selection)
    response = Response(lines.chunks(), content_type=f"{JSON_LINES}; charset=utf-8")
    if query["download"]:
        response.headers["Content-Disposition"] = f'attachment; filename="{run_id}.ndjson"'
    if request.method != "HEAD":
        here.admit(lines)
        response.call_on_close(lambda: here.streams.closed(lines))
    return response


def _each_json(events: Iterable[Event]) -> Iterator[bytes]:
    """Yield the JSON of each event of a page, and give the other requests turns."""
    turns = Turns()
    for event in events:
        turns.spend(len(event.data_json) + len(event.source_json))
        yield event.to_json()
