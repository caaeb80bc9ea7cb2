"""What is described of appending events: one, an array of them, lines, or Server-Sent Events."""

from ..schemas import AppendQuery
from .documents import array, text
from .example_runs import (
    ACTIVE,
    ENDED,
    GREATEST_ID,
    HAS_ENDED,
    IS_NO_LOG,
    IS_NO_RUN_ID,
    NEW_ID,
    TRACED,
    WITH_GREATEST_ID,
    WITH_KEYS,
    WITH_TEXT,
    WRONG_RUN,
    new_event,
)
from .operation import EVENT_STREAM, JSON, LINES, Answer, Example, Operation, schema
from .parameters import AFTER_APPEND, IDEMPOTENCY_KEY, REPLAYED, REQUEST_ID, TRACEPARENT
from .shared_answers import (
    BROKEN_JSON,
    MISSING,
    WRITING,
    WRONG_FORM,
    of_field,
    problem,
    problem_document,
    refused,
)

_CALLED = {"event_category": "tool", "event_action": "called"}
_STREAM = '{"event_category": "llm", "event_action": "stream"}\n'
_CHUNK = 'data: {"type": "text-delta", "id": "1", "delta": "Hello"}\n\n'
_WRONG_NAME = "Must be 1 to 64 of A-Z a-z 0-9 _ -."
_APPENDED = [schema("AppendedEvent"), schema("AppendedBatch")]

