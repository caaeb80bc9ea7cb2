"""The examples, run as their README shows, and what is in their runs afterwards."""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from app.client import Client
from app.streaming.event_store import EventStore
from examples import graph_agent
from tests.clients import Stream
from tests.processes import NODE
from tests.servers import ROOT, GatewayServer, free_port, wait_until

PYTHON = (sys.executable, "-W", "error")
AGENT = (*PYTHON, "examples/agent_with_httpx.py")
GRAPH_AGENT = (*PYTHON, "-m", "examples.graph_agent")
WORKER = (*PYTHON, "-m", "examples.thread_worker")
JOB = "examples/job.sh"

README = ROOT / "examples" / "README.md"
CHAT = ROOT / "examples" / "chat"
NODE_MODULE = (NODE, "--input-type=module", "--eval")

# What the request of the README needs.
CHUNKS = """
import { createUIMessageStream, createUIMessageStreamResponse } from 'ai';
const [, id] = process.argv;
const GATEWAY = process.env.TAILRACE_URL;
const chunks = createUIMessageStream({
  execute({ writer }) {
    writer.write({ type: 'start' });
    writer.write({ type: 'text-start', id: 'text' });
    writer.write({ type: 'text-delta', id: 'text', delta: 'Hello ' });
    writer.write({ type: 'text-delta', id: 'text', delta: 'world ' });
    writer.write({ type: 'text-end', id: 'text' });
    writer.write({ type: 'finish' });
  },
});
"""

# Takes 100 seconds, longer than any test.
LONG_PROMPT = "word " * 1000


@pytest.fixture
def start(gateway: GatewayServer) -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts a command at the root, in a process group that ends with the test."""
    with contextlib.ExitStack() as stack:
        # A command inherits signals that are ignored, as those of a job in the background.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        stack.callback(signal.signal, signal.SIGINT, before)

        def begin(*command: object, url: str = gateway.url, cwd: Path = ROOT) -> subprocess.Popen:
            process = subprocess.Popen(
                [str(part) for part in command],
                cwd=cwd,
                env={**os.environ, "TAILRACE_URL": url},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            stack.callback(kill_group, process)
            return process

        yield begin


def kill_group(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with process:
        pass


def end_of(process: subprocess.Popen) -> subprocess.CompletedProcess:
    """Wait for the end of a process; return its status and what it printed."""
    output, errors = process.communicate(timeout=50)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


@pytest.fixture
def run(start) -> Callable[..., subprocess.CompletedProcess]:
    """Runs a command to its end."""
    return lambda *command, **options: end_of(start(*command, **options))


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    """A named pipe: a command that reads it waits until the test writes."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def names_of(store: EventStore, run_id: str) -> list[str]:
    return [event.name for event in store.get_events(run_id)]


def texts_of(store: EventStore, run_id: str) -> list[str]:
    """What a job has printed, an item an event."""
    events = store.get_events(run_id)
    return [event.data["text"] for event in events if event.name == "job.output"]


def wait_for_events(store: EventStore, run_id: str, name: str, count: int = 1) -> None:
    wait_until(lambda: names_of(store, run_id).count(name) >= count, f"{count} {name} in {run_id}")


def cancel(gateway: GatewayServer, run_id: str) -> None:
    """End the run as somebody else would."""
    event = {"event_category": "lifecycle", "event_action": "cancelled"}
    url = f"{gateway.url}/runs/{run_id}/events"
    requests.post(url, json=event, timeout=5).raise_for_status()


# The README


def section(program: str) -> tuple[list[str], list[str]]:
    """The command of the README that runs this example, and the texts that it shows."""
    for part in README.read_text().split("\n## "):
        blocks = re.findall(r"^```(sh|text)\n(.*?)^```$", part, re.DOTALL | re.MULTILINE)
        lines = [line for kind, text in blocks if kind == "sh" for line in text.splitlines()]
        commands = [shlex.split(line) for line in lines if program in line]
        if commands:
            return commands[0], [text for kind, text in blocks if kind == "text"]
    raise AssertionError(f"the README does not run {program}")


def as_shown(store: EventStore, run_id: str) -> str:
    """A run's events, as the README shows them."""
    events = store.get_events(run_id)
    return "".join(f"{event.sequence} {event.name} {event.data}\n" for event in events)


def test_the_agent_does_what_the_readme_shows(run, store):
    (_, *arguments), (output, events) = section("agent_with_httpx.py")
    ended = run(*PYTHON, *arguments)
    assert (ended.returncode, ended.stderr, ended.stdout) == (0, "", output)
    assert as_shown(store, "agent-1") == events


