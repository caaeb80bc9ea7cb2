"""What is described of reading runs: their history, their streams, their state, and the list."""

import orjson

from ..schemas import ChangesQuery, PageQuery, RunsQuery, StreamQuery
from .documents import array
from .operation import EVENT_STREAM, JSON, LINES, Answer, Example, Json, Operation, schema
from .parameters import LAST_EVENT_ID, RUN, link
from .shared_answers import READING, of_field, problem, problem_document, refused, shared
from .writing import ACTIVE, ENDED, IS_NO_LOG, IS_NO_RUN_ID, NO_RUN, WITH_TEXT, WRONG_RUN

_HISTORY, _STREAMS, _RUNS = "History", "Streams", "Runs"

_CACHE_CONTROL = {
    "description": "A proxy that compresses a stream holds back its events.",
    "required": True,
    "schema": {"const": "no-store, no-transform"},
}
_OF_STREAMS: Json = {
    "Cache-Control": _CACHE_CONTROL,
    "X-Accel-Buffering": {
        "description": "So nginx does not hold back events either.",
        "required": True,
        "schema": {"const": "no"},
    },
}
_DISPOSITION: Json = {
    "Content-Disposition": {
        "description": "With `download=true`: the name of the file.",
        "schema": {"type": "string", "pattern": r'^attachment; filename="[^"]+\.ndjson"$'},
    }
}


def _event(run: Json, number: int, sequence: int, name: str, data: object) -> Json:
    category, _, action = name.partition(".")
    return {
        "id": f"1795703286{number}-0",
        **run,
        "sequence": sequence,
        "timestamp": f"2026-11-26T14:28:06.{number}Z",
        "event": {"category": category, "action": action},
        "data": data,
        "source": None,
    }


EVENTS = [
    _event(ACTIVE, 342, 1, "lifecycle.started", {"task": "build"}),
    _event(ACTIVE, 353, 2, "llm.stream", "Hello"),
    _event(ACTIVE, 461, 3, "tool.called", {"tool": "search"}),
]
_FIRST, _SECOND, LAST_ID = (event["id"] for event in EVENTS)

ENDED_EVENTS = [
    _event(ENDED, 242, 1, "lifecycle.started", None),
    _event(ENDED, 253, 2, "lifecycle.completed", None),
]
_ENDED_ID = ENDED_EVENTS[-1]["id"]


def _state(events: list[Json], state: str, ended_at: str | None, **rest: object) -> Json:
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
        "meta": first["data"],
    }


_ACTIVE_STATE = _state(EVENTS, "active", None)
_ENDED_STATE = _state(ENDED_EVENTS, "ended", ENDED_EVENTS[-1]["timestamp"])


def _control(run: Json, action: str, data: Json | None) -> Json:
    return {
        "id": None,
        **run,
        "sequence": None,
        "timestamp": "2026-11-26T14:28:07.614Z",
        "event": {"category": "gateway", "action": action},
        "data": data,
        "source": None,
    }


def _caught_up(run: Json, requested: str, earliest: str, latest: str) -> Json:
    data = {"requested": requested, "earliest": earliest, "latest": latest}
    return _control(run, "caught_up", data)


def _lines(*events: Json) -> str:
    return "".join(f"{orjson.dumps(event).decode()}\n" for event in events)


def _frame(event: Json, cursor: str | None = None, *, typed: bool = True) -> str:
    name = "event: {category}.{action}\n".format(**event["event"]) if typed else ""
    data = orjson.dumps(event).decode()
    return f"id: {cursor or event['id']}\n{name}data: {data}\n\n"


_OPENING = "retry: 2931\n: open\n"


def _wrong_parameter(name: str, why: str) -> Json:
    return problem_document(400, "the query has wrong parameters", [(name, why)])


