"""How each client ends when its answer does not end well: as its own contract says."""

import contextlib
import signal

import pytest

from app.auth.tokens import make_token
from tests.agents.answers import answer
from tests.agents.following import (
    EVERY_KIND,
    PRESETS,
    append,
    are_installed,
    begins,
    following,
    lifecycle,
)
from tests.agents.relay import Relay
from tests.servers import GatewayServer, wait_until

CLIENTS = 2  # one that has begun the run, and one that joins it
CUT_AFTER = 5
KEPT = 3

SECRET = "a secret that is long enough for HS256"
# On a busy machine a token may have expired before a client is ready.
TOKEN_SECONDS = (5, 15, 40)

CHATS = ("chat-6", "chat-7", "chat-of-workflow-6", "chat-of-workflow-7")
WORKFLOWS = ("workflow-6", "workflow-7")
# LangGraph's SDKs try five times, with pauses that are longer than a test may wait.
PATIENT = ("langgraph", "langgraph-python")

pytestmark = [are_installed, pytest.mark.timeout(180)]


class Runs:
    """Runs of all dialects that have begun, with their relays."""

    def __init__(self, gateway: GatewayServer, stack: contextlib.ExitStack, token: str = "none"):
        self._gateway = gateway
        self._stack = stack
        self._token = token
        self.relays: dict[str, Relay] = {}
        self.followed: dict[str, tuple[Relay, tuple[str, ...]]] = {}

    def begin(
        self, name: str, *end: dict, cut: int | None = None, without: tuple[str, ...] = ()
    ) -> None:
        """Append the beginning of an answer in each dialect, and its end."""
        for dialect, kinds in EVERY_KIND.items():
            chunks = [chunk.event for chunk in answer(dialect, name)[:20]]
            self.add(f"{name}-{dialect}", dialect, lifecycle("started"), *chunks, *end, cut=cut)
            kinds = tuple(kind for kind in kinds if kind not in without)
            self.followed[f"{name}-{dialect}"] = self.relays[f"{name}-{dialect}"], kinds

    def add(self, run_id: str, dialect: str, *events: dict, cut: int | None = None) -> None:
        append(self._gateway, run_id, *events, token=self._token)
        relay = Relay(
            self._gateway.port, begins(run_id), lambda client, cuts: None if cuts else cut
        )
        self.relays[run_id] = self._stack.enter_context(relay)
        self.followed[run_id] = relay, EVERY_KIND[dialect]


def said(line: dict) -> object:
    """Return what a client said at its end: an error, its last chunk, or how the chat stands."""
    if line["error"] is not None:
        return line["error"]
    return line.get("status") or line.get("last")


@pytest.fixture(scope="module")
def ends(redis_server, redis_client, tmp_path_factory):
    """Let all clients follow runs that end in every way, and return what they said by name."""
    directory = tmp_path_factory.mktemp("ends")
    ordinary = {"event_category": "llm", "event_action": "stream", "data": {"text": "a"}}
    with (
        GatewayServer(redis_server.url, directory / "log", COMPAT=PRESETS) as gateway,
        contextlib.ExitStack() as stack,
    ):
        runs = Runs(gateway, stack)
        runs.begin("failed", lifecycle("failed", "no more tokens"))
        runs.begin("cancelled", lifecycle("cancelled"))
        runs.begin("lost", {**ordinary, "data": None, "lease_seconds": 1})
        # LangGraph's SDK of npm repeats a request four times that was answered with 410.
        runs.begin("trimmed", without=("langgraph",))
        runs.begin("gap", cut=CUT_AFTER)
        for dialect in EVERY_KIND:
            events = (lifecycle("started"), ordinary, lifecycle("completed", {"tokens": 7}))
            runs.add(f"ordinary-{dialect}", dialect, *events)

        def trim(name: str, dialect: str) -> None:
            key = f"run:{name}-{dialect}:events"
            redis_client.xtrim(key, maxlen=KEPT, approximate=False)

        gaps = [relay for run_id, relay in runs.relays.items() if run_id.startswith("gap-")]
        trimmed = []
        for relay in gaps:
            relay.returns = lambda: bool(trimmed)
        for dialect in EVERY_KIND:
            trim("trimmed", dialect)
        with following(runs.followed, directory, clients=CLIENTS) as clients:
            expected = sum(map(len, EVERY_KIND.values())) * CLIENTS
            wait_until(
                lambda: sum(relay.cuts.total() for relay in gaps) == expected, "all are cut", 60
            )
            for dialect in EVERY_KIND:
                trim("gap", dialect)
            trimmed.append(True)
            lines = clients.finish()
    return {(line["run"].partition("-")[0], line["kind"], line["number"]): line for line in lines}


def check(ends: dict, name: str, expected: dict[str, object]) -> None:
    """Assert what each kind said; a text is a part of what it said."""
    found = {key: said(line) for key, line in ends.items() if key[0] == name}
    for (_, kind, number), value in found.items():
        what = expected[kind]
        is_it = what in value if isinstance(what, str) and isinstance(value, str) else value == what
        assert is_it, (kind, number, value)
    assert {kind for _, kind, _ in found} == set(expected)
    assert len(found) == len(expected) * CLIENTS


def each(kinds: tuple[str, ...], what: object) -> dict[str, object]:
    return dict.fromkeys(kinds, what)


