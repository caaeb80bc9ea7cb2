"""What is described of appending events, of requests to a producer, and of deleting a log."""

from typing import Any

from ..schemas import AppendQuery
from .documents import array
from .operation import JSON, LINES, Answer, Example, Json, Operation, schema
from .parameters import AFTER_APPEND, AFTER_REQUEST, IDEMPOTENCY_KEY, REPLAYED, RUN, link
from .shared_answers import (
    READING,
    WRITING,
    of_field,
    problem,
    problem_document,
    refused,
    shared,
)

_TAG = "Writing"

# The runs of the examples.
ACTIVE, ENDED, WITH_KEYS, NO_RUN = (
    {"run_id": run_id} for run_id in ("build-7", "build-6", "build-5", "build-8")
)
WITH_TEXT, WITH_GREATEST_ID, WRONG_RUN = (
    {"run_id": run_id} for run_id in ("text-1", "full-1", "build 7")
)

_CALLED = {"event_category": "tool", "event_action": "called"}
_STREAM = '{"event_category": "llm", "event_action": "stream"}\n'
ENDED_ID = "1795703286253-0"
GREATEST_ID = f"{2**64 - 1}-{2**64 - 1}"
_NEW_ID = "1795703287999-0"
_WRONG_NAME = "Must be 1 to 64 of A-Z a-z 0-9 _ -."
_MISSING = "Missing data for required field."
_WRONG_FORM = "the event has the wrong form"
HAS_ENDED = problem_document(409, f"run build-6 ended with event {ENDED_ID}", ended=True)
IS_NO_LOG = problem_document(409, "a key of the run in Redis is of another type")
_BROKEN = "is not JSON: unexpected end of data: line 1 column 9 (char 8)"
BROKEN_JSON = of_field(400, "body", _BROKEN)
IS_NO_RUN_ID = of_field(400, "run_id", "must be 1 to 128 of A-Z a-z 0-9 _ . - and not . or ..")


def _stored(run: Json, sequence: int, category: str, action: str, data: Any = None) -> Json:
    return {
        "id": _NEW_ID,
        **run,
        "sequence": sequence,
        "timestamp": "2026-11-26T14:28:07.999Z",
        "event": {"category": category, "action": action},
        "data": data,
        "source": None,
    }


_APPENDED = [schema("AppendedEvent"), schema("AppendedBatch")]

