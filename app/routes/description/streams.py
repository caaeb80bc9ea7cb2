"""What is described of streams: of one run, and of how all runs begin and end."""

from ..schemas import ChangesQuery, StreamQuery
from .documents import array
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
from .operation import EVENT_STREAM, LINES, Answer, Example, Json, Operation, schema
from .parameters import LAST_EVENT_ID
from .shared_answers import READING, of_field, problem, refused, shared, wrong_parameter

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
            {"typed": True},
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
            query={"typed": False, "last_event_id": FIRST_ID, "lastEventId": FIRST_ID},
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

OPERATIONS = {"stream.follow": STREAM, "stream.follow_all": CHANGES}
