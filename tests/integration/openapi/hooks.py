"""What schemathesis must know of Tailrace: bodies of other types, and what OpenAPI cannot say.

A failure is dropped only for one of the reasons that are written down here.
"""

import json
import re
from typing import Any

import schemathesis
from schemathesis.core.failures import AcceptedNegativeData, Failure
from schemathesis.openapi.checks import RejectedPositiveData

from app.routes.schemas import CURSOR

LINES, EVENT_STREAM = "application/x-ndjson", "text/event-stream"

KEY = "Idempotency-Key"
CURSORS = {"after", "before", "last_event_id", "lastEventId", "Last-Event-ID"}

SEQUENCES = (1, 2**53)

# The body that came with each key.
_contents: dict[tuple[Any, ...], Any] = {}

# What no schema can say of a request that fits its schema, as the gateway answers it.
BEYOND_SCHEMAS = {
    "one of two parameters": "cannot stand beside",
    "a key only with JSON": "Idempotency-Key: is for one event, or for an array of events",
    "a run is named once": "names the run ",
    "a cursor is of these runs": "must be a cursor that a stream of these runs has sent",
    "empty names do not count": "run: must be 1 to 100 runs",
    "what a key was used for": "the idempotency key was used for event ",
    "for JSON Schema 1e30 is an integer": "Integer exceeds 64-bit range",
}


@schemathesis.serializer(LINES)
def lines_of(context: object, value: Any) -> bytes:
    """Write an array as lines. An example is a text."""
    if isinstance(value, str):
        return value.encode()
    items = value if isinstance(value, list) else [value]
    return b"".join(json.dumps(item).encode() + b"\n" for item in items)


@schemathesis.serializer(EVENT_STREAM)
def events_of(context: object, value: Any) -> bytes:
    """Write a text as it is. Anything else becomes what is no text: not UTF-8."""
    return value.encode() if isinstance(value, str) else b"\xff\n"


@schemathesis.deserializer(LINES)
def items_of(context: object, response: Any) -> list[Any]:
    """Read lines as an array."""
    return [json.loads(line) for line in response.content.splitlines()]


@schemathesis.hook
def map_case(context: object, case: Any) -> Any:
    """Have more requests accepted: leave out what cannot stand beside something else.

    No request waits longer than a second, since nobody appends meanwhile. The numbers of an event
    id have 64 bits, and a pattern compares no numbers: those of 20 digits become shorter. A
    sequence stays if it is that of a new run, or the greatest one. For JSON Schema 60.0 is
    an integer, and for the gateway it is none.
    """
    query, headers = case.query or {}, case.headers or {}
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return case
    for values in (query, headers):
        for name in CURSORS & values.keys():
            if isinstance(values[name], str):  # of /debug/streams it is a number
                values[name] = with_shorter_numbers(values[name])
    if isinstance(query.get("run"), list):
        query["run"] = [with_shorter_numbers(value) for value in query["run"]]
    if isinstance(case.body, dict) and isinstance(runs := case.body.get("runs"), dict):
        case.body["runs"] = {run_id: with_shorter_numbers(each) for run_id, each in runs.items()}
    if query.get("format") == "payload":  # whose events may be any JSON: no schema says more
        del query["format"]
    if "tail" in query:
        query.pop("from_sequence", None)
    if query.keys() & {"before", "order", "download"}:
        query.pop("wait", None)
    if "wait" in query:
        query["wait"] = min(int(query["wait"]), 1)
    for name in ("expected_sequence", "from_sequence"):
        if query.get(name) not in SEQUENCES:
            query.pop(name, None)
    for event in case.body if isinstance(case.body, list) else [case.body]:
        if isinstance(event, dict) and isinstance(event.get("lease_seconds"), float):
            event["lease_seconds"] = int(event["lease_seconds"])
    if case.media_type in (LINES, EVENT_STREAM) or not is_new_or_repeat(case):
        headers.pop(KEY, None)
    if case.media_type != EVENT_STREAM:
        query.pop("dialect", None)
        query.pop("lease_seconds", None)
    return case


def with_shorter_numbers(cursor: str) -> str:
    return re.sub(r"[0-9]{20}", lambda found: found[0][1:], cursor)


def is_new_or_repeat(case: Any) -> bool:
    """Return whether the key of a request came with no other content before."""
    place = case.operation.label, *case.path_parameters.values(), case.headers.get(KEY)
    return _contents.setdefault(place, case.body) == case.body


@schemathesis.hook
def filter_failure(context: object, failure: Failure, case: Any, response: Any) -> bool:
    """Return whether a failure counts."""
    if isinstance(failure, RejectedPositiveData):
        detail = response.json()["detail"]
        return not any(known in detail for known in BEYOND_SCHEMAS.values())
    if isinstance(failure, AcceptedNegativeData):
        return not is_overridden(case)
    return True


def is_overridden(case: Any) -> bool:
    """Whether only cursors are wrong that do not count, since another one counts before them."""
    found = case.headers.get("Last-Event-ID") or case.query.get("lastEventId")
    counts = isinstance(found, str) and bool(found) and re.search(CURSOR, found) is not None
    data = case.meta.phase.data
    mutations = getattr(data, "mutations", None) or ()
    wrong = {data.parameter, *(each.parameter for each in mutations)} - {None}
    wrong -= {"category", "action"}  # any text, and one text is an array of one
    return counts and bool(wrong) and wrong <= {"last_event_id", "lastEventId"}
