"""Every example of the description: its request is sent, and its answer compared."""

import json
import re

import pytest
import requests

from tests.integration.openapi.conftest import token
from tests.integration.openapi.document import (
    DOCUMENT,
    EXAMPLES,
    JSON,
    OPERATIONS,
    PROBLEM,
    Example,
    Request,
    check_fits,
)
from tests.integration.openapi.runs import Runs


@pytest.fixture(scope="module")
def runs(server) -> Runs:
    return Runs(server.url)


@pytest.fixture
def request_of(runs):
    """Return a function that returns the request of an example, with a token and real ids."""

    def make(example: Example) -> Request:
        path, query, headers, body = example.operation.request(example.name)
        runs.renew(full="full-1" in path)
        query = json.loads(runs.with_real_ids(json.dumps(query)))
        headers = {name: runs.with_real_ids(value) for name, value in headers.items()}
        body = None if body is None else runs.with_real_ids(body)
        if not example.operation.is_open:
            seconds = 20 if example.name == "expiring" else 3600
            headers["Authorization"] = f"Bearer {token(seconds, admin=['*'])}"
        if example.status < 300 and example.kind:
            headers["Accept"] = example.kind
        return Request(path, query, headers, body)

    return make


def canonical(example: Example, text: str) -> str:
    """Return an answer without what is that of its request, or of its process."""
    if example.kind == PROBLEM:
        return json.dumps(json.loads(text) | {"request_id": "a-1"})
    if example.operation.path.startswith("/debug/"):
        return json.dumps(json.loads(text) | {"worker": None, "total": 0})
    return json.dumps(json.loads(text)) if example.kind == JSON else text


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda each: each.id)
def test_an_example_is_answered_as_the_document_shows(guarded, runs, request_of, example):
    method = example.operation.method
    answer = request_of(example).send(guarded.url, method, example.frames)
    check_fits(example.operation, answer, method)
    assert answer.status == example.status, answer.body
    assert example.kind in (None, answer.headers.get("Content-Type", "").partition(";")[0])
    # A change of a run may get the id that the event has in the log of the run.
    ids = example.operation.path != "/runs/stream"
    got, shown = (canonical(example, text) for text in (answer.body, example.text))
    assert runs.as_shown(got, ids=ids) == runs.as_shown(shown, ids=ids)


@pytest.mark.parametrize(
    "example",
    [each for each in EXAMPLES if each.operation.method == "GET"],
    ids=lambda each: each.id,
)
def test_head_is_answered_as_get_is_without_a_body(guarded, request_of, example):
    answer = request_of(example).send(guarded.url, "HEAD")
    check_fits(example.operation, answer, "HEAD")
    assert (answer.status, answer.body) == (example.status, "")


def test_a_gateway_answers_the_document(guarded):
    answer = requests.get(f"{guarded.url}/openapi.json")
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json() == DOCUMENT


def test_every_status_has_an_example():
    """Those that operations share have theirs in the components: see test_shared_answers."""
    without = {
        (operation.name, status)
        for operation in OPERATIONS
        for status, response in operation.described["responses"].items()
        if "$ref" not in response
        and not any(each.status == int(status) for each in operation.examples())
    }
    # The document itself, a worker that hangs, and what is long. The others need another credential
    # than the examples have: test_shared_answers sends them.
    assert without == {
        ("descriptionRead", "200"),
        ("healthLivez", "503"),
        ("metricsMetrics", "200"),
        ("sessionBegin", "403"),
        ("sessionBegin", "422"),
    }


def test_every_control_event_is_in_an_example():
    names = {name for name in DOCUMENT["components"]["schemas"] if name.startswith("Gateway")}
    shown = "".join(example.text for example in EXAMPLES)
    sent = re.findall(r'"category":"gateway","action":"(\w+)"', shown)
    assert {f"Gateway{action.title().replace('_', '')}" for action in sent} == names


def test_every_example_of_a_request_has_an_answer():
    for operation in OPERATIONS:
        answered = {example.name for example in operation.examples()}
        bodies = operation.described.get("requestBody", {}).get("content", {}).values()
        for described in (*operation.described["parameters"], *bodies):
            assert described.get("examples", {}).keys() <= answered


def test_every_parameter_has_an_example():
    for operation in OPERATIONS:
        for parameter in operation.described["parameters"]:
            assert parameter.get("examples"), f"{operation.name} {parameter['name']}"