def test_the_graph_does_what_the_readme_shows(run, gateway, store):
    (_, *arguments), (output, events) = section("graph_agent")
    ended = run(*PYTHON, *arguments)
    output = output.replace("http://127.0.0.1:8082", gateway.url)
    assert (ended.returncode, ended.stderr, ended.stdout) == (0, "", output)
    assert as_shown(store, "agent-2") == events


def test_the_request_of_the_chat_stores_an_answer_as_the_readme_shows(run, gateway, store, run_id):
    [request] = re.findall(
        r"^```javascript\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE
    )
    ended = run(*NODE_MODULE, CHUNKS + request, run_id, url=gateway.url, cwd=CHAT)
    assert (ended.returncode, ended.stderr, ended.stdout) == (0, "", "")
    first, *chunks, last = store.get_events(run_id)
    assert (first.name, first.data["type"]) == ("lifecycle.started", "start")
    assert (last.name, last.data["type"]) == ("lifecycle.completed", "finish")
    words = [chunk.data["delta"] for chunk in chunks if chunk.data["type"] == "text-delta"]
    assert "".join(words) == "Hello world "


def test_the_worker_does_what_the_readme_shows(run, store):
    (_, *arguments), (output,) = section("thread_worker")
    ended = run(*PYTHON, *arguments)
    assert (ended.returncode, ended.stderr, ended.stdout) == (1, "", output)
    assert output.endswith(as_shown(store, "nightly-orders"))


def test_the_job_does_what_the_readme_shows(run, store):
    command, (events,) = section("job.sh")
    ended = run(*command)
    assert (ended.returncode, ended.stderr, ended.stdout) == (2, "", "")
    assert as_shown(store, "job-1") == events


# The agent


def test_an_agent_whose_model_raises_fails_its_run(run, store, run_id):
    ended = run(*AGENT, run_id, "")
    assert ended.returncode == 1
    assert ended.stderr.endswith("ValueError: the prompt is empty\n")
    assert names_of(store, run_id) == ["lifecycle.started", "lifecycle.failed"]
    assert store.get_events(run_id)[-1].data == {"error": "the prompt is empty"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_agent_that_is_interrupted_cancels_its_run(start, store, run_id, number):
    process = start(*AGENT, run_id, LONG_PROMPT)
    wait_for_events(store, run_id, "llm.stream", 3)
    process.send_signal(number)
    ended = end_of(process)
    assert (ended.returncode, ended.stderr) == (130, "")
    first, *tokens, last = store.get_events(run_id)
    assert (first.name, last.name) == ("lifecycle.started", "lifecycle.cancelled")
    words = f"You said: {LONG_PROMPT}".split()[: len(tokens)]
    assert [event.data["content"] for event in tokens] == [f"{word} " for word in words]


def test_the_run_of_a_killed_agent_is_lost(start, gateway, store, run_id):
    process = start(*AGENT, run_id, LONG_PROMPT, "--lease", 2)
    with Stream(f"{gateway.url}/runs/{run_id}/events/stream") as stream:
        stream.wait_for_events(4)
        process.kill()
        stream.wait_for_end()
        names = [message.event for message in stream.events]
    assert names == ["lifecycle.started", *["llm.stream"] * (len(names) - 2), "lifecycle.lost"]
    assert stream.sequences == list(range(1, len(names) + 1))


def test_an_agent_whose_run_is_cancelled_stops_and_says_why(start, gateway, store, run_id):
    process = start(*AGENT, run_id, LONG_PROMPT)
    wait_for_events(store, run_id, "llm.stream")
    cancel(gateway, run_id)
    ended = end_of(process)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"{gateway.url}: 409: run {run_id} ended with event ")
    assert names_of(store, run_id)[-1] == "lifecycle.cancelled"


def test_an_agent_that_is_asked_to_cancel_cancels_its_run(start, gateway, store, run_id):
    process = start(*AGENT, run_id, LONG_PROMPT)
    wait_for_events(store, run_id, "llm.stream")
    with Client(gateway.url) as client:
        client.request(run_id, "hurry")
        client.request(run_id, "cancel")
    ended = end_of(process)
    assert (ended.returncode, ended.stderr) == (130, "")
    names = names_of(store, run_id)
    assert names[-1] == "lifecycle.cancelled"
    assert [name for name in names if name.startswith("request.")] == [
        "request.hurry",
        "request.cancel",
    ]


