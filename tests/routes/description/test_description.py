"""GET /openapi.json: a valid description of every view, parameter and event."""

import json
import re

import jsonschema
import pytest
from flask import Blueprint
from openapi_spec_validator import OpenAPIV31SpecValidator

from app import create_app
from app.routes import schemas
from app.routes.description.description import PAGES, Description
from app.settings import Settings

SECRET = "s" * 32
SCHEMAS = {
    "get /debug/feeds": schemas.FeedsQuery,
    "get /debug/streams": schemas.StreamsQuery,
    "get /events/stream": schemas.NamedRunsQuery,
    "post /events/stream": schemas.MergedQuery,
    "get /runs": schemas.RunsQuery,
    "get /runs/stream": schemas.ChangesQuery,
    "get /runs/{run_id}/events": schemas.PageQuery,
    "post /runs/{run_id}/events": schemas.AppendQuery,
    "get /runs/{run_id}/events/stream": schemas.StreamQuery,
}


def described(app) -> dict:
    return json.loads(app.extensions["tailrace.description"].json)


@pytest.fixture
def app(fake_store):
    return create_app(Settings(), event_store=fake_store)


@pytest.fixture
def document(app) -> dict:
    return described(app)


@pytest.mark.parametrize("settings", [{}, {"auth_secret": (SECRET,)}], ids=["open", "guarded"])
def test_the_description_is_valid_openapi(fake_store, settings):
    document = described(create_app(Settings(**settings), event_store=fake_store))
    assert document["openapi"].startswith("3.1.")
    OpenAPIV31SpecValidator(document).validate()


def test_it_is_answered_as_it_was_made(app, document):
    answer = app.test_client().get("/openapi.json")
    assert (answer.status_code, answer.mimetype) == (200, "application/json")
    assert answer.json == document
    assert answer.headers["Cache-Control"] == "no-store"


def test_every_method_of_every_rule_is_described(app, document):
    rules = {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in app.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS", "QUERY"}  # as the description says
        if not rule.endpoint.startswith(PAGES)
    }
    found = {(path, method) for path, each in document["paths"].items() for method in each}
    assert found == rules
    names = [each["operationId"] for path in document["paths"].values() for each in path.values()]
    assert len(names) == len(set(names))


def test_a_view_that_is_not_described_stops_the_start(app):
    extra = Blueprint("extra", __name__)
    extra.add_url_rule("/extra", "view", lambda: "")
    app.register_blueprint(extra)
    with pytest.raises(TypeError, match=r"extra\.view"):
        Description(app, "1", {})


@pytest.mark.parametrize(("name", "schema"), SCHEMAS.items())
def test_every_parameter_of_a_query_is_described(document, name, schema):
    method, path = name.split()
    parameters = document["paths"][path][method]["parameters"]
    found = {each["name"]: each for each in parameters if each["in"] == "query"}
    assert found.keys() == {each.data_key or name for name, each in schema().fields.items()}
    for parameter in found.values():
        assert parameter["description"]
        assert parameter["required"] == (parameter["name"] == "run" and "/debug/" not in path)
        assert parameter["schema"].get("type") in ("integer", "string", "boolean", "array")


@pytest.mark.parametrize(
    ("path", "name", "expected"),
    [
        ("/runs", "limit", {"type": "integer", "minimum": 1, "maximum": 100, "default": 50}),
        ("/runs", "state", {"type": "string", "enum": ["active", "ended"]}),
        (
            "/runs",
            "prefix",
            {"type": "string", "pattern": "^[A-Za-z0-9_.-]{0,128}$", "default": ""},
        ),
        (
            "/runs/{run_id}/events",
            "order",
            {"type": "string", "enum": ["asc", "desc"], "default": "asc"},
        ),
        (
            "/runs/{run_id}/events",
            "after",
            {"type": "string", "pattern": "^[0-9]{1,20}-[0-9]{1,20}$"},
        ),
        (
            "/runs/{run_id}/events",
            "category",
            {"type": "array", "items": {"type": "string"}},
        ),
        ("/runs/{run_id}/events/stream", "typed", {"type": "boolean", "default": True}),
        (
            "/runs/{run_id}/events/stream",
            "tail",
            {"type": "integer", "minimum": 0, "maximum": 10**9},
        ),
        (
            "/runs/{run_id}/events/stream",
            "lastEventId",
            {
                "type": "string",
                "pattern": "^(earliest|latest|[0-9]{1,20}-[0-9]{1,20})?$",
            },
        ),
    ],
)
def test_a_field_becomes_its_json_schema(document, path, name, expected):
    parameters = document["paths"][path]["get"]["parameters"]
    [parameter] = [each for each in parameters if each["name"] == name]
    assert parameter["schema"] == expected
    assert parameter.get("explode", False) == (name == "category")


def test_the_other_operations_have_no_query(document):
    with_query = {
        f"{method} {path}"
        for path, methods in document["paths"].items()
        for method, each in methods.items()
        if any(parameter["in"] == "query" for parameter in each["parameters"])
    }
    assert with_query == SCHEMAS.keys()


def test_every_tag_is_described_and_used(document):
    used = {tag for path in document["paths"].values() for each in path.values()
            for tag in each["tags"]}  # fmt: skip
    assert used == {each["name"] for each in document["tags"]}


def test_without_authentication_nothing_asks_for_a_token(document):
    operations = [each for path in document["paths"].values() for each in path.values()]
    assert "securitySchemes" not in document["components"]
    assert not [each for each in operations if "security" in each]


@pytest.mark.parametrize("query_token", [False, True])
def test_with_authentication_all_but_open_views_take_each_kind_of_token(fake_store, query_token):
    settings = Settings(auth_secret=(SECRET,), auth_query_token=query_token)
    document = described(create_app(settings, event_store=fake_store))
    schemes = document["components"]["securitySchemes"]
    assert ("query" in schemes) == query_token
    every = [{name: []} for name in schemes]
    security = {
        f"{method} {path}": each["security"]
        for path, methods in document["paths"].items()
        for method, each in methods.items()
    }
    health = ("get /healthz", "get /livez", "get /readyz")
    for name in (*health, "get /openapi.json", "delete /session"):
        assert security.pop(name) == []
    for name in ("post /session", "get /metrics"):
        assert security.pop(name) == [{"bearer": []}]
    assert all(each == every for each in security.values())


def test_every_control_event_is_one_of_a_stream(document):
    schemas = document["components"]["schemas"]
    control = {name for name in schemas if name.startswith("Gateway")}
    actions = {schemas[name]["properties"]["event"]["properties"]["action"]["const"]
               for name in control}  # fmt: skip
    assert actions == {
        *("caught_up", "gap", "reset", "progress", "expiring", "heartbeat", "deleted", "batch")
    }
    for name in control:
        [example] = schemas[name]["examples"]
        whole = {**schemas[name], "components": document["components"]}
        jsonschema.validate(example, whole)
    text = json.dumps(
        [schemas[name] for name in ("RunFrame", "RunLine", "ChangeFrame", "MergedLine")]
    )
    assert all(f"#/components/schemas/{name}" in text for name in control)
