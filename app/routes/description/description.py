"""The description of the API (OpenAPI 3.1): `GET /openapi.json`."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, cast

import orjson
from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from apispec.ext.marshmallow.openapi import OpenAPIConverter
from flask import Blueprint, Flask, Response, current_app
from marshmallow.fields import Field
from werkzeug.routing import Rule

from ...server.common_headers import NO_STORE
from ...server.response import JsonResponse
from ..access.access import declares
from ..schemas import EventSchema, RequestSchema
from . import appending, reading, streams, tokens_and_health, writing
from .control_events import stream_schemas
from .documents import EVENT, RUN_ID_SCHEMA, SCHEMAS, new_event_schemas
from .operation import PROBLEM, Answer, Example, Json, Operation, operation_id, ref
from .shared_answers import COMMON_HEADERS, HEADERS, PROBLEM_SCHEMA, SHARED

# What is no part of the API, by the beginnings of the views' names: the pages for people, the
# JavaScript client, and what other frameworks speak.
PAGES = ("docs.", "ui.", "client_module.", "compat-")

# OpenAPI 3.1 knows no QUERY. Werkzeug answers HEAD and OPTIONS by itself.
_METHODS = ("GET", "PUT", "POST", "DELETE", "PATCH")

_OPERATIONS: Mapping[str, Operation] = {
    **appending.OPERATIONS,
    **writing.OPERATIONS,
    **streams.OPERATIONS,
    **reading.OPERATIONS,
    **tokens_and_health.OPERATIONS,
}

# Of a parameter that is no array.
_OF_PARAMETERS = ("name", "in", "required", "description", "schema")

_END = r"\Z"

_ABOUT = """\
A durable, resumable event stream for every run, over plain HTTP and Server-Sent Events.

