"""Runs the clients of a dialect, and says what each of them ought to get."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import requests

from app.streaming.event_store import EventStore
from tests.agents.answers import ARGUMENTS, RESULT, TEXT, Chunk
from tests.agents.relay import Relay
from tests.processes import NODE, NodeScript, running
from tests.servers import ROOT, GatewayServer

HERE = ROOT / "tests" / "agents"
PYTHON = ROOT / "tests" / "field" / ".venv" / "bin" / "python"

PRESETS = "ai-sdk,ag-ui,openai,langgraph"

# The kinds of clients of each dialect.
KINDS = {
    "ai-sdk": ("chat-6", "chat-7", "workflow-6", "workflow-7"),
    "ag-ui": ("http-agent", "tanstack"),
    "openai": ("openai", "openai-python"),
    "langgraph": ("langgraph", "langgraph-python"),
}

# What pages have: the transport of workflows with `useChat`, and what is under TanStack's hooks.
MORE_KINDS = {
    "ai-sdk": ("chat-of-workflow-6", "chat-of-workflow-7"),
    "ag-ui": ("chat-of-tanstack",),
}

EVERY_KIND = {dialect: (*KINDS[dialect], *MORE_KINDS.get(dialect, ())) for dialect in KINDS}

are_installed = pytest.mark.skipif(
    not (PYTHON.exists() and (HERE / "node" / "node_modules").exists()) and "CI" not in os.environ,
    reason="the clients are not installed (make tests/agents/node/node_modules"
    " tests/field/.venv/installed)",
)


def begins(run_id: str) -> dict[str, str]:
    """Return where the back ends of a run's clients send them when they have begun the run."""
    return {
        "/compat/ai-sdk": f"/compat/ai-sdk/{run_id}/stream",
        "/compat/ag-ui": f"/compat/ag-ui?runId={run_id}",
    }


class Clients:
    """Programs with many clients each, and what the clients have printed."""

    def __init__(self, scripts: list[NodeScript]):
        self._scripts = scripts

    def finish(self) -> list[dict]:
        """Wait until all have ended, and return what each got."""
        lines = []
        for script in self._scripts:
            # JSON may hold what ends a line for `splitlines`.
            *printed, closed, _ = script.finished_text().split("\n")
            assert json.loads(closed) == {"what": "closed"}
            lines += map(json.loads, printed)
        return lines


@contextlib.contextmanager
def following(
    runs: Mapping[str, tuple[Relay, Sequence[str]]],
    directory: Path,
    *,
    clients: int,
    token: str = "none",
    breaks: int = 500,
) -> Iterator[Clients]:
    """Let clients of the given kinds follow each run through a relay: so many of each kind.

    A client gives up after so many breaks, if it is the test that lets it come back.
    """
    with contextlib.ExitStack() as stack:
        scripts = []
        for command, is_own in (
            ((NODE, HERE / "node" / "follow.mjs"), lambda kind: not kind.endswith("-python")),
            ((PYTHON, HERE / "follow.py"), lambda kind: kind.endswith("-python")),
        ):
            wanted = {
                run_id: {"url": relay.url, "kinds": own}
                for run_id, (relay, kinds) in runs.items()
                if (own := list(filter(is_own, kinds)))
            }
            if wanted:
                arguments = (json.dumps(wanted), str(clients), token, str(breaks))
                output = directory / f"clients-{len(scripts)}"
                process = stack.enter_context(running((*command, *arguments), output))
                scripts.append(NodeScript(process, output))
        yield Clients(scripts)


def append(gateway: GatewayServer, run_id: str, *events: dict, token: str = "none") -> None:
    """Append events with a plain POST."""
    headers = {"Authorization": f"Bearer {token}"}
    url = f"{gateway.url}/runs/{run_id}/events"
    response = requests.post(url, json=list(events), headers=headers)
    assert response.status_code == 201, response.text


