"""What is described of reading runs: their history, their state, and the list of them."""

from ..schemas import PageQuery, RunsQuery
from .documents import array
from .example_runs import (
    ACTIVE,
    ENDED,
    ENDED_EVENTS,
    EVENTS,
    HAS_NO_LOG,
    IS_NO_LOG,
    IS_NO_RUN_ID,
    LAST_ID,
    NO_RUN,
    SECOND_ID,
    WITH_TEXT,
    WRONG_RUN,
    lines,
)
from .operation import JSON, LINES, Answer, Example, Json, Operation, schema
from .parameters import RUN, link
from .shared_answers import READING, of_field, problem, refused, wrong_parameter

_DISPOSITION: Json = {
    "Content-Disposition": {
        "description": "With `download=true`: the name of the file.",
        "schema": {"type": "string", "pattern": r'^attachment; filename="[^"]+\.ndjson"$'},
    }
}


def _state(events: list[Json], state: str, ended_at: str | None) -> Json:
    first, last = events[0], events[-1]
    return {
        "run_id": first["run_id"],
        "state": state,
        "started_at": first["timestamp"],
        "ended_at": ended_at,
        "last_event": {name: last[name] for name in ("id", "timestamp", "event")},
        "length": len(events),
        "first_id": first["id"],
        "last_id": last["id"],
        "last_sequence": len(events),
        "ended": ended_at is not None,
        "ttl": 604799,
        "lease_seconds": None,
        "meta": first["data"],
    }


_ACTIVE_STATE = _state(EVENTS, "active", None)
_ENDED_STATE = _state(ENDED_EVENTS, "ended", ENDED_EVENTS[-1]["timestamp"])


HISTORY = Operation(
    "History",
    "Read the history of a run",
    "Answer a page of events. With `Accept: application/x-ndjson`, or `download=true`, answer "
    "all events as lines. A run without a log has one empty page.",
    {
        200: Answer(
            "The events.",
            {JSON: schema("EventPage"), LINES: array(schema("Event"))},
            _DISPOSITION,
            {
                "next": link(
                    "history.read",
                    "The next page.",
                    run_id=RUN,
                    after="$response.body#/next",
                )
            },
        ),
        400: problem("A wrong run id or query parameter."),
        409: problem("A key of the run in Redis holds something else."),
        **READING,
    },
    [
        Example(
            "first-page",
            "The first page",
            200,
            ACTIVE,
            {"limit": 2},
            answer={"events": EVENTS[:2], "next": SECOND_ID, "ended": False},
        ),
        Example(
            "last-page",
            "What comes after an event",
            200,
            ACTIVE,
            {"after": SECOND_ID, "wait": 1},
            answer={"events": EVENTS[2:], "next": None, "ended": False},
        ),
        Example(
            "newest-first",
            "The newest events before one",
            200,
            ACTIVE,
            {"before": LAST_ID, "order": "desc"},
            answer={"events": EVENTS[1::-1], "next": None, "ended": False},
        ),
        Example(
            "filter",
            "Some events from a sequence on",
            200,
            ACTIVE,
            {"category": ["llm", "tool"], "action": ["called"], "from_sequence": 2},
            answer={"events": EVENTS[2:], "next": None, "ended": False},
        ),
        Example(
            "lines",
            "All events as a file of lines",
            200,
            ENDED,
            {"download": True},
            answer=lines(*ENDED_EVENTS),
            answer_type=LINES,
        ),
        refused("wrong-run", "A run id with a space", IS_NO_RUN_ID, WRONG_RUN),
        refused(
            "wrong-limit",
            "A limit that is too small",
            wrong_parameter("limit", "Must be a whole number from 1 to 1000."),
            ACTIVE,
            query={"limit": 0},
        ),
        refused(
            "wait-before",
            "Waiting for what has been",
            of_field(400, "wait", "cannot stand beside before, order=desc, or lines"),
            ACTIVE,
            query={"wait": 1, "before": LAST_ID},
        ),
        refused("no-log", "A key that holds a text", IS_NO_LOG, WITH_TEXT),
    ],
    query=PageQuery(),
)

RUNS = Operation(
    "Runs",
    "List the runs",
    "Answer a page of the runs that the token may read, the latest activity first. A page may be "
    "shorter than its limit before the end, or empty.",
    {
        200: Answer(
            "The runs.",
            {JSON: schema("RunPage")},
            links={"next": link("runs.page", "The next page.", after="$response.body#/next")},
        ),
        400: problem("A wrong query parameter."),
        **READING,
    },
    [
        Example(
            "ended",
            "Runs that have ended",
            200,
            query={"state": "ended", "prefix": "build-", "limit": 10},
            answer={"runs": [_ENDED_STATE | {"ttl": 86399}], "next": None},
        ),
        refused(
            "wrong-cursor",
            "A cursor that is none",
            of_field(400, "after", "must be the `next` of a page of runs"),
            {},
            query={"after": "build-7"},
        ),
        refused(
            "wrong-state",
            "A state that is none",
            wrong_parameter("state", "Must be one of: active, ended."),
            {},
            query={"state": "lost"},
        ),
    ],
    query=RunsQuery(),
)

RUN_STATE = Operation(
    "Runs",
    "Read the state of a run",
    "Answer the state of a run and of its log.",
    {
        200: Answer("The state.", {JSON: schema("Run")}),
        400: problem("A wrong run id."),
        404: problem("The run has no log."),
        409: problem("A key of the run in Redis holds something else."),
        **READING,
    },
    [
        Example("active", "A run that goes on", 200, ACTIVE, answer=_ACTIVE_STATE),
        Example("ended", "A run that has ended", 200, ENDED, answer=_ENDED_STATE),
        refused("wrong-run", "A run id with a space", IS_NO_RUN_ID, WRONG_RUN),
        refused(
            "no-run",
            "A run without a log",
            HAS_NO_LOG,
            NO_RUN,
        ),
        refused("no-log", "A key that holds a text", IS_NO_LOG, WITH_TEXT),
    ],
)

OPERATIONS = {"history.read": HISTORY, "runs.page": RUNS, "runs.show": RUN_STATE}
