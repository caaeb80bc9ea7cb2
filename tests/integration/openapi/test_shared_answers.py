"""The answers that operations share: each is provoked for every operation that has it."""

import http.client
import json
import re
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest
from flask import Flask

from app import create_app
from app.settings import Settings
from app.streaming.event_store import EventStore
from tests.integration.openapi.conftest import SECRET, token
from tests.integration.openapi.document import (
    DOCUMENT,
    OPERATIONS,
    Answer,
    Operation,
    Request,
    check_fits,
    text_of,
)
from tests.integration.openapi.runs import Runs
from tests.servers import GatewayServer, free_port

SHARED = [
    pytest.param(operation, name, id=f"{operation.name} {name}")
    for operation in OPERATIONS
    for name in operation.shared()
]
BODY = {"Content-Type": "application/json"}


def bearer(credential: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {credential}"}


AWAY = f"redis://127.0.0.1:{free_port()}/0"
ADMIN = bearer(token(admin=["*"]))


# Of these only the authentication does.
NEED_NO_REDIS = (
    *("sessionBegin", "revocationsRevoke"),
    *("metricsMetrics", "debugStreams", "debugFeeds"),
)


class Provoker:
    """Sends requests that are answered with one of the shared answers."""

    def __init__(self, start: Callable[..., GatewayServer], redis_url: str) -> None:
        self._start = start
        self._redis_url = redis_url
        self._gateways: dict[str, GatewayServer] = {}

    def provoke(self, name: str, operation: Operation) -> Answer:
        how: Callable[[Operation], Answer] = getattr(self, name)
        return how(operation)

    def NotAuthenticated(self, operation: Operation) -> Answer:
        return self._ask(operation, {})

    def NotPermitted(self, operation: Operation) -> Answer:
        return self._ask(operation, bearer(token()))

    def NoAuthentication(self, operation: Operation) -> Answer:
        return self._ask(operation, {}, AUTH_SECRET="")

    def WrongHost(self, operation: Operation) -> Answer:
        return self._ask(operation, ADMIN | {"Host": "elsewhere.example"})

    def URITooLong(self, operation: Operation) -> Answer:
        return self._ask(operation, ADMIN, query={"x": "x" * 20_000})

    def HeadersTooLarge(self, operation: Operation) -> Answer:
        return self._ask(operation, ADMIN | {"X": "x" * 10_000})

    def WrongType(self, operation: Operation) -> Answer:
        return self._ask(operation, ADMIN | {"Content-Type": "text/plain"})

    def TooLarge(self, operation: Operation) -> Answer:
        return self._ask(operation, ADMIN | BODY, body=" " * (4 * 2**20 + 1))

    def TooMuch(self, operation: Operation) -> Answer:
        self._ask(operation, bearer("wrong"), MAX_AUTH_FAILURES=1)
        return self._ask(operation, bearer("wrong"), MAX_AUTH_FAILURES=1)

    def TooSlow(self, operation: Operation) -> Answer:
        """Announce a body, and send none, to a gateway that waits for a second only."""
        gateway = self._gateway(application="tests.programs.impatient_gateway:app")
        connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
        path = operation.usual_request().path
        connection.request(operation.method, path, headers=ADMIN | BODY | {"Content-Length": "9"})
        response = connection.getresponse()
        return Answer(response.status, dict(response.headers), response.read().decode())

    def Unavailable(self, operation: Operation) -> Answer:
        # With authentication, a request waits five seconds for what was revoked.
        if operation.name in NEED_NO_REDIS:
            return self._ask(operation, ADMIN, REDIS_URL=AWAY)
        return self.NotStored(operation)

    def NotStored(self, operation: Operation) -> Answer:
        return self._ask(operation, {}, REDIS_URL=AWAY, AUTH_SECRET="")

    def NoPlace(self, operation: Operation) -> Answer:
        def drain(app: Flask) -> None:
            app.extensions["tailrace"].drain()

        return self._ask_app(operation, drain)

    def TooBusy(self, operation: Operation) -> Answer:
        def fill(app: Flask) -> None:
            app.extensions["tailrace"].admission.bytes.maximum = 0

        return self._ask_app(operation, fill)

    def UnexpectedError(self, operation: Operation) -> Answer:
        def fail() -> None:
            raise RuntimeError("unexpected")

        return self._ask_app(operation, lambda app: app.before_request(fail))

    def _gateway(self, **settings: Any) -> GatewayServer:
        key = ", ".join(sorted(settings))
        if key not in self._gateways:
            self._gateways[key] = self._start(**{"AUTH_SECRET": SECRET, **settings})
        return self._gateways[key]

    def _ask(
        self,
        operation: Operation,
        headers: dict[str, str],
        *,
        query: dict[str, str] | None = None,
        body: str | None = None,
        **settings: Any,
    ) -> Answer:
        usual = operation.usual_request()
        request = Request(
            usual.path,
            usual.query | (query or {}),
            usual.headers | headers,
            usual.body if body is None else body,
        )
        return request.send(self._gateway(**settings).url, operation.method)

    def _ask_app(self, operation: Operation, change: Callable[[Flask], object]) -> Answer:
        """Ask an app in this process, which was changed."""
        app = create_app(Settings(auth_secret=(SECRET,)), event_store=EventStore(self._redis_url))
        change(app)
        usual = operation.usual_request()
        response = app.test_client().open(
            usual.path,
            method=operation.method,
            query_string={name: text_of(value) for name, value in usual.query.items()},
            headers=usual.headers | ADMIN,
            data=usual.body,
        )
        return Answer(response.status_code, dict(response.headers), response.text)


@pytest.fixture(scope="module")
def provoker(start, server) -> Provoker:
    Runs(server.url).renew()
    return Provoker(start, server.url)


def comparable(name: str, problem: dict[str, Any]) -> str:
    """Return a problem without what depends on the request, or on why Redis is away."""
    problem = problem | {"request_id": "a-1"}
    if name == "Unavailable":
        problem = problem | {"detail": "Redis cannot serve now"}
    text = re.sub(r"grant \w+ here", "grant ACTION here", json.dumps(problem))
    return re.sub(r"at most \d+ bytes|within [\d.]+ s", "LIMIT", text)


@pytest.mark.parametrize(("operation", "name"), SHARED)
def test_an_answer_that_operations_share_is_as_the_document_shows(provoker, operation, name):
    answer = provoker.provoke(name, operation)
    check_fits(operation, answer, operation.method)
    content = DOCUMENT["components"]["responses"][name]["content"]["application/problem+json"]
    [shown] = content["examples"].values()
    got = json.loads(answer.body)
    assert comparable(name, got) == comparable(name, shown["value"])


def test_every_shared_answer_is_one_of_some_operation():
    used = {name for operation in OPERATIONS for name in operation.shared()}
    assert used == DOCUMENT["components"]["responses"].keys()


def test_a_session_needs_a_token_that_has_room_in_a_cookie(start, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(f"monitor {sha256(b'an API key').hexdigest()} read *\n")
    keys.chmod(0o600)
    gateway = start(AUTH_SECRET=SECRET, API_KEYS_FILE=keys)
    [operation] = [each for each in OPERATIONS if each.name == "sessionBegin"]
    for credential, status in (("an API key", 403), ("x" * 5000, 422)):
        request = Request("/session", {}, bearer(credential), None)
        answer = request.send(gateway.url, "POST")
        check_fits(operation, answer, "POST")
        assert answer.status == status