def told(code: str, why: str, sequence: int) -> dict[str, object]:
    """Return what clients say that are told of an error in their own words."""
    error = {"type": "error", "code": code, "message": why, "param": None}
    return {
        **each((*CHATS, "chat-of-tanstack"), f"Error: {why}"),
        # Alone, the transport only passes on the error. It asks for a `finish` after it.
        **each(WORKFLOWS, "Error: Failed to fetch chat: 400"),
        "http-agent": why,
        "tanstack": {"type": "RUN_ERROR", "message": why, "code": code},
        **each(("openai", "openai-python"), {**error, "sequence_number": sequence}),
        **each(PATIENT, ["error", {"error": code, "message": why}]),
    }


def test_a_failed_run_is_an_error(ends):
    check(ends, "failed", told("failed", "no more tokens", 22))


def test_a_lost_run_is_an_error(ends):
    check(ends, "lost", told("lost", "the run is lost", 23))


def test_a_cancelled_run_is_aborted_or_an_error(ends):
    expected = told("cancelled", "the run is cancelled", 22)
    check(
        ends,
        "cancelled",
        {**expected, **each(CHATS, "ready"), **each(WORKFLOWS, {"type": "finish"})},
    )


def test_a_run_of_ordinary_events_has_an_end_only(ends):
    run_id = "ordinary-ag-ui"
    check(
        ends,
        "ordinary",
        {
            **each((*CHATS, "chat-of-tanstack"), "ready"),
            **each(WORKFLOWS, {"type": "finish"}),
            "http-agent": "Error: First event must be 'RUN_STARTED'",
            "tanstack": {"type": "RUN_FINISHED", "threadId": run_id, "runId": run_id},
            **each(("openai", "openai-python"), None),
            **each(PATIENT, ["end", {"tokens": 7}]),
        },
    )


GONE = {
    **each(CHATS, '"status":410'),
    **each(WORKFLOWS, "Error: Failed to fetch chat: 410"),
    "http-agent": "Error: HTTP 410",
    **dict.fromkeys(("tanstack", "chat-of-tanstack"), "Error: HTTP error! status: 410"),
    "openai": "410",
    "openai-python": "APIStatusError: Error code: 410",
    "langgraph-python": "APIStatusError: the beginning of the answer",
}


def test_an_answer_whose_beginning_was_trimmed_is_an_error(ends):
    check(ends, "trimmed", GONE)


def test_an_answer_that_was_trimmed_before_it_was_read_is_an_error(ends):
    why = "events of this answer are missing"
    error = {"type": "RUN_ERROR", "message": why, "code": "gap"}
    gap = ["error", {"error": "gap", "message": why}]
    told_of_it = {"tanstack": error, "chat-of-tanstack": f"Error: {why}", **each(PATIENT, gap)}
    check(ends, "gap", {**GONE, **told_of_it})


def test_with_an_expired_token_every_client_is_refused(redis_server, tmp_path):
    claim = "tailrace"
    settings = {"COMPAT": PRESETS, "AUTH_SECRET": SECRET}
    with (
        GatewayServer(redis_server.url, tmp_path / "log", **settings) as gateway,
        contextlib.ExitStack() as stack,
    ):
        admin = make_token(SECRET, claim, {"append": ["*"]}, 600, aud=claim)
        runs = Runs(gateway, stack, admin)
        runs.begin("expired")
        for seconds in TOKEN_SECONDS:
            token = make_token(SECRET, claim, {"read": ["*"]}, seconds, aud=claim)
            with following(runs.followed, tmp_path, clients=CLIENTS, token=token) as clients:
                lines = clients.finish()
            if all(relay.opened for relay in runs.relays.values()):
                break
        assert all(relay.opened for relay in runs.relays.values())
    check(
        {("expired", line["kind"], line["number"]): line for line in lines},
        "expired",
        {
            **each(CHATS, "401"),
            **each(WORKFLOWS, "Error: Failed to fetch chat: 401"),
            "http-agent": "Error: HTTP 401",
            **each(("tanstack", "chat-of-tanstack"), "Error: HTTP error! status: 401"),
            "openai": "401",
            "openai-python": "AuthenticationError: Error code: 401",
            "langgraph": "Error: HTTP 401",
            "langgraph-python": "AuthenticationError",
        },
    )


def test_without_a_gateway_every_client_gives_up(redis_server, tmp_path):
    gateway = GatewayServer(redis_server.url, tmp_path / "log", COMPAT=PRESETS).start()
    with contextlib.ExitStack() as stack:
        stack.callback(gateway.stop)
        runs = Runs(gateway, stack)
        runs.begin("gone", without=PATIENT)
        with following(runs.followed, tmp_path, clients=CLIENTS, breaks=2) as clients:
            relays = [relay for relay, kinds in runs.followed.values() if kinds]
            expected = (sum(map(len, EVERY_KIND.values())) - len(PATIENT)) * CLIENTS
            wait_until(lambda: sum(len(relay.opened) for relay in relays) == expected, "all", 60)
            gateway.stop(signal.SIGTERM)
            lines = clients.finish()
    check(
        {("gone", line["kind"], line["number"]): line for line in lines},
        "gone",
        {
            **each(CHATS, "TypeError: "),
            **each(WORKFLOWS, "TypeError: fetch failed"),
            "http-agent": "TypeError: ",
            **each(("tanstack", "chat-of-tanstack"), "reconnect ceiling of 5 attempts"),
            "openai": "Connection error.",
            "openai-python": "APIConnectionError: Connection error.",
        },
    )