HISTORY = Operation(
    _HISTORY,
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
            answer={"events": EVENTS[:2], "next": _SECOND, "ended": False},
        ),
        Example(
            "last-page",
            "What comes after an event",
            200,
            ACTIVE,
            {"after": _SECOND, "wait": 1},
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
            answer=_lines(*ENDED_EVENTS),
            answer_type=LINES,
        ),
        refused("wrong-run", "A run id with a space", IS_NO_RUN_ID, WRONG_RUN),
        refused(
            "wrong-limit",
            "A limit that is too small",
            _wrong_parameter("limit", "Must be a whole number from 1 to 1000."),
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

STREAM = Operation(
    _STREAMS,
    "Follow a run",
    "Send the history from the cursor on, then `gateway.caught_up`, then live events, until the "
    "run ends. With `Accept: application/x-ndjson` each event is a line, and heartbeats are "
    "events too.",
    {
        200: Answer(
            "The stream.",
            {EVENT_STREAM: schema("RunFrame"), LINES: array(schema("RunLine"))},
            _OF_STREAMS,
        ),
        204: Answer("The run has ended, and no event is left to send."),
        400: problem("A wrong run id, cursor or query parameter."),
        409: problem("A key of the run in Redis holds something else."),
        **READING,
        **shared("NoPlace"),
    },
    [
        Example(
            "ended-run",
            "A run that has ended",
            200,
            ENDED,
            {"typed": True},
            answer="".join((_OPENING, *(_frame(event) for event in ENDED_EVENTS))),
            answer_type=EVENT_STREAM,
        ),
        Example(
            "live-run",
            "The last event, and what comes",
            200,
            ACTIVE,
            {"tail": 1},
            answer=_OPENING
            + _frame(EVENTS[2])
            + _frame(_caught_up(ACTIVE, "tail=1", _FIRST, LAST_ID), LAST_ID),
            answer_type=EVENT_STREAM,
        ),
        Example(
            "resume",
            "After a break",
            200,
            ACTIVE,
            {"category": ["llm"], "action": ["stream"], "last_event_id": "earliest"},
            {"Last-Event-ID": _SECOND},
            answer=_OPENING + _frame(_caught_up(ACTIVE, _SECOND, _FIRST, LAST_ID), LAST_ID),
            answer_type=EVENT_STREAM,
        ),
        Example(
            "lines",
            "As lines, from a sequence on",
            200,
            ENDED,
            {"from_sequence": 2},
            answer=_lines(_control(ENDED, "heartbeat", None), ENDED_EVENTS[1]),
            answer_type=LINES,
        ),
        Example("over", "Nothing is left", 204, ENDED, {"lastEventId": _ENDED_ID}),
        refused(
            "wrong-cursor",
            "A cursor that is none",
            of_field(
                400, "last_event_id", "must be an event id (<ms>-<n>), 'earliest' or 'latest'"
            ),
            ACTIVE,
            query={"last_event_id": "newest"},
        ),
        refused(
            "two-starts",
            "Two places to start",
            of_field(400, "from_sequence", "cannot stand beside tail"),
            ACTIVE,
            query={"from_sequence": 1, "tail": 1},
        ),
        refused("no-log", "A key that holds a text", IS_NO_LOG, WITH_TEXT),
    ],
    query=StreamQuery(),
    headers=[LAST_EVENT_ID],
)

CHANGES = Operation(
    _STREAMS,
    "Follow all runs",
    "Send how the runs begin and end that the token may read: the first event of a run, its "
    "lifecycle events, and `gateway.deleted`. The `id:` of a frame, and the `cursor` of a line, "
    "is a cursor of this stream.",
    {
        200: Answer(
            "The stream. It has no end.",
            {EVENT_STREAM: schema("ChangeFrame"), LINES: array(schema("ChangeLine"))},
            _OF_STREAMS,
        ),
        400: problem("A wrong cursor or query parameter."),
        **READING,
        **shared("NoPlace"),
    },
    [
        Example(
            "last-change",
            "The last change of some runs",
            200,
            query={"prefix": "build-", "tail": 1},
            answer=_OPENING
            + _frame(ENDED_EVENTS[1], "1795703286260-0")
            + _frame(
                _caught_up({"run_id": None}, "tail=1", "1795703286250-0", "1795703286260-0"),
                "1795703286260-0",
            ),
            answer_type=EVENT_STREAM,
        ),
        Example(
            "only-new",
            "What comes from now on, without names",
            200,
            query={"typed": False, "last_event_id": _FIRST, "lastEventId": _FIRST},
            headers={"Last-Event-ID": "latest"},
            answer=_OPENING
            + _frame(
                _caught_up({"run_id": None}, "latest", "1795703286250-0", "1795703286260-0"),
                "1795703286260-0",
                typed=False,
            ),
            answer_type=EVENT_STREAM,
        ),
        Example(
            "lines",
            "As lines, from a sequence on",
            200,
            query={"from_sequence": 4},
            answer=_lines(
                _control({"run_id": None}, "heartbeat", None),
                ENDED_EVENTS[1] | {"cursor": "1795703286260-0"},
            ),
            answer_type=LINES,
        ),
        refused(
            "wrong-prefix",
            "A prefix that no run id has",
            _wrong_parameter("prefix", "Must be the beginning of a run id: A-Z a-z 0-9 _ . -"),
            {},
            query={"prefix": "build/"},
        ),
    ],
    query=ChangesQuery(),
    headers=[LAST_EVENT_ID],
)

RUNS = Operation(
    _RUNS,
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
            _wrong_parameter("state", "Must be one of: active, ended."),
            {},
            query={"state": "lost"},
        ),
    ],
    query=RunsQuery(),
)

RUN_STATE = Operation(
    _RUNS,
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
            problem_document(404, "run build-8 has no log"),
            NO_RUN,
        ),
        refused("no-log", "A key that holds a text", IS_NO_LOG, WITH_TEXT),
    ],
)

OPERATIONS = {
    "history.read": HISTORY,
    "stream.follow": STREAM,
    "runs.show": RUN_STATE,
    "runs.page": RUNS,
    "stream.follow_all": CHANGES,
}