APPEND = Operation(
    "Writing",
    "Append events",
    "Append an event, an array of events, or a stream of lines or Server-Sent Events. Of an array, "
    "all events are stored or none. Each line, and each Server-Sent Event, is stored when it "
    "arrives, and the answer comes when the body ends. Blank lines store nothing. "
    "`application/ndjson`, and other types that end with `+json`, are allowed too.",
    {
        201: Answer(
            "The event is stored, or all events of the array.",
            {JSON: {"anyOf": _APPENDED}},
            links=AFTER_APPEND,
        ),
        200: Answer(
            "The events had been stored before, with the same key; or the stream is stored.",
            {JSON: {"anyOf": [*_APPENDED, schema("Ingested")]}},
            REPLAYED,
        ),
        400: problem("A wrong run id, query parameter or key; broken JSON; an incomplete body."),
        409: problem(
            "The run has ended (`ended`), or the event would get another sequence than expected "
            "(`last_sequence`), or the log takes no more events (`full`), or a key of the run in "
            "Redis holds something else."
        ),
        422: problem(
            "The event has the wrong form or cannot be stored, or the key was used for other "
            "content."
        ),
        **WRITING,
    },
    [
        Example(
            "event",
            "One event",
            201,
            ACTIVE,
            body=_CALLED | {"data": {"tool": "search"}},
            answer=new_event(ACTIVE, 4, "tool.called", {"tool": "search"}),
        ),
        Example(
            "expected",
            "The event with this sequence, and a lease",
            201,
            ACTIVE,
            {"expected_sequence": 4},
            body=_CALLED | {"lease_seconds": 60},
            answer=new_event(ACTIVE, 4, "tool.called"),
        ),
        Example(
            "traced",
            "With the trace of the producer",
            201,
            ACTIVE,
            headers={"traceparent": TRACED, "X-Request-Id": "build-7.step-4"},
            body=_CALLED,
            answer=new_event(ACTIVE, 4, "tool.called") | {"traceparent": TRACED},
        ),
        Example(
            "nested",
            "The form in which events are read",
            201,
            ACTIVE,
            body={"event": {"category": "tool", "action": "called"}, "data": "search"},
            answer=new_event(ACTIVE, 4, "tool.called", "search"),
        ),
        Example(
            "batch",
            "An array of events",
            201,
            ACTIVE,
            body=[_CALLED, _CALLED | {"data": 42}],
            answer={
                "events": [
                    {"id": NEW_ID, "sequence": 4},
                    {"id": "1795703287999-1", "sequence": 5},
                ]
            },
        ),
        Example(
            "repeat",
            "A repeat with the same key",
            200,
            WITH_KEYS,
            headers={"Idempotency-Key": '"step-7"'},
            body=_CALLED,
            answer=new_event(WITH_KEYS, 1, "tool.called"),
        ),
        Example(
            "lines",
            "Events as lines",
            200,
            ACTIVE,
            body=f"{_STREAM}\n{_STREAM}",
            body_type=LINES,
            answer={"stored": 2, "last_id": NEW_ID, "last_sequence": 5},
        ),
        Example(
            "sse",
            "Server-Sent Events of a model, and how they end",
            200,
            ACTIVE,
            {"dialect": "ai-sdk", "lease_seconds": 60},
            body=f'{_CHUNK}data: {{"type": "finish"}}\n\ndata: [DONE]\n\n',
            body_type=EVENT_STREAM,
            answer={"stored": 2, "last_id": NEW_ID, "last_sequence": 5},
        ),
        Example(
            "sse-incomplete",
            "Server-Sent Events of which the last is not complete",
            200,
            ACTIVE,
            body=f"{_CHUNK}data: Hel",
            body_type=EVENT_STREAM,
            answer={"stored": 1, "last_id": NEW_ID, "last_sequence": 4, "incomplete": True},
        ),
        refused("wrong-run", "A run id with a space", IS_NO_RUN_ID, WRONG_RUN, body=_CALLED),
        refused(
            "wrong-query",
            "A wrong query parameter",
            problem_document(
                400,
                "the query has wrong parameters",
                [("expected_sequence", "Must be a whole number from 1 to 9007199254740992.")],
            ),
            ACTIVE,
            query={"expected_sequence": 0},
            body=_CALLED,
        ),
        refused(
            "dialect-with-json",
            "A dialect beside JSON",
            of_field(400, "dialect", "is only for a body of the type text/event-stream"),
            ACTIVE,
            query={"dialect": "ai-sdk"},
            body=_CALLED,
        ),
        refused(
            "broken",
            "Broken JSON",
            BROKEN_JSON,
            ACTIVE,
            body='{"data":',
        ),
        refused(
            "key-with-lines",
            "A key beside lines",
            of_field(400, "Idempotency-Key", "is for one event, or for an array of events"),
            ACTIVE,
            headers={"Idempotency-Key": "step-7"},
            body=_STREAM,
            body_type=LINES,
        ),
        refused("ended", "A run that has ended", HAS_ENDED, ENDED, body=_CALLED),
        refused(
            "after-done",
            "A Server-Sent Event after the end of the stream",
            problem_document(
                409,
                f"run {ACTIVE['run_id']} ended with event {NEW_ID}",
                ended=True,
                line=5,
                stored=2,
                last_id=NEW_ID,
                last_sequence=5,
            ),
            ACTIVE,
            body=f"{_CHUNK}data: [DONE]\n\n{_CHUNK}",
            body_type=EVENT_STREAM,
        ),
        refused(
            "unexpected",
            "Another sequence than expected",
            problem_document(409, "the last sequence of the run is 3", last_sequence=3),
            ACTIVE,
            query={"expected_sequence": 9},
            body=_CALLED,
        ),
        refused(
            "full",
            "A log with the greatest id",
            problem_document(
                409,
                "run full-1 takes no more events: its log has the id "
                f"{GREATEST_ID}, after which ids or sequences are not exact numbers",
                full=True,
            ),
            WITH_GREATEST_ID,
            body=_CALLED,
        ),
        refused("no-log", "A key that holds a text", IS_NO_LOG, WITH_TEXT, body=_CALLED),
        refused(
            "wrong-form",
            "A wrong name, one that is missing, and one too many",
            problem_document(
                422,
                WRONG_FORM,
                [
                    ("event_category", _WRONG_NAME),
                    ("event_action", MISSING),
                    ("level", "Unknown field."),
                ],
            ),
            ACTIVE,
            body={"event_category": "no spaces", "level": 3},
        ),
        refused(
            "reserved",
            "A reserved name",
            of_field(422, "event_category", "'gateway' is reserved"),
            ACTIVE,
            body={"event_category": "gateway", "event_action": "started"},
        ),
        refused(
            "key-reused",
            "A key that was used for another event",
            problem_document(422, f"the idempotency key was used for event {NEW_ID}"),
            WITH_KEYS,
            headers={"Idempotency-Key": "step-7"},
            body=_CALLED | {"data": "another"},
        ),
        refused(
            "wrong-line",
            "A line that is no event",
            problem_document(
                422,
                WRONG_FORM,
                [("event_category", MISSING), ("event_action", MISSING)],
                line=2,
                stored=1,
                last_id=NEW_ID,
                last_sequence=4,
            ),
            ACTIVE,
            body=f"{_STREAM}{{}}\n",
            body_type=LINES,
        ),
    ],
    query=AppendQuery(),
    headers=[IDEMPOTENCY_KEY, REQUEST_ID, TRACEPARENT],
    body={
        JSON: {"oneOf": [schema("NewEvent"), schema("NewEvents")]},
        LINES: array(schema("NewEvent")),
        EVENT_STREAM: text("Server-Sent Events: of each, `event:` and `data:` count."),
    },
)

OPERATIONS = {"events.append": APPEND}
