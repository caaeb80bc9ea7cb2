"""What is described of tokens, of health checks, and of the description itself."""

from typing import Any

from ..schemas import FeedsQuery, StreamsQuery
from .documents import array, number, text, time, whole
from .operation import JSON, Answer, Example, Json, Operation, schema
from .shared_answers import (
    BROKEN_JSON,
    EVERYWHERE,
    GUARDED,
    of_field,
    problem,
    problem_document,
    refused,
    shared,
    wrong_parameter,
)

_TOKENS, _HEALTH, _DESCRIPTION = "Tokens", "Health", "Description"
_DEBUGGING = "Debugging"

WORKER_OF_EXAMPLES = {"pid": 4711, "workers": 1}
_TEXT = "text/plain"

_COOKIE = {
    "Set-Cookie": {
        "description": "The cookie `__Host-tailrace`, or `tailrace` by HTTP on loopback.",
        "required": True,
        "schema": {"type": "string", "pattern": "^(__Host-)?tailrace="},
    }
}

SESSION = Operation(
    _TOKENS,
    "Begin the session of a browser",
    "Set a cookie that no page can read from the bearer token of the request.",
    {
        200: Answer("The cookie is set.", {JSON: schema("Session")}, _COOKIE),
        422: problem("The token has no room in a cookie (4,096 bytes)."),
        **GUARDED,
        **shared("TooMuch", "Unavailable", "NoAuthentication"),
        403: problem("An API key makes no session."),
    },
    [
        Example("session", "A token for an hour", 200, answer={"expires_in": 3599}),
    ],
    security=["bearer"],
)

END_OF_SESSION = Operation(
    _TOKENS,
    "End the session of a browser",
    "Clear the cookie. Only a page of the gateway's own origin may do that, or of one in "
    "`CORS_ORIGINS`.",
    {
        204: Answer("The cookie is cleared.", {}, _COOKIE),
        403: problem("A page of another origin has sent the request."),
        **EVERYWHERE,
        **shared("WrongHost", "NoAuthentication"),
    },
    [
        Example(
            "end", "From a page of the gateway", 204, headers={"Sec-Fetch-Site": "same-origin"}
        ),
        refused(
            "other-page",
            "From a page of another site",
            problem_document(403, "a page of another origin may not do this with the cookie"),
            {},
            headers={"Sec-Fetch-Site": "cross-site"},
        ),
    ],
    headers=[
        {
            "name": "Sec-Fetch-Site",
            "in": "header",
            "description": "A browser sends it. Without it, `Origin` counts.",
            "schema": {"type": "string"},
        }
    ],
)

REVOKE = Operation(
    _TOKENS,
    "Revoke tokens",
    "Refuse a token from now on, or all tokens of a subject that were issued before a time. "
    "Their streams end within a second. The type of the body does not count.",
    {
        204: Answer("Such tokens are refused."),
        400: problem("Broken JSON, or an incomplete body."),
        422: problem("The body has the wrong form."),
        **GUARDED,
        **shared("TooSlow", "TooLarge", "TooMuch", "Unavailable"),
        **shared("NoAuthentication"),
    },
    [
        Example("token", "One token", 204, body={"jti": "token-17"}),
        Example(
            "subject",
            "All older tokens of a subject",
            204,
            body={"sub": "ada", "before": 1795703286},
        ),
        refused("broken", "Broken JSON", BROKEN_JSON, {}, body='{"jti" :'),
        refused(
            "wrong-form",
            "Neither a token nor a subject",
            of_field(422, "body", "must have either jti or sub; before goes with sub"),
            {},
            body={"before": 1795703286},
        ),
    ],
    body={JSON: schema("Revocation")},
)

ALIVE = Operation(
    _HEALTH,
    "Ask whether the process lives",
    "Nothing else is checked. Use it to decide on a restart.",
    {200: Answer("The process lives.", {JSON: schema("Alive")}), **EVERYWHERE},
    [Example("alive", "It lives", 200, answer={"status": "ok"})],
)

LIVES = Operation(
    _HEALTH,
    "Ask whether all workers live",
    "Any worker answers for all of them. Use it to decide on a restart.",
    {
        200: Answer("All workers live.", {JSON: schema("Alive")}),
        503: problem("The loop of a worker has stood still for 30 seconds.", "Retry-After"),
        **EVERYWHERE,
    },
    [Example("alive", "They live", 200, answer={"status": "ok"})],
)

READY = Operation(
    _HEALTH,
    "Ask whether the gateway can serve",
    "Redis answers, accepts writes and allows what Tailrace needs, and the worker is not about to "
    "stop. Use it to decide on traffic. Warnings do not change the status.",
    {
        200: Answer("The gateway can serve.", {JSON: schema("Ready")}),
        **EVERYWHERE,
        **shared("Unavailable"),
    },
    [Example("ready", "It can", 200, answer={"status": "ready"})],
)

_WORKER = whole(
    pid=number("The process that answers."),
    workers=number("How many workers the gateway has. Others answer for themselves.", minimum=1),
)
_ANY_TEXT = text("", null=True)


def _page(name: str, following: Json, **members: Any) -> Json:
    return whole(
        worker=_WORKER,
        **{name: array(whole(**members))},
        next=following | {"description": "Send it as `after` to get the next page."},
        total=number("How many there are."),
    )


