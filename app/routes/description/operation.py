"""What is described of one operation: its requests, its answers, and examples of both."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from marshmallow import Schema

JSON, LINES, EVENT_STREAM = "application/json", "application/x-ndjson", "text/event-stream"
PROBLEM = "application/problem+json"

# JSON of OpenAPI or JSON Schema.
Json = dict[str, Any]


class Answer(NamedTuple):
    """An answer: what it means, its bodies by media type, and its own headers and links."""

    description: str
    content: Mapping[str, Json] = {}
    headers: Mapping[str, Json] = {}
    links: Mapping[str, Json] = {}


@dataclass(frozen=True)
class Example:
    """A request and its answer, which the document shows under one name.

    `path`, `query` and `headers` are the parameters. A body that is no text is sent as JSON. Tests
    send the request to a gateway that holds the runs of tests/integration/openapi/runs.py.
    """

    name: str
    summary: str
    status: int
    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    body_type: str = JSON
    answer: Any = None
    answer_type: str = JSON


@dataclass(frozen=True)
class Operation:
    """One operation. Its path, its method and its path parameters are those of the view's rule.

    Attributes:
        tag: the group in which the document shows it.
        query: the schema of the query.
        headers: the parameters that are headers.
        body: the bodies that it takes, by media type.
        answers: by status. A name stands for one of the answers that operations share.
        security: the names of the schemes that it takes, if they are not those of its action.
    """

    tag: str
    summary: str
    description: str
    answers: Mapping[int, Answer | str]
    examples: Sequence[Example]
    query: Schema | None = None
    headers: Sequence[Json] = ()
    body: Mapping[str, Json] = field(default_factory=dict)
    security: Sequence[str] | None = None


def operation_id(endpoint: str) -> str:
    """Return the id of the operation of a view: `eventsAppend` of `events.append`."""
    first, *others = re.split(r"[._]", endpoint)
    return first + "".join(map(str.capitalize, others))


def ref(kind: str, name: str) -> Json:
    """Return a reference to a component."""
    return {"$ref": f"#/components/{kind}/{name}"}


def schema(name: str) -> Json:
    """Return a reference to a schema."""
    return ref("schemas", name)
