"""The command `follow`: what it shows, how it ends, and that it survives restarts."""

import json
import os
import signal
import subprocess
import threading

import pytest

from tests.command_line.test_terminal import HOSTILE, is_harmless
from tests.integration.command_line.running import (
    COMMAND,
    Background,
    Terminal,
    closed_reader,
    environment,
    run,
)
from tests.servers import wait_until


def lines(done: subprocess.CompletedProcess[bytes]) -> list[str]:
    return done.stdout.decode().splitlines()


@pytest.fixture
def ended(store, run_id):
    """Make a run that has completed."""
    store.add(run_id, "lifecycle", "started", {"task": "analyse"})
    store.add(run_id, "llm", "stream", {"content": "Hel"})
    store.add(run_id, "llm", "stream", "lo\n")
    store.add(run_id, "tool", "called", {"tool": "search"})
    store.add(run_id, "llm", "stream", {"content": "world"})
    store.add(run_id, "lifecycle", "completed")
    return run_id


@pytest.mark.parametrize(("action", "status"), [("completed", 0), ("failed", 1), ("cancelled", 1)])
def test_the_exit_status_is_how_the_run_ends(gateway, store, run_id, action, status):
    store.add(run_id, "lifecycle", "started")
    store.add(run_id, "lifecycle", action)
    assert run(gateway.url, "follow", run_id).returncode == status
    # There is nothing to show any more.
    done = run(gateway.url, "follow", run_id, "--from", "latest")
    assert (done.returncode, done.stdout, done.stderr) == (status, b"", b"")


def test_a_lost_run_exits_with_2(gateway, store, run_id):
    store.add(run_id, "lifecycle", "started", lease_seconds=1)
    done = run(gateway.url, "follow", run_id)
    assert done.returncode == 2
    assert b"lifecycle.lost" in done.stdout


def test_of_several_runs_the_worst_end_counts(gateway, store, run_id):
    for name, action in (("a", "completed"), ("b", "failed"), ("c", "completed")):
        store.add(f"{run_id}{name}", "lifecycle", action)
    done = run(gateway.url, "follow", f"{run_id}a", f"{run_id}b@earliest", f"{run_id}c@latest")
    assert done.returncode == 1
    assert [line.split()[1:4] for line in lines(done)] == [
        [f"{run_id}a", "1", "lifecycle.completed"],
        [f"{run_id}b", "1", "lifecycle.failed"],
    ]


def test_a_run_that_was_reopened_ends_as_it_ended_last(gateway, store, run_id):
    for action in ("started", "failed", "started", "completed"):
        store.add(run_id, "lifecycle", action)
    assert run(gateway.url, "follow", run_id).returncode == 0


def test_in_a_pipe_each_event_is_a_plain_line(gateway, ended):
    done = run(gateway.url, "follow", ended)
    assert done.stderr == b""
    assert [line.split(maxsplit=1)[1] for line in lines(done)] == [
        '    1 lifecycle.started    {"task":"analyse"}'.strip(),
        '    2 llm.stream           {"content":"Hel"}'.strip(),
        "    3 llm.stream           lo\\n".strip(),
        '    4 tool.called          {"tool":"search"}'.strip(),
        '    5 llm.stream           {"content":"world"}'.strip(),
        "    6 lifecycle.completed".strip(),
    ]


@pytest.mark.parametrize(
    ("options", "sequences"),
    [
        (["--from", "earliest"], [1, 2, 3, 4, 5, 6]),
        (["--from", "-2"], [5, 6]),
        (["--from=-1"], [6]),
        (["--from", "5"], [5, 6]),
        (["--category", "tool"], [4, 6]),
        (["--category", "tool", "--category", "llm"], [2, 3, 4, 5, 6]),
        (["--action", "called"], [4, 6]),
    ],
)
def test_where_it_starts_and_what_it_shows_can_be_chosen(gateway, ended, options, sequences):
    done = run(gateway.url, "follow", ended, "--json", *options)
    assert [json.loads(line)["sequence"] for line in lines(done)] == sequences
    assert done.returncode == 0


