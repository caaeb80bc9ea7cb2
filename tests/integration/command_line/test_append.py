"""The commands `append` and `request`."""

import json
import subprocess

import pytest

from tests.integration.command_line.running import run


def said(done: subprocess.CompletedProcess[bytes]) -> str:
    assert b"Traceback" not in done.stderr
    return done.stderr.decode()


def test_the_id_of_the_event_is_printed(gateway, store, run_id):
    done = run(gateway.url, "append", run_id, "tool.called", "--source", '{"host":"a"}')
    [event] = store.get_events(run_id)
    assert done.stdout.decode() == f"{event.id}\n"
    assert (event.category, event.action, event.data, event.source) == (
        "tool", "called", None, {"host": "a"},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "stdin", "data"),
    [
        (["--data", '{"z":1.0,"a":[1e2,"\\u00e9"]}'], b"", b'{"z":1.0,"a":[100.0,"\xc3\xa9"]}'),
        (["--data", "18446744073709551615"], b"", b"18446744073709551615"),
        (["--data", "-"], b'{\n  "a": 1\n}\n', b'{"a":1}'),
        (["--data", '"\\ud83d"'], b"", b'"\xef\xbf\xbd"'),
        (["--text", "plain"], b"", b'"plain"'),
        (["--text", "-"], b"two\nlines\n\xff", b'"two\\nlines\\n\xef\xbf\xbd"'),
        (["--data", "-5"], b"", b"-5"),
    ],
)
def test_the_data_are_json_or_a_text(gateway, store, run_id, options, stdin, data):
    done = run(gateway.url, "append", run_id, "llm.stream", *options, stdin=stdin)
    assert done.returncode == 0, said(done)
    assert store.get_events(run_id)[0].data_json == data


@pytest.mark.parametrize(
    ("options", "status", "part"),
    [
        (["--data", "hello"], 64, "use --text"),
        (["--data", "1", "--text", "1"], 64, "--text"),
        (["--data", "-", "--source", "-"], 64, "only once"),
        (["--key", "not visible"], 64, "idempotency_key"),
        (["--lease", "0"], 64, "lease_seconds"),
        (["--data", "18446744073709551616"], 65, "data"),
        (["--data", "[" * 200 + "]" * 200], 65, "data"),
        (["--expected-sequence", "7"], 65, "the last sequence of the run is 0"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_stored(
    gateway, store, run_id, options, status, part
):
    done = run(gateway.url, "append", run_id, "llm.stream", *options)
    assert done.returncode == status
    assert part in said(done)
    assert store.get_events(run_id) == []


@pytest.mark.parametrize(
    ("name", "status"), [("stream", 64), ("gateway.gap", 65), ("a.b.c", 65), ("lifecycle.lost", 65)]
)
def test_the_name_is_a_category_and_an_action(gateway, run_id, name, status):
    assert run(gateway.url, "append", run_id, name).returncode == status


def test_data_that_are_too_large_are_refused(gateway, run_id):
    done = run(gateway.url, "append", run_id, "a.b", "--text", "-", stdin=b"x" * 300_000)
    assert done.returncode == 65
    assert "262144" in said(done)


def test_a_repeat_with_a_key_stores_nothing(gateway, store, run_id):
    command = ["append", run_id, "tool.called", "--key", "k", "--json"]
    first, second = (json.loads(run(gateway.url, *command).stdout) for _ in range(2))
    assert (first["sequence"], first["repeated"], second["repeated"]) == (1, False, True)
    assert first["id"] == second["id"] == store.get_events(run_id)[0].id


def test_a_run_that_has_ended_takes_nothing_more(gateway, store, run_id):
    store.add(run_id, "lifecycle", "completed")
    assert run(gateway.url, "append", run_id, "tool.called").returncode == 65


def test_data_of_a_request_are_not_rounded(gateway, store, run_id):
    store.add(run_id, "lifecycle", "started")
    assert run(gateway.url, "request", run_id, "a", "--data", str(2**70)).returncode == 65
    assert run(gateway.url, "request", run_id, "a", "--data", "1.0").returncode == 0
    assert store.get_events(run_id)[-1].data_json == b"1.0"


def test_a_request_reaches_the_log_of_the_run(gateway, store, run_id):
    assert run(gateway.url, "request", run_id, "cancel").returncode == 65  # there is no run
    store.add(run_id, "lifecycle", "started")
    done = run(gateway.url, "request", run_id, "cancel", "--data", '{"by":"ada"}')
    event = store.get_events(run_id)[-1]
    assert done.stdout.decode() == f"{event.id}\n"
    assert (event.name, event.data) == ("request.cancel", {"by": "ada"})