def lifecycle(action: str, data: object = None) -> dict:
    return {"event_category": "lifecycle", "event_action": action, "data": data}


def events_of(chunks: list[Chunk]) -> list[dict]:
    """Return the events of an answer. The chunk that ends it comes with the end of the run."""
    if chunks[-1].name != "message":
        return [*(chunk.event for chunk in chunks), lifecycle("completed")]
    return [*(chunk.event for chunk in chunks[:-1]), lifecycle("completed", chunks[-1].data)]


def check(store: EventStore, lines: list[dict], run_id: str, chunks: list[Chunk]) -> None:
    """Assert that the log has the chunks, and that each client got them."""
    logged = [event.data for event in store.get_events(run_id) if event.data is not None]
    assert logged == [chunk.data for chunk in chunks]
    for line in lines:
        assert line["error"] is None, line["error"]
        # TanStack AI comes back after a break behind the last chunk, and is told the end again.
        is_told_twice = line["kind"] == "tanstack" and line["count"] > len(chunks)
        told = [*chunks, Chunk(_finished(run_id))] if is_told_twice else chunks
        whole = expected(line["kind"], run_id, told)
        assert {name: line[name] for name in whole} == whole


def _finished(run_id: str) -> dict:
    return {"type": "RUN_FINISHED", "threadId": run_id, "runId": run_id}


def expected(kind: str, run_id: str, chunks: list[Chunk]) -> dict:
    """Return what a client prints that got a whole answer: its chunks, or its messages."""
    if kind == "chat-of-tanstack":
        return {"status": "ready", "answer": {"id": "n", "parts": _PARTS_OF_TANSTACK}}
    if kind.startswith("chat"):
        return {"status": "ready", "answers": [{"id": f"answer-{run_id}", "parts": _PARTS}]}
    if kind == "http-agent":
        return {"messages": _MESSAGES, "state": {"seen": 1}}
    if kind.startswith("langgraph"):
        return digest([[chunk.name, chunk.data] for chunk in chunks])
    if kind == "tanstack":
        return digest([_with_old_name(chunk.data) for chunk in chunks])
    return digest([chunk.data for chunk in chunks])


def _with_old_name(data: dict) -> dict:
    """Return a chunk as TanStack AI gives it, which knows the name of a tool under two names."""
    return {**data, "toolName": data["toolCallName"]} if "toolCallName" in data else data


_PARTS = [
    {"type": "step-start"},
    {"type": "reasoning", "text": "Weather?", "state": "done"},
    {
        **{"type": "tool-weather", "toolCallId": "c", "state": "output-available"},
        **{"input": json.loads(ARGUMENTS), "output": RESULT},
    },
    {"type": "step-start"},
    {"type": "text", "text": TEXT, "state": "done"},
]

_PARTS_OF_TANSTACK = [
    {
        **{"type": "tool-call", "id": "c", "name": "weather", "arguments": ARGUMENTS},
        **{"state": "complete", "input": json.loads(ARGUMENTS), "output": RESULT},
    },
    {
        **{"type": "tool-result", "toolCallId": "c", "state": "complete"},
        "content": json.dumps(RESULT, ensure_ascii=False),
    },
    {"type": "text", "content": TEXT},
]

_MESSAGES = [
    {
        **{"id": "m", "role": "assistant"},
        "toolCalls": [
            {
                "id": "c",
                "type": "function",
                "function": {"name": "weather", "arguments": ARGUMENTS},
            }
        ],
    },
    {
        **{"id": "result", "role": "tool", "toolCallId": "c"},
        "content": json.dumps(RESULT, ensure_ascii=False),
    },
    {"id": "n", "role": "assistant", "content": TEXT},
]


def digest(chunks: list) -> dict:
    """Return what a client prints of chunks: how many, their digest, and the last one."""
    text = json.dumps(chunks, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return {"count": len(chunks), "digest": digest, "last": chunks[-1] if chunks else None}