def test_it_starts_after_an_id(gateway, store, ended):
    third = store.get_events(ended)[2].id
    assert len(lines(run(gateway.url, "follow", ended, "--from", third))) == 3
    assert len(lines(run(gateway.url, "follow", f"{ended}@{third}"))) == 3


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["a", "--from", "soon"],
        ["a", "--from", "0"],
        ["a@soon"],
        ["a", "a"],
        ["a", "b", "--from", "-3"],
        ["a", "b", "--text"],
        ["a b"],
        ["a", "--url", "ftp://x"],
        ["a", "--token-file", "/does/not/exist"],
        ["a", "--fly"],
    ],
    ids=" ".join,
)
def test_a_usage_error_is_not_taken_for_an_end(gateway, arguments):
    done = run(gateway.url, "follow", *arguments)
    assert done.returncode == 64
    assert done.stdout == b""
    assert b"Traceback" not in done.stderr


def test_json_is_what_the_gateway_sends(gateway, store, ended):
    done = run(gateway.url, "follow", ended, "--json")
    assert done.stdout.splitlines() == [event.to_json() for event in store.get_events(ended)]


def test_text_joins_the_tokens_and_nothing_else(gateway, ended):
    done = run(gateway.url, "follow", ended, "--text")
    assert (done.stdout, done.stderr) == (b"Hello\nworld", b"")


def test_text_of_other_categories_is_joined_if_they_are_named(gateway, store, run_id):
    for category, text in (("agent", "one "), ("llm", "no"), ("agent", "two")):
        store.add(run_id, category, "said", {"text": text})
    store.add(run_id, "lifecycle", "completed", "no")
    assert run(gateway.url, "follow", run_id, "--text", "--category", "agent").stdout == b"one two"


def test_a_terminal_gets_colours_and_notes_beside_the_text(gateway, ended):
    with Terminal(gateway.url, "follow", ended) as terminal:
        assert terminal.end() == 0
        assert "\x1b[34mllm.stream" in terminal.shown
        assert "\x1b[32m\x1b[1mlifecycle.completed" in terminal.shown
    with Terminal(gateway.url, "follow", ended, "--text") as terminal:
        assert terminal.end() == 0
        assert terminal.lines == [
            "lifecycle.started", "Hello", "tool.called", "world", "lifecycle.completed",
        ]  # fmt: skip


def test_no_color_is_respected(gateway, ended):
    with Terminal(gateway.url, "follow", ended, NO_COLOR="1") as terminal:
        assert terminal.end() == 0
        assert "\x1b" not in terminal.shown


def test_a_line_is_cut_at_the_edge_of_the_terminal(gateway, store, run_id):
    store.add(run_id, "tool", "called", "世界" * 100)
    store.add(run_id, "lifecycle", "completed", "x" * 100)
    with Terminal(gateway.url, "follow", run_id, columns=60) as terminal:
        assert terminal.end() == 0
        first, second = terminal.lines
        assert first.endswith("世…")
        assert len(second) == 60
    with Terminal(gateway.url, "follow", run_id, "--full", columns=60) as terminal:
        terminal.end()
        assert "x" * 100 in terminal.shown
    assert "x" * 100 in run(gateway.url, "follow", run_id).stdout.decode()


@pytest.fixture
def hostile(store, redis_client, run_id):
    """Make a run whose texts want to take the terminal over."""
    text = "".join(HOSTILE.values())
    store.add(run_id, "llm", "stream", text)
    store.add(run_id, "llm", "stream", {"content": text, text: [text]})
    fields = {"event_category": "a\x1b[2J", "event_action": "\u202eb", "timestamp": "\x07",
              "data": '{"content":"\u202e\x9b2J\x7f"}'}  # fmt: skip
    redis_client.xadd(f"run:{run_id}:events", fields)
    store.add(run_id, "lifecycle", "completed")
    return run_id