APPEND = Operation(
    _TAG,
    "Append events",
    "Append an event, an array of events, or a stream of lines. Of an array, all events are "
    "stored or none. Each line is stored when it arrives, and the answer comes when the body "
    "ends. Blank lines store nothing. `application/ndjson`, and other types that end with "
    "`+json`, are allowed too.",
    {
        201: Answer(
            "The event is stored, or all events of the array.",
            {JSON: {"anyOf": _APPENDED}},
            links=AFTER_APPEND,
        ),
        200: Answer(
            "The events had been stored before, with the same key; or the lines are stored.",
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
            answer=_stored(ACTIVE, 4, "tool", "called", {"tool": "search"}),
        ),
        Example(
            "expected",
            "The event with this sequence, and a lease",
            201,
            ACTIVE,
            {"expected_sequence": 4},
            body=_CALLED | {"lease_seconds": 60},
            answer=_stored(ACTIVE, 4, "tool", "called"),
        ),
        Example(
            "nested",
            "The form in which events are read",
            201,
            ACTIVE,
            body={"event": {"category": "tool", "action": "called"}, "data": "search"},
            answer=_stored(ACTIVE, 4, "tool", "called", "search"),
        ),
        Example(
            "batch",
            "An array of events",
            201,
            ACTIVE,
            body=[_CALLED, _CALLED | {"data": 42}],
            answer={
                "events": [
                    {"id": _NEW_ID, "sequence": 4},
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
            answer=_stored(WITH_KEYS, 1, "tool", "called"),
        ),
        Example(
            "lines",
            "Events as lines",
            200,
            ACTIVE,
            body=f"{_STREAM}\n{_STREAM}",
            body_type=LINES,
            answer={"stored": 2, "last_id": _NEW_ID, "last_sequence": 5},
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
                _WRONG_FORM,
                [
                    ("event_category", _WRONG_NAME),
                    ("event_action", _MISSING),
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
            problem_document(422, f"the idempotency key was used for event {_NEW_ID}"),
            WITH_KEYS,
            headers={"Idempotency-Key": "step-7"},
            body=_CALLED | {"data": "another"},
        ),
        refused(
            "wrong-line",
            "A line that is no event",
            problem_document(
                422,
                _WRONG_FORM,
                [("event_category", _MISSING), ("event_action", _MISSING)],
                line=2,
                stored=1,
                last_id=_NEW_ID,
                last_sequence=4,
            ),
            ACTIVE,
            body=f"{_STREAM}{{}}\n",
            body_type=LINES,
        ),
    ],
    query=AppendQuery(),
    headers=[IDEMPOTENCY_KEY],
    body={
        JSON: {"oneOf": [schema("NewEvent"), schema("NewEvents")]},
        LINES: array(schema("NewEvent")),
    },
)

REQUEST = Operation(
    _TAG,
    "Ask something of a run's producer",
    "Append the event `request.<action>` to the log of a run. Its producer reads it there.",
    {
        201: Answer("The request is stored.", {JSON: schema("AppendedEvent")}, links=AFTER_REQUEST),
        200: Answer(
            "It had been stored before, with the same key.",
            {JSON: schema("AppendedEvent")},
            REPLAYED,
        ),
        400: problem("A wrong run id or key; broken JSON; an incomplete body."),
        404: problem("The run has no log."),
        409: problem("The run has ended, or a key of the run in Redis holds something else."),
        422: problem("The body has the wrong form, or the key was used for other content."),
        **WRITING,
        **shared("Unavailable"),
    },
    [
        Example(
            "cancel",
            "Ask to stop",
            201,
            ACTIVE,
            body={"action": "cancel", "data": {"by": "ada"}},
            answer=_stored(ACTIVE, 4, "request", "cancel", {"by": "ada"}),
        ),
        Example(
            "repeat",
            "A repeat with the same key",
            200,
            WITH_KEYS,
            headers={"Idempotency-Key": "ask-1"},
            body={"action": "cancel"},
            answer=_stored(WITH_KEYS, 2, "request", "cancel"),
        ),
        refused(
            "wrong-key",
            "A key with one quote",
            of_field(400, "Idempotency-Key", "must have quotes on both sides, or on none"),
            ACTIVE,
            headers={"Idempotency-Key": '"ask-1'},
            body={"action": "cancel"},
        ),
        refused(
            "no-run",
            "A run without a log",
            problem_document(404, "run build-8 has no log"),
            NO_RUN,
            body={"action": "cancel"},
        ),
        refused("ended", "A run that has ended", HAS_ENDED, ENDED, body={"action": "cancel"}),
        refused(
            "wrong-form",
            "No action",
            problem_document(422, _WRONG_FORM, [("action", _MISSING)]),
            ACTIVE,
            body={"data": 1},
        ),
    ],
    headers=[IDEMPOTENCY_KEY],
    body={JSON: schema("NewRequest")},
)

DELETE = Operation(
    _TAG,
    "Delete a log",
    "Delete the log of a run, and its idempotency keys. Open streams of the run get "
    "`gateway.reset` within 5 seconds, and stay open.",
    {
        204: Answer(
            "There is no log any more, whether or not there was one.",
            links={"run": link("runs.show", "404 from now on.", run_id=RUN)},
        ),
        400: problem("A wrong run id."),
        409: problem("A key of the run in Redis holds something else. Nothing was deleted."),
        **READING,
    },
    [
        Example("log", "A log", 204, ACTIVE),
        Example("no-run", "A run without a log", 204, NO_RUN),
        refused("wrong-run", "A run id with a space", IS_NO_RUN_ID, WRONG_RUN),
        refused("no-log", "A key that holds a text", IS_NO_LOG, WITH_TEXT),
    ],
)

OPERATIONS = {"events.append": APPEND, "requests.add": REQUEST, "events.delete": DELETE}
