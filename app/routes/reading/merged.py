"""Following several runs on one stream."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from flask import Blueprint, Response, request

from ...streaming.errors import InvalidInput
from ...streaming.event import check_run_id
from ...streaming.follow.merged_replay import MergedReplay
from ...streaming.follow.start import Start
from ...streaming.merged.cursor import MergedCursor, RunList
from ...streaming.merged.formats import (
    MergedEventStream,
    MergedFormat,
    MergedLines,
    MergedPayloadEvents,
)
from ...streaming.wire.formats import Filter, StreamFormat
from ..access.access import declares
from ..admission import Reservation
from ..gateway import gateway
from ..problems import FieldError
from ..schemas import MAX_LISTED_RUNS, MAX_NAMED_RUNS, MergedQuery, NamedRunsQuery
from ..writing.json_body import check_is_json, read_body
from .accept import prefers_json_lines
from .stream import EVENT_STREAM, cursor_of, let_come_back, open_stream, wants_payload

# A body with as many runs, of the longest ids, and the longest cursors.
MAX_BODY_BYTES = 256 * 1024

# With more runs than this, what is sent together is one event: the cursor would be the most of it.
MAX_UNBATCHED_RUNS = 16

blueprint = Blueprint("merged", __name__)
let_come_back(blueprint)

_named_query = NamedRunsQuery()
_body_query = MergedQuery()


@blueprint.get("/events/stream")
@declares("list")
def follow_named() -> Response:
    """Stream the events of several runs, which the query names, until all have ended."""
    query = _named_query.of_request()
    return _follow(query, _runs_of_query(query["run"]), [cursor_of(query)], "run")


@blueprint.route("/events/stream", methods=("POST", "QUERY"))
@declares("list")
def follow_listed() -> Response:
    """Stream the events of many runs, which the body lists, until all have ended."""
    query = _body_query.of_request()
    if "run" in request.args:
        raise InvalidInput("run", "is for GET; the body names the runs")
    texts, cursor = _read_body()
    in_body = None if cursor is None else ("last_event_id", cursor)
    return _follow(query, texts, [cursor_of(query), in_body], "runs")


def _follow(
    query: Mapping[str, Any],
    cursors: Mapping[str, str],
    came_back_with: Iterable[tuple[str, str] | None],
    field: str,
) -> Response:
    """Stream the events of runs, each from its cursor, or all from where the client was."""
    for name in ("tail", "from_sequence"):
        if name in request.args:
            raise InvalidInput(name, "is for a stream of one run")
    here = gateway()
    here.access.check_readable(cursors)
    starts = {run_id: _start(run_id, cursor, field) for run_id, cursor in cursors.items()}
    shown = "cursors"
    for name, text in reversed([each for each in came_back_with if each is not None]):
        starts, shown = _starts(cursors, name, text), "resumed"
    here.check_place(tuple(starts))  # before so many logs are read
    replay = MergedReplay(starts, here.streams.services)
    return open_stream(replay, _merged_format(query, len(starts)), shown)


def _runs_of_query(values: Iterable[str]) -> dict[str, str]:
    """Return the cursor of each run, as `run` parameters give them."""
    pairs = (value.partition("@") for value in values)
    cursors = ((run_id, cursor or "earliest") for run_id, _, cursor in pairs)
    return _checked(cursors, "run", MAX_NAMED_RUNS)


def _read_body() -> tuple[dict[str, str], str | None]:
    """Return the cursor of each run, and that of the stream, as the body gives them."""
    check_is_json()
    with Reservation(gateway().admission) as reservation:
        body = bytes(read_body(reservation, MAX_BODY_BYTES))
    try:
        members = json.loads(body.decode(), object_pairs_hook=_Members)
    except (ValueError, RecursionError) as error:
        raise FieldError(400, "body", f"is not JSON: {error}") from None
    if not isinstance(members, _Members):
        raise InvalidInput("body", "must be a JSON object")
    document = dict(members)
    for name, _ in members:
        if name not in ("runs", "last_event_id"):
            raise InvalidInput("body", f"has the unknown member {name!r}")
    if len(document) < len(members):
        raise InvalidInput("body", "has a member twice")
    runs, cursor = document.get("runs"), document.get("last_event_id")
    if not isinstance(runs, _Members):
        raise InvalidInput("runs", "must be an object: a cursor for each run id")
    if not (cursor is None or isinstance(cursor, str)):
        raise InvalidInput("last_event_id", "must be a string")
    return _checked(runs, "runs", MAX_LISTED_RUNS), cursor


class _Members(list[tuple[str, Any]]):
    """The members of a JSON object, of which two may have the same name."""


def _checked(pairs: Iterable[tuple[str, Any]], field: str, maximum: int) -> dict[str, str]:
    """Return the cursor of each run. Raises InvalidInput, which names the field."""
    cursors: dict[str, str] = {}
    for number, (run_id, cursor) in enumerate(pairs, 1):
        if number > maximum:
            raise InvalidInput(field, f"must be at most {maximum} runs")
        try:
            check_run_id(run_id)
        except InvalidInput as error:
            raise InvalidInput(field, f"{run_id!r}: {error.message}") from None
        if run_id in cursors:
            raise InvalidInput(field, f"names the run {run_id} twice")
        if not isinstance(cursor, str):
            raise InvalidInput(field, f"the cursor of the run {run_id} must be a string")
        cursors[run_id] = cursor
    if not cursors:
        raise InvalidInput(field, f"must be 1 to {maximum} runs")
    return cursors


def _starts(run_ids: Iterable[str], field: str, text: str) -> dict[str, Start]:
    """Return where a stream of runs goes on for a client that comes back with a cursor."""
    runs = RunList.of(run_ids)
    if text in ("earliest", "latest"):
        return dict.fromkeys(runs.run_ids, Start.parse(text, field))
    ids = MergedCursor.parse(text, runs, field).ids
    return {run_id: Start(id=event_id) for run_id, event_id in zip(runs.run_ids, ids, strict=True)}


def _start(run_id: str, cursor: str, field: str) -> Start:
    try:
        return Start.parse(cursor, field)
    except InvalidInput as error:
        raise InvalidInput(field, f"the cursor of the run {run_id} {error.message}") from None


def _merged_format(query: Mapping[str, Any], number_of_runs: int) -> StreamFormat:
    batched = number_of_runs > MAX_UNBATCHED_RUNS
    as_lines = prefers_json_lines(EVENT_STREAM)
    wire: MergedFormat
    if wants_payload(query, as_lines):
        wire = MergedPayloadEvents(batched=batched)
    else:
        wire = MergedLines(batched) if as_lines else MergedEventStream(query["typed"], batched)
    return StreamFormat(Filter(frozenset(query["category"]), frozenset(query["action"])), wire)