@pytest.mark.parametrize("option", [[], ["--text"], ["--json"], ["--full"]], ids=str)
def test_nothing_that_a_terminal_obeys_is_shown_raw(gateway, hostile, option):
    done = run(gateway.url, "follow", hostile, *option)
    assert done.returncode == 0
    if option == ["--text"]:  # a file gets the text itself
        assert done.stdout.decode() == "".join(HOSTILE.values()).replace("\ud83d", "\ufffd") * 2
    else:
        assert is_harmless(done.stdout.decode())
    with Terminal(gateway.url, "follow", hostile, *option, NO_COLOR="1") as terminal:
        assert terminal.end() == 0
        assert is_harmless(terminal.shown.replace("\r\n", "\n"))


def test_ctrl_c_ends_it_quietly(gateway, run_id, store):
    store.add(run_id, "lifecycle", "started")
    with Terminal(gateway.url, "follow", run_id) as terminal:
        terminal.wait_for("lifecycle.started")
        terminal.press(b"\x03")
        assert terminal.end() == 130
        assert "Traceback" not in terminal.shown
        assert "Abort" not in terminal.shown


def test_head_ends_it_quietly(gateway, store, run_id):
    for number in range(3000):
        store.add(run_id, "llm", "stream", f"token {number} {'x' * 100}")
    script = f"{' '.join(COMMAND)} follow {run_id} | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script], env=environment(gateway.url), capture_output=True, timeout=50
    )
    first, status = done.stdout.decode().splitlines()
    assert "token 0" in first
    assert status == "141"
    assert done.stderr == b""


def test_it_ends_when_nobody_reads_even_if_nothing_happens(gateway, run_id):
    with closed_reader(gateway.url, "follow", run_id) as process:
        assert process.wait(50) == 141
        assert process.stderr.read() == b""


@pytest.mark.parametrize(("redirection", "status"), [(">&-", "74"), (">/dev/full", "74")])
def test_an_output_that_cannot_be_written_is_one_line(gateway, ended, redirection, status):
    script = f"{' '.join(COMMAND)} follow {ended} {redirection}; echo $? >&2"
    done = subprocess.run(
        ["bash", "-c", script], env=environment(gateway.url), capture_output=True, timeout=50
    )
    said, shown = done.stderr.decode().splitlines()
    assert shown == status
    assert said.startswith("tailrace: ")


def test_a_failure_that_cannot_be_told_keeps_its_status(gateway):
    script = f"{' '.join(COMMAND)} export nothing 2>/dev/full"
    done = subprocess.run(["bash", "-c", script], env=environment(gateway.url), timeout=50)
    assert done.returncode == 65


def test_missing_events_are_told_with_their_number(gateway, store, redis_client, run_id):
    for number in range(20):
        store.add(run_id, "llm", "stream", number)
    redis_client.xtrim(f"run:{run_id}:events", maxlen=8, approximate=False)
    store.add(run_id, "lifecycle", "completed")
    done = run(gateway.url, "follow", run_id)
    assert lines(done)[0] == "… 12 events are gone"
    assert len(lines(done)) == 10


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_a_gap_never_stands_in_the_text(gateway, store, redis_client, run_id, redirection):
    for text in ("a", "b"):
        store.add(run_id, "llm", "stream", text)
    redis_client.xtrim(f"run:{run_id}:events", maxlen=1, approximate=False)
    store.add(run_id, "lifecycle", "completed")
    script = f"{' '.join(COMMAND)} follow {run_id} --text {redirection}"
    done = subprocess.run(
        ["bash", "-c", script], env=environment(gateway.url), capture_output=True, timeout=50
    )
    assert (done.returncode, done.stdout) == (0, b"b")