_STREAMS_PAGE = _page(
    "streams",
    number("", null=True),
    number=number("Counts up.", minimum=1),
    kind={"enum": ["stream", "ingest", "long poll", "history"]},
    runs=array({"type": "string"}) | {"description": "At most 10 of them."},
    run_count=number("How many runs it follows.", minimum=1),
    client=text("The address of the client."),
    request_id=text("The id of the request."),
    account=text("Whose the token is; null without one.", null=True),
    user_agent=text("The client's program."),
    opened_at=time("When it was opened."),
    state=text("`new`, `writing`, `parked` (nothing to send), `iterated`, `waiting`, `reading`…"),
    ending=text("Why it is about to end; null while it goes on.", null=True),
    cursor=text("Up to where events were sent, or stored.", null=True),
    lag_events=number("How many events it is behind what this worker has read.", null=True),
    lag_seconds={"type": ["number", "null"], "description": "The time between the two."},
    lines=number("The lines of an ingest.", null=True),
    events=number("The events that were sent, or stored."),
    bytes=number("The bytes that were sent, or received."),
    unsent_bytes=number("The bytes that wait for the client."),
    format=text("The content type.", null=True),
    categories=array({"type": "string"}),
    actions=array({"type": "string"}),
)

_FEEDS_PAGE = _page(
    "feeds",
    _ANY_TEXT,
    run=text("The run."),
    reader=number("The reader of the worker that it belongs to."),
    position=text("Up to where the log was read.", null=True),
    sequence=number("The sequence there.", null=True),
    ended={"type": "boolean", "description": "Whether the run has ended."},
    last_event_at=text("When the last event was appended.", null=True),
    viewers={
        "description": "Those who follow this run alone, by what they get.",
        "type": "object",
        "additionalProperties": number("How many."),
    },
    merged=number("Those who follow it with other runs."),
    recent_bytes=number("The bytes of the newest events, kept for those a little behind."),
    history_pages=number("The pages of older events that are kept."),
    history_bytes=number("About how much memory these take."),
)

_OF_WORKER = (
    "It is about the worker that answers, which `worker` names; ask over new connections until "
    "you have all of them. Without authentication only programs on the same machine may ask, and "
    "nobody with `ALLOW_ANONYMOUS`."
)
_DEBUG: dict[int, Answer | str] = {
    400: problem("A wrong query parameter."),
    **GUARDED,
    **shared("TooMuch", "Unavailable"),
}
_WRONG_LIMIT = wrong_parameter("limit", "Must be a whole number from 1 to 1000.")

STREAMS = Operation(
    _DEBUGGING,
    "Look at the open streams",
    f"Who follows what, and how far behind; and the requests of lines. {_OF_WORKER}",
    {200: Answer("A page, the oldest first.", {JSON: _STREAMS_PAGE}), **_DEBUG},
    [
        Example(
            "none",
            "No such stream",
            200,
            query={"run": "build-8", "after": 0, "limit": 10},
            answer={"worker": WORKER_OF_EXAMPLES, "streams": [], "next": None, "total": 0},
        ),
        refused("wrong-limit", "A wrong limit", _WRONG_LIMIT, {}, query={"limit": 0}),
    ],
    query=StreamsQuery(),
)

FEEDS = Operation(
    _DEBUGGING,
    "Look at the feeds",
    f"The runs that the worker reads for its streams. {_OF_WORKER}",
    {200: Answer("A page, by the ids of the runs.", {JSON: _FEEDS_PAGE}), **_DEBUG},
    [
        Example(
            "none",
            "None after the last one",
            200,
            query={"after": "~", "limit": 10},
            answer={"worker": WORKER_OF_EXAMPLES, "feeds": [], "next": None, "total": 0},
        ),
        refused("wrong-limit", "A wrong limit", _WRONG_LIMIT, {}, query={"limit": 0}),
    ],
    query=FeedsQuery(),
)

METRICS = Operation(
    _HEALTH,
    "Read the metrics",
    "They are those of all workers, whichever answers. On `METRICS_PORT` nothing is needed. Else "
    "bring `METRICS_TOKEN`, or with authentication a token or key that grants `admin`.",
    {
        200: Answer(
            "The metrics, in the format of Prometheus, or of OpenMetrics if it is asked for.",
            {_TEXT: {"type": "string"}, "application/openmetrics-text": {"type": "string"}},
        ),
        **EVERYWHERE,
        **shared("NotAuthenticated", "NotPermitted", "TooMuch", "Unavailable"),
    },
    [],
    security=["bearer"],
)

DESCRIPTION = Operation(
    _DESCRIPTION,
    "Read this description",
    "It is made from the views and the schemas of their requests.",
    {
        200: Answer(
            "The description (OpenAPI 3.1).",
            {JSON: {"type": "object", "required": ["openapi", "info", "paths", "components"]}},
        ),
        **EVERYWHERE,
        **shared("WrongHost"),
    },
    [],
)

OPERATIONS = {
    "session.begin": SESSION,
    "session.end": END_OF_SESSION,
    "revocations.revoke": REVOKE,
    "health.healthz": ALIVE,
    "health.livez": LIVES,
    "health.readyz": READY,
    "debug.streams": STREAMS,
    "debug.feeds": FEEDS,
    "metrics.metrics": METRICS,
    "description.read": DESCRIPTION,
}
