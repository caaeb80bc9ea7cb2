"""The JavaScript client in Node.js and a real gateway: its methods, tokens, reloads and kills."""

import contextlib
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.streaming.event_store import EventStore
from tests.field.reloads import replace_worker
from tests.processes import NODE, NodeScript, running, sequences_of
from tests.servers import GatewayServer, wait_until

SCRIPT = Path(__file__).parent / "run.mjs"
SECRET = "a secret of more than thirty-two bytes"
EVERYTHING = {"read": ["*"], "append": ["*"], "delete": ["*"]}

Call = Callable[..., NodeScript]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Call]:
    """Return a function that starts a call of the client in a process."""
    with contextlib.ExitStack() as stack:
        numbers = iter(range(100))

        def start(url: str, method: str, *arguments: object, **options: object) -> NodeScript:
            output = tmp_path / f"out-{next(numbers)}"
            command = [NODE, SCRIPT, url, method, json.dumps(arguments), json.dumps(options)]
            return NodeScript(stack.enter_context(running(command, output)), output)

        yield start


@pytest.fixture
def call(gateway: GatewayServer, start: Call) -> Callable[..., object]:
    """Return a function that returns what a method of the client returns or yields."""

    def call(method: str, *arguments: object) -> object:
        lines = start(gateway.url, method, *arguments).finish()
        if lines and lines[0]["what"] == "result":
            return lines[0]["result"]
        return [line["event"] for line in lines]

    return call


def event(action: str = "stream", data: object = None, category: str = "llm") -> dict[str, object]:
    return {"event_category": category, "event_action": action, "data": data}


def documents(store: EventStore, run_id: str) -> list[dict]:
    return [json.loads(each.to_json()) for each in store.get_events(run_id)]


def test_what_it_appends_is_stored(call, store, run_id):
    data = {"text": "é\u2028🚰", "deep": [None, True, 1.5, {"": -1}]}
    first = call("append", run_id, event(data=data))
    rest = call("appendMany", run_id, [event(data=1), event(data=2)])
    one = call("appendMany", run_id, [event(data=3)], {"expectedSequence": 4})
    again = call("append", run_id, event(data=4), {"idempotencyKey": "k"})
    assert call("append", run_id, event(data=4), {"idempotencyKey": "k"}) == again
    request = call("request", run_id, "cancel", {"by": "ada"})
    stored = documents(store, run_id)
    assert stored[0] == first
    assert stored[0]["data"] == data
    assert [(each["id"], each["sequence"]) for each in stored[1:4]] == [
        (each["id"], each["sequence"]) for each in rest + one
    ]
    assert stored[4:] == [again, request]
    assert request["event"] == {"category": "request", "action": "cancel"}


def test_it_reads_what_is_stored(call, store, run_id):
    for number in range(2100):
        store.add(run_id, ("llm", "tool")[number % 2], "stream", number)
    stored = documents(store, run_id)
    assert call("events", run_id) == stored
    assert call("events", run_id, {"order": "desc"}) == stored[::-1]
    assert call("events", run_id, {"limit": 1001, "fromSequence": 50}) == stored[49:1050]
    assert call("events", run_id, {"fromSequence": 2000, "categories": ["tool"]}) == stored[1999::2]
    assert call("events", run_id, {"after": stored[9]["id"], "limit": 2}) == stored[10:12]
    state = call("state", run_id)
    assert (state["run_id"], state["last_sequence"], state["ended"]) == (run_id, 2100, False)
    assert call("state", f"{run_id}-none") is None


def test_it_lists_the_runs(call, store, run_id):
    names = [f"{run_id}-{number:03}" for number in range(130)]
    for name in names:
        store.add(name, "lifecycle", "started")
    store.add(names[0], "lifecycle", "completed")
    listed = call("runs", {"prefix": f"{run_id}-"})
    assert sorted(each["run_id"] for each in listed) == names
    assert [
        each["run_id"] for each in call("runs", {"prefix": f"{run_id}-", "state": "ended"})
    ] == [names[0]]
    assert len(call("runs", {"prefix": f"{run_id}-", "limit": 7})) == 7