def test_a_second_agent_reopens_the_run(run, store, run_id):
    for prompt in ("", "again"):
        run(*AGENT, run_id, prompt)
    tokens = ["llm.stream"] * 3
    second = ["lifecycle.started", *tokens, "lifecycle.completed"]
    assert names_of(store, run_id) == ["lifecycle.started", "lifecycle.failed", *second]


def test_an_agent_says_which_field_the_gateway_refuses(run, gateway, run_id):
    ended = run(*AGENT, run_id, "hello", "--lease", 0)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"{gateway.url}: 422: lease_seconds: Must be ")


def test_an_agent_without_a_gateway_says_so(run, run_id):
    url = f"http://127.0.0.1:{free_port()}"
    ended = run(*AGENT, run_id, "hello", url=url)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"{url}: ")
    assert ended.stderr.endswith("Connection refused\n")


# The graph


def test_a_graph_that_finds_nothing_says_so(run, store, run_id):
    assert run(*GRAPH_AGENT, run_id, "Why?", "--pace", 0).returncode == 0
    first, *_, last = store.get_events(run_id)
    assert (first.name, first.data) == ("lifecycle.started", {"question": "Why?"})
    assert (last.name, last.data) == ("lifecycle.completed", {"answer": "I do not know. "})


def test_a_graph_whose_step_raises_fails_its_run(monkeypatch, gateway, store, run_id):
    def fail(state: graph_agent.State, run: graph_agent.Run) -> str:
        raise ValueError("there is no plan")

    monkeypatch.setitem(graph_agent.GRAPH, "plan", fail)
    with Client(gateway.url) as client:
        assert graph_agent.run_agent(client, run_id, "Why?", pace=0) == "failed"
    last = store.get_events(run_id)[-1]
    assert (last.name, last.data) == ("lifecycle.failed", {"error": "there is no plan"})


def test_a_graph_that_is_interrupted_cancels_its_run(start, store, run_id):
    process = start(*GRAPH_AGENT, run_id, "--pace", 0.5)
    wait_for_events(store, run_id, "agent.step")
    process.send_signal(signal.SIGINT)
    ended = end_of(process)
    assert (ended.returncode, ended.stderr) == (130, "")
    assert names_of(store, run_id)[-1] == "lifecycle.cancelled"


def test_a_graph_whose_run_is_ended_stops_and_says_why(start, gateway, store, run_id):
    process = start(*GRAPH_AGENT, run_id, "--pace", 0.1)
    wait_for_events(store, run_id, "agent.step")
    cancel(gateway, run_id)
    ended = end_of(process)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"{gateway.url}: run {run_id} ended with event ")
    assert names_of(store, run_id)[-1] == "lifecycle.cancelled"


def test_a_second_graph_reopens_the_run_and_ignores_old_requests(run, gateway, store, run_id):
    store.add(run_id, "lifecycle", "started")
    store.add(run_id, "request", "cancel")
    store.add(run_id, "lifecycle", "cancelled")
    assert run(*GRAPH_AGENT, run_id, "Why?", "--pace", 0).returncode == 0
    assert names_of(store, run_id)[-1] == "lifecycle.completed"


# The worker


def test_each_job_of_the_worker_has_a_run_with_its_progress(run, store, run_id):
    run(*WORKER, run_id)
    for name, rows in (("users", 3), ("orders", 2), ("invoices", 2)):
        end = "lifecycle.failed" if name == "orders" else "lifecycle.completed"
        expected = ["lifecycle.started", *["job.progress"] * rows, end]
        events = store.get_events(f"{run_id}-{name}")
        assert [event.name for event in events] == expected
        assert [event.sequence for event in events] == list(range(1, len(expected) + 1))
        assert [event.data["done"] for event in events[1:-1]] == list(range(1, rows + 1))


def test_a_worker_says_what_is_wrong_with_its_runs(run, gateway):
    ended = run(*WORKER, "a b")
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"{gateway.url}: run_id: must be ")


# The job