def test_every_event_is_shown_once_over_reloads_and_crashes(own_gateway, store, run_id, folder):
    store.add(run_id, "lifecycle", "started")
    with Background(folder, own_gateway.url, "follow", run_id, "--json") as following:
        following.wait_for("started")
        stop = threading.Event()

        def produce() -> None:
            while not stop.wait(0.002):  # slowly, so that nothing is trimmed
                store.add(run_id, "llm", "stream", "token")

        producer = threading.Thread(target=produce)
        producer.start()
        try:
            for disturb in (
                lambda: own_gateway.process.send_signal(signal.SIGHUP),
                lambda: own_gateway.workers()[0].kill(),
                lambda: (own_gateway.stop(), own_gateway.start()),
            ):
                before = len(following.out)
                wait_until(lambda: len(following.out) > before + 5000, "it shows events")  # noqa: B023
                disturb()
            before = len(following.out)
            wait_until(lambda: len(following.out) > before + 5000, "it goes on")
        finally:
            stop.set()
            producer.join()
        store.add(run_id, "lifecycle", "completed")
        assert following.end() == 0
        shown = [json.loads(line) for line in following.out.splitlines()]
        events = [event for event in shown if event["event"]["category"] != "gateway"]
        assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
        assert len(events) == store.state(run_id).last_sequence


def test_a_gateway_that_is_away_is_awaited_and_that_is_said_once(own_gateway, run_id, folder):
    own_gateway.stop()
    with Background(folder, own_gateway.url, "follow", run_id) as following:
        wait_until(lambda: "Connection refused" in following.err, "it says so")
        own_gateway.start()
        for action in ("started", "completed"):
            assert run(own_gateway.url, "append", run_id, f"lifecycle.{action}").returncode == 0
        assert following.end() == 0
        assert following.err.splitlines() == [
            f"tailrace: waiting for {own_gateway.url}: no response from the gateway: "
            "Connection refused",
            f"tailrace: {own_gateway.url} is back",
        ]


@pytest.mark.parametrize(
    ("environ", "status", "said"),
    [({}, 77, "not allowed: 401"), ({"TAILRACE_TOKEN": "x" * 32}, 77, "not allowed: 401")],
)
def test_a_token_that_is_missing_or_wrong_is_one_line(start_gateway, run_id, environ, status, said):
    guarded = start_gateway(AUTH_SECRET="s" * 32)
    done = run(guarded.url, "follow", run_id, **environ)
    assert done.returncode == status
    [line] = done.stderr.decode().splitlines()
    assert said in line
    assert "x" * 32 not in line


def test_a_token_comes_from_the_environment_or_from_a_file(start_gateway, run_id, folder):
    guarded = start_gateway(AUTH_SECRET="s" * 32)
    made = run("", "token", "--append", run_id, "--read", run_id, AUTH_SECRET="s" * 32)
    token = made.stdout.decode().strip()
    (folder / "token").write_text(f"{token}\n")
    append = ["append", run_id, "lifecycle.completed"]
    assert run(guarded.url, *append, TAILRACE_TOKEN=token).returncode == 0
    follow = ["follow", run_id, "--token-file", str(folder / "token")]
    assert run(guarded.url, *follow).returncode == 0
    done = run(guarded.url, "follow", "another", TAILRACE_TOKEN=token)
    assert done.returncode == 77
    assert b"403" in done.stderr


def test_a_server_that_is_no_gateway_is_one_line(gateway, run_id):
    done = run(f"{gateway.url}/no/gateway", "follow", run_id)
    assert done.returncode == 65
    assert len(done.stderr.splitlines()) == 1
    assert b"404" in done.stderr


def test_the_first_event_comes_through_a_pipe_at_once(gateway, store, run_id):
    """Nothing waits in a buffer: the reader gets each line while the command runs."""
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [*COMMAND, "follow", run_id], env=environment(gateway.url), stdout=writing
    )
    os.close(writing)
    try:
        store.add(run_id, "lifecycle", "started")
        assert b"lifecycle.started" in os.read(reading, 1000)
    finally:
        process.kill()
        process.wait()
        os.close(reading)
