"""What is described of streams: of one run, of several, and of how all runs begin and end."""

from ..schemas import (
    CURSOR,
    MAX_LISTED_RUNS,
    MERGED_CURSOR,
    RUN_ID,
    ChangesQuery,
    MergedQuery,
    NamedRunsQuery,
    StreamQuery,
)
from .documents import array, text, whole
from .example_runs import (
    ACTIVE,
    DELETED,
    ENDED,
    ENDED_EVENTS,
    ENDED_ID,
    EVENTS,
    FIRST_ID,
    FUTURE_ID,
    IS_NO_LOG,
    LAST_ID,
    LONG,
    NEW_ID,
    OPENING,
    SECOND_ID,
    TRIMMED,
    TRIMMED_EVENT,
    WITH_TEXT,
    caught_up,
    control_event,
    frame,
    lines,
    position,
)
from .operation import EVENT_STREAM, JSON, LINES, Answer, Example, Json, Operation, schema
from .parameters import LAST_EVENT_ID
from .shared_answers import (
    READING,
    of_field,
    problem,
    problem_document,
    refused,
    shared,
    wrong_parameter,
)

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
STREAM = Operation(
    "Streams",
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
            {"typed": True, "format": "event"},
            answer="".join((OPENING, *(frame(event) for event in ENDED_EVENTS))),
            answer_type=EVENT_STREAM,
        ),
        Example(
            "live-run",
            "The last event, and what comes",
            200,
            ACTIVE,
            {"tail": 1},
            answer=OPENING
            + frame(EVENTS[2])
            + frame(caught_up(ACTIVE, "tail=1", FIRST_ID, LAST_ID), LAST_ID),
            answer_type=EVENT_STREAM,
        ),
        Example(
            "resume",
            "After a break",
            200,
            ACTIVE,
            {"category": ["llm"], "action": ["stream"], "last_event_id": "earliest"},
            {"Last-Event-ID": SECOND_ID},
            answer=OPENING + frame(caught_up(ACTIVE, SECOND_ID, FIRST_ID, LAST_ID), LAST_ID),
            answer_type=EVENT_STREAM,
        ),
        Example(
            "lines",
            "As lines, from a sequence on",
            200,
            ENDED,
            {"from_sequence": 2},
            answer=lines(control_event(ENDED, "heartbeat"), ENDED_EVENTS[1]),
            answer_type=LINES,
        ),
        Example(
            "reset",
            "With an id of another log",
            200,
            ACTIVE,
            {"last_event_id": FUTURE_ID},
            answer=OPENING
            + frame(position("reset", ACTIVE, FUTURE_ID, FIRST_ID, LAST_ID))
            + frame(EVENTS[0]),
            answer_type=EVENT_STREAM,
        ),
        Example(
            "gap",
            "From events that are gone",
            200,
            TRIMMED,
            {"from_sequence": 1},
            answer=OPENING
            + frame(
                position(
                    "gap",
                    TRIMMED,
                    "from_sequence=1",
                    TRIMMED_EVENT["id"],
                    TRIMMED_EVENT["id"],
                )
            )
            + frame(TRIMMED_EVENT),
            answer_type=EVENT_STREAM,
        ),
        Example(
            "progress",
            "With a filter that drops many events",
            200,
            LONG,
            {"category": ["tool"]},
            answer=OPENING + frame(control_event(LONG, "progress", {"cursor": NEW_ID}), NEW_ID),
            answer_type=EVENT_STREAM,
        ),
        Example(
            "expiring",
            "With a token that expires soon",
            200,
            ACTIVE,
            {"tail": 0},
            answer=OPENING
            + frame(caught_up(ACTIVE, "tail=0", FIRST_ID, LAST_ID), LAST_ID)
            + frame(control_event(ACTIVE, "expiring", {"expires_in": 19})),
            answer_type=EVENT_STREAM,
        ),
        Example("over", "Nothing is left", 204, ENDED, {"lastEventId": ENDED_ID}),
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
    "Streams",
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
            answer=OPENING
            + frame(ENDED_EVENTS[1], "1795703286260-0")
            + frame(
                caught_up({"run_id": None}, "tail=1", "1795703286250-0", "1795703286260-0"),
                "1795703286260-0",
            ),
            answer_type=EVENT_STREAM,
        ),
        Example(
            "only-new",
            "What comes from now on, without names",
            200,
            query={
                "typed": False,
                "format": "event",
                "last_event_id": FIRST_ID,
                "lastEventId": FIRST_ID,
            },
            headers={"Last-Event-ID": "latest"},
            answer=OPENING
            + frame(
                caught_up({"run_id": None}, "latest", "1795703286250-0", "1795703286260-0"),
                "1795703286260-0",
                typed=False,
            ),
            answer_type=EVENT_STREAM,
        ),
        Example(
            "lines",
            "As lines, from a sequence on",
            200,
            query={"from_sequence": 8},
            answer=lines(
                control_event({"run_id": None}, "heartbeat"),
                ENDED_EVENTS[1] | {"cursor": "1795703286260-0"},
            ),
            answer_type=LINES,
        ),
        Example(
            "deleted",
            "The log of a run is gone",
            200,
            query={"from_sequence": 2},
            answer=OPENING + frame(control_event(DELETED, "deleted"), "1795703286240-0"),
            answer_type=EVENT_STREAM,
        ),
        refused(
            "wrong-prefix",
            "A prefix that no run id has",
            wrong_parameter("prefix", "Must be the beginning of a run id: A-Z a-z 0-9 _ . -"),
            {},
            query={"prefix": "build/"},
        ),
    ],
    query=ChangesQuery(),
    headers=[LAST_EVENT_ID],
)

