"""What is described of tokens, of health checks, and of the description itself."""

from .operation import JSON, Answer, Example, Operation, schema
from .shared_answers import (
    BROKEN_JSON,
    EVERYWHERE,
    GUARDED,
    of_field,
    problem,
    problem_document,
    refused,
    shared,
)

_TOKENS, _HEALTH, _DESCRIPTION = "Tokens", "Health", "Description"
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
    "health.readyz": READY,
    "metrics.metrics": METRICS,
    "description.read": DESCRIPTION,
}
