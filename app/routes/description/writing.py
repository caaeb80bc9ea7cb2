"""What is described of requests to a producer, and of deleting a log."""

from .example_runs import (
    ACTIVE,
    ENDED,
    HAS_ENDED,
    HAS_NO_LOG,
    IS_NO_LOG,
    IS_NO_RUN_ID,
    NO_RUN,
    TRACED,
    WITH_KEYS,
    WITH_TEXT,
    WRONG_RUN,
    new_event,
)
from .operation import JSON, Answer, Example, Operation, schema
from .parameters import AFTER_REQUEST, IDEMPOTENCY_KEY, REPLAYED, RUN, TRACEPARENT, link
from .shared_answers import (
    MISSING,
    READING,
    WRITING,
    WRONG_FORM,
    of_field,
    problem,
    problem_document,
    refused,
)

_TAG = "Writing"

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
    },
    [
        Example(
            "cancel",
            "Ask to stop",
            201,
            ACTIVE,
            body={"action": "cancel", "data": {"by": "ada"}},
            answer=new_event(ACTIVE, 4, "request.cancel", {"by": "ada"}),
        ),
        Example(
            "traced",
            "With the trace of the caller",
            201,
            ACTIVE,
            headers={"traceparent": TRACED},
            body={"action": "cancel"},
            answer=new_event(ACTIVE, 4, "request.cancel") | {"traceparent": TRACED},
        ),
        Example(
            "repeat",
            "A repeat with the same key",
            200,
            WITH_KEYS,
            headers={"Idempotency-Key": "ask-1"},
            body={"action": "cancel"},
            answer=new_event(WITH_KEYS, 2, "request.cancel"),
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
            HAS_NO_LOG,
            NO_RUN,
            body={"action": "cancel"},
        ),
        refused("ended", "A run that has ended", HAS_ENDED, ENDED, body={"action": "cancel"}),
        refused(
            "wrong-form",
            "No action",
            problem_document(422, WRONG_FORM, [("action", MISSING)]),
            ACTIVE,
            body={"data": 1},
        ),
    ],
    headers=[IDEMPOTENCY_KEY, TRACEPARENT],
    body={JSON: schema("NewRequest")},
)

DELETE = Operation(
    _TAG,
    "Delete a log",
    "Delete the log of a run, and its idempotency keys; before that, what the archive has of it. "
    "Open streams of the run get `gateway.reset` within 5 seconds, and stay open.",
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

OPERATIONS = {"requests.add": REQUEST, "events.delete": DELETE}