def test_it_follows_a_run_several_runs_and_the_changes_of_runs(call, start, gateway, store, run_id):
    runs = [run_id, *(f"{run_id}-{number}" for number in range(20))]
    changes = start(gateway.url, "followRuns", {"prefix": run_id, "after": "latest"})
    changes.wait_for("caught_up")
    live = start(gateway.url, "follow", run_id)
    live.wait_for("caught_up")
    for name in runs:
        for number in range(3):
            store.add(name, "llm", "stream", number)
        store.add(name, "lifecycle", "completed")
    stored = documents(store, run_id)
    assert [each["event"] for each in live.finish() if each["event"]["id"]] == stored
    assert [each for each in call("follow", run_id) if each["id"]] == stored
    for options in ({"tail": 2}, {"fromSequence": 3}, {"after": stored[1]["id"]}):
        assert [each for each in call("follow", run_id, options) if each["id"]] == stored[2:]
    filtered = call("follow", run_id, {"categories": ["none"]})
    assert [each for each in filtered if each["id"]] == stored[-1:]
    for some in (runs[:3], runs):  # one event a message, and batches
        got = [each for each in call("followMany", dict.fromkeys(some, "earliest")) if each["id"]]
        for name in some:
            assert [each for each in got if each["run_id"] == name] == documents(store, name)
    changes.wait_for('"action":"completed"', len(runs))


@pytest.mark.parametrize("how", [signal.SIGHUP, signal.SIGKILL])
@pytest.mark.timeout(120)
def test_it_follows_and_appends_through_reloads_and_kills(start, start_gateway, store, run_id, how):
    gateway = start_gateway(RETRY_MS=200, HEARTBEAT_SECONDS=1)
    others = {f"{run_id}-other": "earliest", run_id: "earliest"}
    one = start(gateway.url, "follow", run_id)
    many = start(gateway.url, "followMany", others)
    for script in (one, many):
        script.wait_for("caught_up")
    emitter = start(gateway.url, "emit", run_id, 2000)
    for count in range(1, 4):
        emitter.wait_for("stored", 4 * count)
        replace_worker(gateway, how)
    stored_lines = emitter.finish()
    store.add(f"{run_id}-other", "lifecycle", "failed")
    stored = store.get_events(run_id)
    assert [each.data for each in stored] == [*range(2000), None]
    assert stored_lines[-1]["result"] == [2001, stored[-1].id, 2001]
    sequences = [each.sequence for each in stored]
    assert sequences_of(one.finish()) == sequences
    of_run = [line for line in many.finish() if line["event"]["run_id"] == run_id]
    assert sequences_of(of_run) == sequences


@pytest.mark.timeout(120)
def test_a_function_renews_the_token_of_a_stream_without_loss(start, start_gateway, store, run_id):
    gateway = start_gateway(AUTH_SECRET=SECRET, RETRY_MS=100)
    # A stream that begins with less than half a second left is not warned.
    options = {"secret": SECRET, "ttl": 3, "grants": EVERYTHING}
    script = start(gateway.url, "follow", run_id, **options)
    script.wait_for("caught_up")
    while script.text().count('"what":"token"') < 4:
        last = store.append(run_id, "llm", "stream").event.sequence
        wait_until(lambda last=last: f'"sequence":{last},' in script.text(), "the event is there")
    store.add(run_id, "lifecycle", "completed")
    lines = script.finish()
    events = [line for line in lines if line["what"] == "event"]
    assert sequences_of(events) == [each.sequence for each in store.get_events(run_id)]
    assert not [line for line in events if line["event"]["event"]["action"] in ("gap", "reset")]


def test_tokens_say_what_it_may_do(start, start_gateway, store, run_id):
    gateway = start_gateway(AUTH_SECRET=SECRET)
    store.add(run_id, "lifecycle", "started")

    def outcome(method: str, *arguments: object, **options: object) -> str:
        script = start(gateway.url, method, *arguments, **options)
        wait_until(lambda: script._process.poll() is not None, "it ends")
        return script.text()

    granted = {"secret": SECRET, "ttl": 60, "grants": {"read": ["*"]}}
    assert '"what":"result"' in outcome("state", run_id, **granted)
    assert "TailraceError: 403" in outcome("append", run_id, event(), **granted)
    assert "TailraceError: 401" in outcome("state", run_id)
    assert "TailraceError: 401" in outcome("follow", run_id, token="no-token")
    wrong = {**granted, "secret": "another secret of more than thirty-two"}
    refused = outcome("follow", run_id, **wrong)
    assert "TailraceError: 401" in refused
    assert refused.count('"what":"token"') == 2