- `HEAD` works wherever `GET` does. `OPTIONS` answers the methods of a path. OpenAPI 3.1 has no \
word for `QUERY`; where it works, the description of the `POST` says so.
- A path that is not listed is answered with 404, and a method that is not listed with 405 and \
`Allow`, both with a problem document.
- The gateway ignores query parameters that it does not know.
- A parameter that is given more than once is an error (400), unless it is an array or a cursor. \
Of cursors, the last one that is not empty counts.
- The schema of a body of lines is that of an array of them. The schema of a stream is that of \
one frame.
- Every answer has an `X-Request-Id`, and every problem document a `request_id`: that of the \
request, if it brings one of 1 to 128 safe characters.
- A page that CORS allows gets `Access-Control-Allow-Origin` and `Vary: Origin`.
- Examples of one name belong together: those of the parameters, of the body, and of the answer. \
An answer without a body names them as `x-examples`."""

# In the order in which they are shown.
_TAGS = {
    "Writing": "Append events, ask something of a producer, and delete a log.",
    "Streams": "Follow a run, or all runs, as Server-Sent Events or as lines.",
    "History": "Read what a log keeps.",
    "Runs": "Which runs there are, and their states.",
    "Tokens": "The sessions of browsers, and what is revoked.",
    "Health": "For those who restart the gateway, or lead traffic to it.",
    "Debugging": "What a worker is doing.",
    "Description": "What you are reading.",
}

blueprint = Blueprint("description", __name__)


@blueprint.get("/openapi.json")
@declares("open")
def read() -> Response:
    """Answer the description. It holds no secret."""
    description = cast("Description", current_app.extensions["tailrace.description"])
    return JsonResponse(description.json)


class Description:
    """What an app offers. It is made when it is first read."""

    def __init__(self, app: Flask, version: str, schemes: Mapping[str, Json]) -> None:
        """`schemes` are those by which requests bring tokens; none without authentication.

        Raises TypeError if a view is not described, or what is described is no view.
        """
        self._app, self._version, self._schemes = app, version, schemes
        views = {rule.endpoint for rule in app.url_map.iter_rules()}
        views = {view for view in views if not view.startswith(PAGES)}
        if views != _OPERATIONS.keys():
            names = ", ".join(sorted(views ^ _OPERATIONS.keys()))
            raise TypeError(f"these views are not described, or are no views: {names}")
        app.extensions["tailrace.description"] = self

    @cached_property
    def json(self) -> bytes:
        """The description as JSON."""
        return orjson.dumps(self._document())

    def _document(self) -> Json:
        plugin = MarshmallowPlugin()
        spec = APISpec(
            "Tailrace",
            self._version,
            "3.1.0",
            plugins=[plugin],
            info={"description": _ABOUT, "license": {"name": "MIT", "identifier": "MIT"}},
            # Relative, so that it holds behind a prefix too.
            servers=[{"url": "."}],
        )
        converter = cast(OpenAPIConverter, plugin.converter)
        converter.add_attribute_function(_as_json_schema)
        for name, about in _TAGS.items():
            spec.tag({"name": name, "description": about})
        self._add_components(spec, converter)
        for rule in sorted(self._app.url_map.iter_rules(), key=lambda rule: rule.rule):
            operation = _OPERATIONS.get(rule.endpoint)
            if operation is not None:
                path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
                described = self._operation(rule, operation, converter)
                methods = [each for each in _METHODS if each in (rule.methods or ())]
                spec.path(path, operations={method.lower(): described for method in methods})
        return spec.to_dict()

    def _add_components(self, spec: APISpec, converter: OpenAPIConverter) -> None:
        flat = converter.schema2jsonschema(EventSchema())
        schemas = {
            **SCHEMAS,
            **new_event_schemas(flat),
            "NewRequest": converter.schema2jsonschema(RequestSchema()),
            **stream_schemas(EVENT),
            "Problem": PROBLEM_SCHEMA,
        }
        for name, value in schemas.items():
            spec.components.schema(name, value)
        for name, value in HEADERS.items():
            spec.components.header(name, value)
        for name, value in self._schemes.items():
            spec.components.security_scheme(name, value)
        for name, shared in SHARED.items():
            example = Example(
                name, "For example", shared.status, answer=shared.example, answer_type=PROBLEM
            )
            spec.components.response(name, _response(shared.status, shared.answer, [example]))

    def _operation(self, rule: Rule, operation: Operation, converter: OpenAPIConverter) -> Json:
        view: Any = self._app.view_functions[rule.endpoint]
        described: Json = {
            "operationId": operation_id(rule.endpoint),
            "tags": [operation.tag],
            "summary": operation.summary,
            "description": operation.description,
            "parameters": list(_parameters(rule, operation, converter)),
            "responses": dict(_responses(operation)),
        }
        if operation.body:
            content = {
                kind: {"schema": value}
                | _examples(
                    (each, each.body)
                    for each in operation.examples
                    if each.body is not None and each.body_type == kind
                )
                for kind, value in operation.body.items()
            }
            described["requestBody"] = {"required": True, "content": content}
        if self._schemes:
            usual = () if view.action == "open" else self._schemes
            names = usual if operation.security is None else operation.security
            described["security"] = [{name: []} for name in names]
        return described


def _as_json_schema(self: Any, field: Field[Any], ret: Json, **options: Any) -> Json:
    """Complete what apispec has made of a field."""
    if ret.get("default") in (None, [], ()):  # it stands for a parameter that is not there
        ret.pop("default", None)
    if ret.get("type") == "string":
        ret.pop("items", None)  # of several values, one counts
    if "pattern" in ret:  # Python's patterns begin at the beginning, and end with \\Z
        return {"pattern": f"^{ret['pattern'].removesuffix(_END).strip('^$')}$"}
    return {}


def _parameters(rule: Rule, operation: Operation, converter: OpenAPIConverter) -> Iterator[Json]:
    for name in sorted(rule.arguments):
        described = {"name": name, "in": "path", "required": True, "schema": RUN_ID_SCHEMA}
        yield described | _given(operation, "path", name)
    if operation.query is not None:
        for parameter in converter.schema2parameters(operation.query, location="query"):
            _drop_null(parameter["schema"])
            if parameter["schema"]["type"] != "array":
                parameter = {name: parameter[name] for name in _OF_PARAMETERS}
            yield parameter | _given(operation, "query", parameter["name"])
    for parameter in operation.headers:
        yield parameter | _given(operation, "headers", parameter["name"])


def _drop_null(json_schema: Json) -> None:
    """Change the schema of a parameter: one that is absent is None for marshmallow, not null."""
    if isinstance(json_schema["type"], list):
        json_schema["type"] = json_schema["type"][0]
    if "enum" in json_schema:
        json_schema["enum"] = [value for value in json_schema["enum"] if value is not None]


def _given(operation: Operation, place: str, name: str) -> Json:
    """Return the examples of a parameter in a place: `path`, `query` or `headers`."""
    given = ((each, getattr(each, place)) for each in operation.examples)
    return _examples((each, values[name]) for each, values in given if name in values)


def _examples(values: Iterable[tuple[Example, Any]]) -> Json:
    shown = {each.name: {"summary": each.summary, "value": value} for each, value in values}
    return {"examples": shown} if shown else {}


def _responses(operation: Operation) -> Iterator[tuple[str, Json]]:
    for status, answer in sorted(operation.answers.items()):
        if isinstance(answer, str):
            yield str(status), ref("responses", answer)
        else:
            of_status = [each for each in operation.examples if each.status == status]
            yield str(status), _response(status, answer, of_status)


def _response(status: int, answer: Answer, examples: Sequence[Example]) -> Json:
    names = (*COMMON_HEADERS, NO_STORE[0])
    described: Json = {
        "description": answer.description,
        "headers": {name: ref("headers", name) for name in names} | dict(answer.headers),
    }
    content = {
        kind: {"schema": _with_status(status, value) if kind == PROBLEM else value}
        | _examples((each, each.answer) for each in examples if each.answer_type == kind)
        for kind, value in answer.content.items()
    }
    if content:
        described["content"] = content
    elif examples:
        # An answer without a body has no place for them.
        described["x-examples"] = [each.name for each in examples]
    if answer.links:
        described["links"] = dict(answer.links)
    return described


def _with_status(status: int, problem: Json) -> Json:
    return {"allOf": [problem, {"properties": {"status": {"const": status}}}]}
