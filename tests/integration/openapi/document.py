"""The description as tests read it: its operations, their examples, and whether an answer fits."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

import jsonschema
import requests

from app import create_app
from app.settings import Settings
from tests.integration.openapi.conftest import SECRET

EVENT_STREAM, LINES = "text/event-stream", "application/x-ndjson"
JSON, PROBLEM = "application/json", "application/problem+json"

# Made by the server, or by the browser's question for CORS.
OF_SERVER = {"server", "date", "connection", "content-type", "content-length", "transfer-encoding"}

DOCUMENT = json.loads(
    create_app(Settings(auth_secret=(SECRET,))).extensions["tailrace.description"].json
)


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: str


class Request(NamedTuple):
    """A request as an example describes it. A body that is no text is JSON."""

    path: str
    query: dict[str, Any]
    headers: dict[str, str]
    body: str | None

    def send(self, url: str, method: str, frames: int = 0) -> Answer:
        """Send it; of an answer that is a stream, read so many frames or lines."""
        query = {name: text_of(value) for name, value in self.query.items()}
        answer = requests.request(
            method,
            f"{url}{self.path}",
            params=query,
            headers=self.headers,
            data=self.body,
            stream=True,
            timeout=20,
        )
        with answer:
            body = read_frames(answer, frames) if frames else answer.text
        return Answer(answer.status_code, answer.headers, body)


def text_of(value: Any) -> Any:
    """Return a value of a query as it is sent."""
    return str(value).lower() if isinstance(value, bool) else value


def read_frames(answer: requests.Response, frames: int) -> str:
    """Return the beginning of a stream, which may have no end."""
    body, end = "", "\n\n" if answer.headers["Content-Type"].startswith(EVENT_STREAM) else "\n"
    for piece in answer.iter_content(None):
        body += piece.decode()
        if body.count(end) >= frames:
            break
    return end.join([*body.split(end)[:frames], ""])


class Operation(NamedTuple):
    """One operation of the document."""

    path: str
    method: str
    described: dict[str, Any]

    @property
    def name(self) -> str:
        return self.described["operationId"]

    @property
    def is_open(self) -> bool:
        return not self.described["security"]

    def responses(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for status, response in self.described["responses"].items():
            yield int(status), resolved(response)

    def shared(self) -> Iterator[str]:
        """Yield the names of the answers that it shares with others."""
        for response in self.described["responses"].values():
            if "$ref" in response:
                yield response["$ref"].rpartition("/")[2]

    def examples(self) -> Iterator["Example"]:
        """Yield the examples of the answers that are its own."""
        for status, response in self.described["responses"].items():
            if "$ref" in response:
                continue
            for name in response.get("x-examples", ()):
                yield Example(self, name, int(status), None, None)
            for kind, media in response.get("content", {}).items():
                for name, example in media.get("examples", {}).items():
                    yield Example(self, name, int(status), kind, example["value"])

    def request(self, name: str) -> Request:
        """Return the request of the examples of a name."""
        path, query, headers, body = self.path, {}, {}, None
        for parameter in self.described["parameters"]:
            example = parameter.get("examples", {}).get(name)
            if example is None:
                continue
            if parameter["in"] == "path":
                path = path.replace(f"{{{parameter['name']}}}", quote(example["value"], safe=""))
            elif parameter["in"] == "query":
                query[parameter["name"]] = example["value"]
            else:
                headers[parameter["name"]] = example["value"]
        for kind, media in self.described.get("requestBody", {}).get("content", {}).items():
            if name in media.get("examples", {}):
                value = media["examples"][name]["value"]
                body = value if isinstance(value, str) else json.dumps(value)
                headers["Content-Type"] = kind
        assert "{" not in path, f"{self.name} has no whole example {name}"
        return Request(path, query, headers, body)

    def usual_request(self) -> Request:
        """Return a request that is answered with success."""
        name = next((each.name for each in self.examples() if each.status < 300), "")
        return self.request(name)


class Example(NamedTuple):
    """An example of an answer: its media type and its body, None for an empty one."""

    operation: Operation
    name: str
    status: int
    kind: str | None
    value: Any

    @property
    def id(self) -> str:
        return f"{self.operation.name} {self.name}"

    @property
    def text(self) -> str:
        if self.value is None:
            return ""
        return self.value if isinstance(self.value, str) else json.dumps(self.value)

    @property
    def frames(self) -> int:
        """How many frames or lines the answer has, if it is a stream."""
        if not self.operation.path.endswith("/stream"):
            return 0
        return {EVENT_STREAM: self.text.count("\n\n"), LINES: self.text.count("\n")}.get(
            self.kind or "", 0
        )


OPERATIONS = [
    Operation(path, method.upper(), described)
    for path, methods in DOCUMENT["paths"].items()
    for method, described in methods.items()
]
EXAMPLES = [example for operation in OPERATIONS for example in operation.examples()]


def resolved(value: dict[str, Any]) -> dict[str, Any]:
    """Return what a reference leads to, or the value itself."""
    if "$ref" not in value:
        return value
    found = DOCUMENT
    for name in value["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return found


def check_fits(operation: Operation, answer: Answer, method: str) -> None:
    """Raise AssertionError unless an answer is as the document describes it."""
    described = dict(operation.responses())
    assert answer.status in described, f"{answer.status} is not described: {answer.body}"
    response = described[answer.status]
    check_headers(response, answer)
    content = response.get("content", {})
    if not content:
        assert answer.body == ""
        assert "Content-Type" not in answer.headers
        return
    kind = answer.headers["Content-Type"].partition(";")[0]
    assert kind in content
    if method != "HEAD":
        check_body(kind, content[kind]["schema"], answer.body)


def check_headers(response: dict[str, Any], answer: Answer) -> None:
    headers = {name.lower(): resolved(each) for name, each in response["headers"].items()}
    sent = {name.lower(): value for name, value in answer.headers.items()}
    assert sent.keys() - OF_SERVER <= headers.keys()
    assert {name for name, each in headers.items() if each.get("required")} <= sent.keys()
    for name in headers.keys() & sent.keys():
        is_number = headers[name]["schema"].get("type") == "integer"
        check_schema(headers[name]["schema"], int(sent[name]) if is_number else sent[name])


def check_body(kind: str, schema: dict[str, Any], body: str) -> None:
    if kind == EVENT_STREAM:
        for frame in map(frame_of, body.split("\n\n")[:-1]):
            check_schema(schema, frame)
            contents = resolved(schema)["properties"]["data"]["contentSchema"]
            check_schema(contents, json.loads(frame["data"]))
    elif kind == LINES:
        check_schema(schema, [json.loads(line) for line in body.splitlines()])
    else:
        check_schema(schema, json.loads(body))


def frame_of(text: str) -> dict[str, Any]:
    lines = (line.partition(": ") for line in text.split("\n"))
    fields: dict[str, Any] = {name: value for name, _, value in lines if name}
    return fields | ({"retry": int(fields["retry"])} if "retry" in fields else {})


def check_schema(schema: dict[str, Any], value: Any) -> None:
    """Raise ValidationError unless a value fits a schema of the document."""
    whole = {**schema, "components": DOCUMENT["components"]}
    jsonschema.Draft202012Validator(whole).validate(value)