@pytest.mark.parametrize(
    "output",
    [
        b"",
        b"no final newline",
        b"\n\n  \n",
        b"\"quotes\" 'and' \\backslashes\\ $HOME `id` %s\n",
        bytes(range(256)) * 2,
        "grüße 日本語 🌊 \u2028\u0085\x0b\n".encode(),
        b"progress 1%\rprogress 2%\r\ndone\r\n",
        b"".join(b"%d\n" % number for number in range(5000)),
        "ü\x01".encode() * 100_000,
    ],
    ids=["none", "unended", "blank", "quotes", "bytes", "unicode", "returns", "many", "long"],
)
def test_the_texts_of_a_job_are_its_output(run, store, run_id, tmp_path, output):
    (tmp_path / "output").write_bytes(output)
    ended = run(JOB, run_id, "cat", tmp_path / "output")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "".join(texts_of(store, run_id)) == output.decode("utf-8", "replace")
    events = store.get_events(run_id)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert (events[0].name, events[-1].name) == ("lifecycle.started", "lifecycle.completed")


def test_a_line_is_an_event_as_soon_as_the_job_prints_it(start, store, run_id, fifo):
    process = start(JOB, run_id, "sh", "-c", f"echo first; cat {fifo}")
    wait_for_events(store, run_id, "job.output")
    fifo.write_text("second\n")
    assert end_of(process).returncode == 0
    assert texts_of(store, run_id) == ["first\n", "second\n"]


@pytest.mark.parametrize(("command", "status"), [("exit 3", 3), ("kill -9 $$", 137)])
def test_a_job_has_the_status_of_its_command(run, store, run_id, command, status):
    assert run(JOB, run_id, "sh", "-c", command).returncode == status
    last = store.get_events(run_id)[-1]
    assert (last.name, last.data) == ("lifecycle.failed", {"exit_code": status})


def test_a_command_that_is_not_found_fails_the_run(run, store, run_id):
    assert run(JOB, run_id, "no-such-command").returncode == 127
    [text] = texts_of(store, run_id)
    assert text.endswith("no-such-command: command not found\n")
    assert names_of(store, run_id)[-1] == "lifecycle.failed"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_job_that_is_interrupted_cancels_its_run(start, store, run_id, fifo, number):
    process = start(JOB, run_id, "sh", "-c", f"echo first; exec cat {fifo}")
    wait_for_events(store, run_id, "job.output")
    os.killpg(process.pid, number)
    ended = end_of(process)
    assert (ended.returncode, ended.stderr) == (128 + number, "")
    assert names_of(store, run_id) == ["lifecycle.started", "job.output", "lifecycle.cancelled"]


def test_a_job_is_not_run_where_its_run_is_not_new(run, gateway, store, run_id, tmp_path):
    assert run(JOB, run_id, "echo", "first").returncode == 0
    ended = run(JOB, run_id, "touch", tmp_path / "mark")
    assert ended.returncode == 1
    assert "the last sequence of the run is 3" in ended.stderr
    assert f"run {run_id}: the command was not run; the run must be new" in ended.stderr
    assert not (tmp_path / "mark").exists()
    assert texts_of(store, run_id) == ["first\n"]

    url = f"{gateway.url}/runs/{run_id}/events"
    requests.delete(url, timeout=5).raise_for_status()
    assert run(JOB, run_id, "echo", "second").returncode == 0
    assert texts_of(store, run_id) == ["second\n"]


def test_a_job_whose_run_is_ended_runs_to_its_end_and_says_what_was_not_stored(
    start, gateway, store, run_id, fifo, tmp_path
):
    command = f"echo first; cat {fifo}; touch {tmp_path}/mark"
    process = start(JOB, run_id, "sh", "-c", command)
    wait_for_events(store, run_id, "job.output")
    cancel(gateway, run_id)
    fifo.write_text("late\n" * 100_000)
    ended = end_of(process)
    assert (tmp_path / "mark").exists()
    assert ended.returncode == 1
    for what in ("not all of the output was stored", "lifecycle.completed was not stored"):
        assert f"run {run_id}: {what}: run {run_id} ended with event " in ended.stderr
    assert names_of(store, run_id) == ["lifecycle.started", "job.output", "lifecycle.cancelled"]


def test_a_job_is_not_run_without_a_gateway(run, run_id, tmp_path):
    url = f"http://127.0.0.1:{free_port()}"
    ended = run(JOB, run_id, "touch", tmp_path / "mark", url=url)
    assert ended.returncode == 1
    assert "the command was not run" in ended.stderr
    assert not (tmp_path / "mark").exists()


def test_a_job_without_a_command_says_how_it_is_used(run, run_id):
    ended = run(JOB, run_id)
    assert ended.returncode == 2
    assert ended.stderr == f"usage: {JOB} RUN_ID COMMAND [ARGUMENT...]\n"