_MERGED = (
    "Each run is followed as on a stream of its own, and `run_id` tells them apart. The `id:` is "
    "where the client is in all runs: it comes back with it, and with the same runs in any order. "
    "`gateway.caught_up`, `gateway.gap` and `gateway.reset` name their run. With more than 16 "
    "runs, what is sent together is one event, `gateway.batch`, whose data is an array. With "
    "`Accept: application/x-ndjson` each event has the member `cursor`."
)
_MERGED_ANSWERS = {
    200: Answer(
        "The stream. It ends when all runs have ended.",
        {EVENT_STREAM: schema("MergedFrame"), LINES: array(schema("MergedLine"))},
        _OF_STREAMS,
    ),
    204: Answer("All runs have ended, and no event is left to send."),
    400: problem("Wrong runs or cursors, or a wrong query parameter."),
    409: problem("A key of one of the runs in Redis holds something else."),
    **READING,
    **shared("NoPlace"),
}
_MERGED_LAST_EVENT_ID = {
    **LAST_EVENT_ID,
    "description": "Go on where the stream was: the last `id:`; or `earliest` or `latest` for all "
    "runs. Browsers send it when they reconnect. It counts before all others.",
    "schema": {"type": "string", "pattern": MERGED_CURSOR},
}
_CURSORS = [f"m1.qB2ElmXqh1Y{each}" for each in ("f3pXW", "8mVq2", "Ze0tL")]
_ENDED, _ACTIVE = ENDED["run_id"], ACTIVE["run_id"]
_ENDED_CAUGHT_UP = caught_up(ENDED, "earliest", ENDED_EVENTS[0]["id"], ENDED_ID)
_TWO_RUNS = (
    *zip(ENDED_EVENTS, _CURSORS, strict=False),
    (_ENDED_CAUGHT_UP, _CURSORS[1]),
    (EVENTS[2], _CURSORS[2]),
    (caught_up(ACTIVE, SECOND_ID, FIRST_ID, LAST_ID), _CURSORS[2]),
)
_IS_NO_LOG_OF_RUN = problem_document(
    409, "run text-1: a key of the run in Redis is of another type"
)
_TWICE = "names the run build-6 twice"

MERGED = Operation(
    "Streams",
    "Follow several runs",
    f"Send the events of up to 100 runs, until all have ended. {_MERGED}",
    _MERGED_ANSWERS,
    [
        Example(
            "two-runs",
            "A run that has ended, and one after an event",
            200,
            query={"run": [_ENDED, f"{_ACTIVE}@{SECOND_ID}"], "typed": True, "format": "event"},
            answer=OPENING + "".join(frame(event, cursor) for event, cursor in _TWO_RUNS),
            answer_type=EVENT_STREAM,
        ),
        Example(
            "lines",
            "As lines",
            200,
            query={"run": [_ENDED], "category": ["tool"], "action": ["called"]},
            answer=lines(
                control_event({"run_id": None}, "heartbeat"),
                *(event | {"cursor": _CURSORS[1]} for event in (ENDED_EVENTS[1], _ENDED_CAUGHT_UP)),
            ),
            answer_type=LINES,
        ),
        Example(
            "over",
            "Nothing is left",
            204,
            query={"run": [_ENDED], "lastEventId": "latest", "last_event_id": "earliest"},
        ),
        Example(
            "over-too",
            "Nothing is left for a browser that comes back",
            204,
            query={"run": [_ENDED]},
            headers={"Last-Event-ID": "latest"},
        ),
        refused(
            "twice",
            "A run that is named twice",
            of_field(400, "run", _TWICE),
            {},
            query={"run": [_ENDED, f"{_ENDED}@latest"]},
        ),
        refused(
            "other-runs",
            "A cursor of other runs",
            of_field(400, "last_event_id", "must be a cursor that a stream of these runs has sent"),
            {},
            query={"run": [_ENDED], "last_event_id": _CURSORS[0]},
        ),
        refused(
            "no-log",
            "A run whose key holds a text",
            _IS_NO_LOG_OF_RUN,
            {},
            query={"run": [_ENDED, WITH_TEXT["run_id"]]},
        ),
    ],
    query=NamedRunsQuery(),
    headers=[_MERGED_LAST_EVENT_ID],
)

