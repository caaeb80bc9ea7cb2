"""The command `runs`: the list in a pipe and on a terminal, and live."""

import json

import pytest

from tests.integration.command_line.running import Background, Terminal, run
from tests.servers import wait_until


@pytest.fixture
def prefix(store, run_id):
    """Make three runs whose ids begin so: one active, one that has completed, one that failed."""
    for name in ("active", "done", "failed"):
        store.add(f"{run_id}.{name}", "lifecycle", "started", {"task": name})
    store.add(f"{run_id}.done", "lifecycle", "completed")
    store.add(f"{run_id}.failed", "lifecycle", "failed")
    return f"{run_id}."


def rows(text: bytes) -> list[list[str]]:
    return [line.split("\t") for line in text.decode().splitlines()]


def test_in_a_pipe_the_columns_are_separated_by_tabs(gateway, store, prefix):
    listed = rows(run(gateway.url, "runs", "--prefix", prefix).stdout)
    assert sorted((row[0], row[1], row[2], row[5]) for row in listed) == [
        (f"{prefix}active", "active", "1", "lifecycle.started"),
        (f"{prefix}done", "ended", "2", "lifecycle.completed"),
        (f"{prefix}failed", "ended", "2", "lifecycle.failed"),
    ]
    assert all(row[3] == store.get_events(row[0])[0].timestamp for row in listed)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--state", "active"], ["active"]),
        (["--state", "ended"], ["failed", "done"]),
    ],
)
def test_the_list_can_be_narrowed(gateway, prefix, options, names):
    done = run(gateway.url, "runs", "--prefix", prefix, "--json", *options)
    found = [json.loads(line)["run_id"] for line in done.stdout.splitlines()]
    # Those of one millisecond may come in any order.
    assert len(found) == len(names)
    assert set(found) <= {f"{prefix}{name}" for name in names}


def test_more_runs_than_a_page_has_are_listed(gateway, store, run_id):
    for number in range(130):
        store.add(f"{run_id}-{number}", "lifecycle", "started")
    done = run(gateway.url, "runs", "--prefix", f"{run_id}-", "--limit", "120")
    assert len(set(map(tuple, rows(done.stdout)))) == 120


def test_a_terminal_gets_a_table_with_relative_times(gateway, prefix):
    with Terminal(gateway.url, "runs", "--prefix", prefix, columns=100) as terminal:
        assert terminal.end() == 0
        header, *lines = terminal.lines
        assert header.split() == ["RUN", "STATE", "EVENTS", "BEGAN", "LAST", "LAST", "EVENT"]
        assert len(lines) == 3
        assert all(len(line) <= 100 for line in lines)
        assert "\x1b[31m\x1b[1mlifecycle.failed" in terminal.shown


def test_a_pipe_gets_a_line_for_each_change(gateway, store, prefix, folder):
    with Background(folder, gateway.url, "runs", "--watch", "--prefix", prefix) as watching:

        def follows() -> bool:
            store.add(f"{prefix}probe", "lifecycle", "started")
            return "probe" in watching.out

        wait_until(follows, "it follows the changes")
        store.add("another", "lifecycle", "started")
        store.add(f"{prefix}active", "lifecycle", "completed")
        store.delete(f"{prefix}active")
        watching.wait_for("gateway.deleted")
        lines = watching.out.splitlines()
        assert not [line for line in lines if "another" in line]
        assert [line.split()[1:] for line in lines[-2:]] == [
            [f"{prefix}active", "2", "lifecycle.completed"],
            [f"{prefix}active", "-", "gateway.deleted"],
        ]


def test_changes_are_json_if_that_is_asked_for(gateway, store, prefix, folder):
    arguments = ["runs", "--watch", "--json", "--prefix", prefix]
    with Background(folder, gateway.url, *arguments) as watching:

        def follows() -> bool:
            store.add(f"{prefix}probe", "lifecycle", "started")
            return "probe" in watching.out

        wait_until(follows, "it follows the changes")
        first = json.loads(watching.out.splitlines()[0])
        assert first["run_id"] == f"{prefix}probe"
        assert first["event"] == {"category": "lifecycle", "action": "started"}


def test_a_terminal_draws_the_table_again_until_ctrl_c(gateway, store, prefix):
    arguments = ["runs", "--watch", "--prefix", prefix]
    with Terminal(gateway.url, *arguments, columns=100) as terminal:
        terminal.wait_for(f"{prefix}active")
        store.add(f"{prefix}active", "lifecycle", "cancelled")
        terminal.wait_for("lifecycle.cancelled")
        store.add(f"{prefix}new", "lifecycle", "started")
        terminal.wait_for(f"{prefix}new")
        terminal.press(b"\x03")
        assert terminal.end() == 130
        assert "Traceback" not in terminal.shown


@pytest.mark.parametrize("option", [["--state", "active"], ["--limit", "5"]], ids=" ".join)
def test_a_list_of_changes_cannot_be_narrowed_so(gateway, option):
    done = run(gateway.url, "runs", "--watch", *option)
    assert done.returncode == 64
    assert f"{option[0]} cannot stand beside --watch in a pipe" in done.stderr.decode()


def test_a_live_table_is_drawn_without_clearing_the_screen(gateway, prefix):
    with Terminal(gateway.url, "runs", "--watch", "--prefix", prefix, columns=100) as terminal:
        wait_until(lambda: terminal.shown.count("\x1b[H") > 1, "it is drawn again")
        assert "\x1b[2J" not in terminal.shown
        drawing = terminal.shown.split("\x1b[H")[1]
        assert drawing.endswith("\x1b[J")
        assert drawing.count("\x1b[K") == len(drawing.splitlines()) - 1


def test_a_live_table_survives_an_outage(own_gateway, store, prefix):
    arguments = ["runs", "--watch", "--prefix", prefix]
    with Terminal(own_gateway.url, *arguments, columns=100) as terminal:
        terminal.wait_for(f"{prefix}active")
        own_gateway.stop()
        terminal.wait_for("Connection refused")
        own_gateway.start()
        store.add(f"{prefix}new", "lifecycle", "started")
        terminal.wait_for(f"{prefix}new")


def test_a_token_lists_only_what_it_may_read(start_gateway, store, prefix):
    guarded = start_gateway(AUTH_SECRET="s" * 32)
    made = run("", "token", "--read", f"{prefix}done", AUTH_SECRET="s" * 32)
    token = made.stdout.decode().strip()
    listed = rows(run(guarded.url, "runs", "--prefix", prefix, TAILRACE_TOKEN=token).stdout)
    assert [row[0] for row in listed] == [f"{prefix}done"]
    assert run(guarded.url, "runs", "--watch").returncode == 77
