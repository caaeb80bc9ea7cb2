"""Problem documents, and the answers and headers that many operations share."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from werkzeug.http import HTTP_STATUS_CODES

from ...server.common_headers import NO_STORE, SECURITY_HEADERS
from ...server.request_ids import MAX_LENGTH, SAFE
from .documents import array, event_id, number, text, whole
from .operation import PROBLEM, Answer, Example, Json, ref, schema

_ERROR = whole(
    field=text("The name of the field, parameter or header."), detail=text("What is wrong.")
)

PROBLEM_SCHEMA: Json = {
    "description": "A problem document (RFC 9457). Some statuses have further members.",
    "type": "object",
    "required": ["type", "title", "status", "detail", "request_id"],
    "properties": {
        "type": {"const": "about:blank"},
        "title": text("The name of the status."),
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": text("What is wrong, for people."),
        "request_id": text("The id of the request, as in `X-Request-Id` and in the log."),
        "errors": array(_ERROR) | {"description": "The fields that are wrong."},
        "ended": {"const": True, "description": "409: the run has ended."},
        "full": {"const": True, "description": "409: the log takes no more events."},
        "last_sequence": number(
            "409: the last sequence of the run, which `expected_sequence` did not fit. Of an "
            "append of lines: the sequence of the last stored event.",
            null=True,
        ),
        "stored": {
            "description": "429 and 503 of an append: whether its events are in the log. Of an "
            "append of lines, with every status: how many events this request stored.",
            "anyOf": [{"const": False}, {"const": "unknown"}, {"type": "integer", "minimum": 0}],
        },
        "line": number("Append of lines: the first line that was not stored.", minimum=1),
        "last_id": event_id("Append of lines: the id of the last stored event.", null=True),
        "unknown": number("Append of lines: how many more events may be stored.", minimum=1),
    },
    "additionalProperties": False,
}


def _fixed(name: str, value: str) -> Json:
    return {"description": name, "required": True, "schema": {"type": "string", "const": value}}


REQUEST_ID = f"^{SAFE}{{1,{MAX_LENGTH}}}$"

# Every answer has them.
COMMON_HEADERS: dict[str, Json] = {
    **{name: _fixed(name, value) for name, value in SECURITY_HEADERS},
    "X-Request-Id": {
        "description": "The id of the request: the client's own, or a new one.",
        "required": True,
        "schema": {"type": "string", "pattern": REQUEST_ID},
    },
}
NO_STORE_HEADER = _fixed(*NO_STORE)

HEADERS: dict[str, Json] = {
    **COMMON_HEADERS,
    NO_STORE[0]: NO_STORE_HEADER,
    "Retry-After": {
        "description": "After how many seconds to repeat the request.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    },
    "WWW-Authenticate": {
        "description": "The scheme, and what is wrong with the token (RFC 6750).",
        "required": True,
        "schema": {"type": "string", "pattern": '^Bearer realm="tailrace"'},
    },
    "WWW-Authenticate-Scope": {
        "description": "The action that the token does not grant (RFC 6750).",
        "schema": {"type": "string", "pattern": '^Bearer realm="tailrace"'},
    },
}


def problem(description: str, *headers: str) -> Answer:
    """Return an answer with a problem document, and with some of the shared headers."""
    shown = {name.removesuffix("-Scope"): ref("headers", name) for name in headers}
    return Answer(description, {PROBLEM: schema("Problem")}, shown)


REQUEST_ID_OF_EXAMPLES = "5f3a9c02d1b4-17"


def problem_document(
    status: int, detail: str, errors: Sequence[tuple[str, str]] = (), **members: Any
) -> Json:
    """Return a problem document as the gateway answers it."""
    title = HTTP_STATUS_CODES[status]
    document = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    document["request_id"] = REQUEST_ID_OF_EXAMPLES
    named = [{"field": name, "detail": why} for name, why in errors]
    return document | members | ({"errors": named} if named else {})


def of_field(status: int, name: str, detail: str) -> Json:
    """Return the problem document for one wrong field."""
    return problem_document(status, f"{name}: {detail}", [(name, detail)])


def wrong_parameter(name: str, detail: str) -> Json:
    """Return the problem document for one wrong parameter of a query."""
    return problem_document(400, "the query has wrong parameters", [(name, detail)])


def refused(
    name: str, summary: str, document: Json, path: Mapping[str, str], **request: Any
) -> Example:
    """Return an example of a request that is answered with a problem document."""
    return Example(
        name,
        summary,
        document["status"],
        path,
        **request,
        answer=document,
        answer_type=PROBLEM,
    )


MISSING, WRONG_FORM = "Missing data for required field.", "the event has the wrong form"
BROKEN_JSON = of_field(400, "body", "is not JSON: unexpected end of data: line 1 column 9 (char 8)")


class Shared(NamedTuple):
    """An answer that many operations have: its status, itself, and an example of its body."""

    status: int
    answer: Answer
    example: Json


def _shared(example: Json, description: str, *headers: str) -> Shared:
    return Shared(example["status"], problem(description, *headers), example)


SHARED: Mapping[str, Shared] = {
    "NotAuthenticated": _shared(
        problem_document(401, "a bearer token or an API key is needed"),
        "No token or key came, or it is not accepted.",
        "WWW-Authenticate",
    ),
    "NotPermitted": _shared(
        problem_document(403, "the token does not grant read here"),
        "The token or key does not grant this, whether or not the run exists; or a page of "
        "another origin sent the cookie.",
        "WWW-Authenticate-Scope",
    ),
    "NoAuthentication": _shared(
        problem_document(404, "there is no such path"), "The gateway has no authentication."
    ),
    "TooSlow": _shared(
        of_field(408, "body", "must arrive within 30.0 s"),
        "The body, or a line that has begun, did not arrive within 30 seconds.",
    ),
    "TooLarge": _shared(
        of_field(413, "body", "must be at most 4194304 bytes"),
        "The event, the body or a line is too large.",
    ),
    "URITooLong": _shared(
        problem_document(414, "the request line is too long", title="URI Too Long"),
        "The request line is too long.",
    ),
    "WrongType": _shared(
        of_field(
            415,
            "Content-Type",
            "must be application/json, application/x-ndjson or text/event-stream",
        ),
        "The body has another type than those listed, or it is compressed.",
    ),
    "WrongHost": _shared(
        of_field(421, "Host", "is not a name of this gateway: see ALLOWED_HOSTS"),
        "The header `Host` names another host: see `ALLOWED_HOSTS`.",
    ),
    "TooMuch": _shared(
        problem_document(429, "too many tokens or keys of this address were not accepted"),
        "The bearer, or its address, has done too much of something.",
        "Retry-After",
    ),
    "TooBusy": _shared(
        problem_document(429, "too many bytes are waiting to be stored", stored=False),
        "The worker has as much as it can hold, or the bearer has done too much of something. "
        "Nothing was stored.",
        "Retry-After",
    ),
    "HeadersTooLarge": _shared(
        problem_document(431, "the headers are too large, or too many"),
        "The headers are too large, or too many.",
    ),
    "UnexpectedError": _shared(
        problem_document(500, "an unexpected error; the gateway's log has the details"),
        "An unexpected error in the gateway.",
    ),
    "Unavailable": _shared(
        problem_document(503, "Redis cannot serve now"),
        "Redis or the archive cannot serve, the worker is about to stop, or keys or revocations "
        "were not read yet.",
        "Retry-After",
    ),
    "NotStored": _shared(
        problem_document(503, "Redis cannot serve now", stored=False),
        "Redis cannot serve, or the worker is about to stop. `stored` says what is known.",
        "Retry-After",
    ),
    "NoPlace": _shared(
        problem_document(503, "too many streams, or the worker is about to stop"),
        "The worker has too many streams, or is about to stop. If `Accept` names "
        "`text/event-stream`, the answer is 200 and a stream that ends at once, because a "
        "browser never reconnects after an error.",
        "Retry-After",
    ),
}


def shared(*names: str) -> dict[int, Answer | str]:
    """Return the answers of these names, by status."""
    return {SHARED[name].status: name for name in names}


# What gunicorn refuses by itself, and what may go wrong anywhere.
EVERYWHERE = shared("URITooLong", "HeadersTooLarge", "UnexpectedError")
GUARDED = EVERYWHERE | shared("NotAuthenticated", "NotPermitted", "WrongHost")
READING = GUARDED | shared("TooMuch", "Unavailable")
WRITING = GUARDED | shared("TooSlow", "TooLarge", "WrongType", "TooBusy", "NotStored")