_MANY = sorted([_ENDED, *(f"build-{number}" for number in range(10, 26))])
_BATCH = [
    event
    for run_id in _MANY
    for event in (
        (*ENDED_EVENTS, _ENDED_CAUGHT_UP)
        if run_id == _ENDED
        else (caught_up({"run_id": run_id}, "latest", None, None),)
    )
]

MERGED_BY_BODY = Operation(
    "Streams",
    "Follow many runs",
    f"Send the events of up to 1,000 runs, until all have ended. `QUERY` does the same. {_MERGED}",
    {**_MERGED_ANSWERS, **shared("TooSlow", "TooLarge", "WrongType")},
    [
        Example(
            "two-runs",
            "A run that has ended, and one after an event",
            200,
            query={
                "typed": True,
                "format": "event",
                "category": ["lifecycle", "tool"],
                "lastEventId": "",
            },
            body={"runs": {_ENDED: "earliest", _ACTIVE: SECOND_ID}, "last_event_id": None},
            answer=OPENING + "".join(frame(event, cursor) for event, cursor in _TWO_RUNS),
            answer_type=EVENT_STREAM,
        ),
        Example(
            "many-runs",
            "Many runs, which are not there yet",
            200,
            body={
                "runs": {run_id: "earliest" if run_id == _ENDED else "latest" for run_id in _MANY}
            },
            answer=lines(
                control_event({"run_id": None}, "heartbeat"),
                control_event({"run_id": None}, "batch", _BATCH) | {"cursor": _CURSORS[0]},
            ),
            answer_type=LINES,
        ),
        Example(
            "over",
            "Nothing is left",
            204,
            query={"action": ["called"], "last_event_id": "latest"},
            body={"runs": {_ENDED: "earliest"}},
        ),
        Example(
            "over-too",
            "Nothing is left for a client that comes back",
            204,
            headers={"Last-Event-ID": "latest"},
            body={"runs": {_ENDED: "earliest"}},
        ),
        refused(
            "twice",
            "A run that is named twice",
            of_field(400, "runs", _TWICE),
            {},
            body=f'{{"runs": {{"{_ENDED}": "earliest", "{_ENDED}": "latest"}}}}',
        ),
        refused(
            "no-log",
            "A run whose key holds a text",
            _IS_NO_LOG_OF_RUN,
            {},
            body={"runs": {WITH_TEXT["run_id"]: "earliest"}},
        ),
    ],
    query=MergedQuery(),
    headers=[_MERGED_LAST_EVENT_ID],
    body={
        JSON: {
            **whole(
                runs={
                    "description": "Where to start in each run: an event id, `earliest` or "
                    "`latest`.",
                    "type": "object",
                    "minProperties": 1,
                    "maxProperties": MAX_LISTED_RUNS,
                    "propertyNames": {"pattern": RUN_ID, "not": {"enum": [".", ".."]}},
                    "additionalProperties": {"type": "string", "pattern": CURSOR.replace("?", "")},
                },
                last_event_id=text(
                    "Go on where the stream was: its last `id:`, or `earliest` or `latest` for all "
                    "runs. It counts if no other cursor is there.",
                    null=True,
                    pattern=MERGED_CURSOR.replace("?", ""),
                ),
            ),
            "required": ["runs"],
        }
    },
)

OPERATIONS = {
    "stream.follow": STREAM,
    "stream.follow_all": CHANGES,
    "merged.follow_named": MERGED,
    "merged.follow_listed": MERGED_BY_BODY,
}
