"""The command `pipe` stores each line once and at once, with any bytes and over restarts."""

import json
import signal
import subprocess

import pytest

from tests.integration.command_line.running import COMMAND, Background, Terminal, environment, run
from tests.servers import wait_until


def data_of(store, run_id: str) -> list:
    return [event.data for event in store.get_events(run_id)]


def names_of(store, run_id: str) -> list[str]:
    return [event.name for event in store.get_events(run_id)]


def test_each_line_is_an_event_at_once(gateway, store, run_id, folder):
    with Background(folder, gateway.url, "pipe", run_id) as piping:
        for number in range(3):
            piping.write(f"line {number}\n".encode())
            wait_until(lambda: len(data_of(store, run_id)) == number + 1, "it is stored")  # noqa: B023
        piping.write(b"without an end")
        assert piping.end() == 0
        assert piping.out + piping.err == ""
    assert data_of(store, run_id) == ["line 0", "line 1", "line 2", "without an end"]
    assert set(names_of(store, run_id)) == {"log.line"}


def test_odd_bytes_are_kept_as_far_as_json_can(gateway, store, run_id):
    stdin = b"\xff\xfe\n\0\n\x1b[31m\r\n\n10%\r20%\n\xf0\x9f\x98\x80\n"
    assert run(gateway.url, "pipe", run_id, stdin=stdin).returncode == 0
    assert data_of(store, run_id) == ["\ufffd\ufffd", "\0", "\x1b[31m", "", "10%\r20%", "😀"]


def test_a_line_of_megabytes_is_split_into_events_that_say_so(gateway, store, run_id):
    stdin = b"a" * 1_000_000 + b"\nshort\n"
    assert run(gateway.url, "pipe", run_id, stdin=stdin).returncode == 0
    *parts, short = store.get_events(run_id)
    assert [part.source for part in parts] == [{"continued": True}] * 24 + [None]
    assert "".join(part.data for part in parts) == "a" * 1_000_000
    assert short.data == "short"
    run(gateway.url, "append", run_id, "lifecycle.completed")
    assert run(gateway.url, "follow", run_id, "--text").stdout == stdin


def test_names_and_lifecycle_can_be_asked_for(gateway, store, run_id):
    options = ["--category", "build", "--action", "out", "--lifecycle"]
    assert run(gateway.url, "pipe", run_id, *options, stdin=b"a\n").returncode == 0
    assert names_of(store, run_id) == ["lifecycle.started", "build.out", "lifecycle.completed"]


@pytest.mark.parametrize(
    "command",
    ["pipe {} --lifecycle", "append {} a.b --data -", "import"],
    ids=["pipe", "append", "import"],
)
def test_a_closed_input_is_a_usage_error(gateway, store, run_id, command):
    script = f"{' '.join(COMMAND)} {command.format(run_id)} <&-"
    done = subprocess.run(
        ["bash", "-c", script], env=environment(gateway.url), capture_output=True, timeout=50
    )
    assert done.returncode == 64
    assert b"standard input is closed" in done.stderr
    assert b"Traceback" not in done.stderr
    assert store.get_events(run_id) == []


def test_tee_passes_the_bytes_on(gateway, run_id):
    stdin = b"\xff\0odd\r\nno end"
    assert run(gateway.url, "pipe", run_id, "--tee", stdin=stdin).stdout == stdin


def test_tee_goes_on_storing_when_nobody_reads_any_more(gateway, store, run_id):
    script = (
        f"seq 20000 | {' '.join(COMMAND)} pipe {run_id} --tee | head -1; echo ${{PIPESTATUS[1]}}"
    )
    done = subprocess.run(
        ["bash", "-c", script], env=environment(gateway.url), capture_output=True, timeout=50
    )
    assert done.stdout.decode().split() == ["1", "0"]
    assert done.stderr == b""
    assert store.state(run_id).last_sequence == 20000


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full"])
def test_tee_says_once_that_the_output_cannot_be_written(gateway, store, run_id, redirection):
    script = f"seq 20000 | {' '.join(COMMAND)} pipe {run_id} --tee {redirection}"
    done = subprocess.run(
        ["bash", "-c", script], env=environment(gateway.url), capture_output=True, timeout=50
    )
    assert done.returncode == 74
    [said] = done.stderr.decode().splitlines()
    assert said.startswith(("tailrace: cannot write to", "tailrace: standard output is closed"))
    assert store.state(run_id).last_sequence == 20000


def test_lines_of_json_are_events(gateway, store, run_id):
    lines = [
        {"event_category": "tool", "event_action": "called", "data": {"z": 1.0, "a": 2}},
        {"event": {"category": "llm", "action": "stream"}, "data": "x", "source": {"h": 1}},
    ]
    stdin = "\n\n".join(map(json.dumps, lines)).encode()
    assert run(gateway.url, "pipe", run_id, "--ndjson", stdin=stdin).returncode == 0
    first, second = store.get_events(run_id)
    assert first.data_json == b'{"z":1.0,"a":2}'
    assert (second.name, second.data, second.source) == ("llm.stream", "x", {"h": 1})


def test_a_wrong_line_of_json_is_left_out_and_named(gateway, store, run_id):
    good = b'{"event_category":"a","event_action":"b","data":%d}\n'
    huge = good % 10**30
    stdin = good % 1 + b"oops\n" + b'{"data":1}\n' + huge + good % 2
    done = run(gateway.url, "pipe", run_id, "--ndjson", stdin=stdin)
    assert done.returncode == 65
    assert data_of(store, run_id) == [1, 2]
    said = done.stderr.decode().splitlines()
    assert said[0].startswith("tailrace: line 2: line: is not JSON")
    assert said[1].startswith("tailrace: line 3: event_category")
    assert "1 events were refused, and are left out" in said[-1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stores_what_came_and_ends_the_run(gateway, store, run_id, folder, number):
    with Background(folder, gateway.url, "pipe", run_id, "--lifecycle") as piping:
        piping.write(b"one\ntwo\nthr")
        wait_until(lambda: len(data_of(store, run_id)) == 3, "the first lines are stored")
        piping.write(b"ee")
        piping.process.send_signal(number)
        assert piping.process.wait(50) == 128 + number
        assert piping.err == ""
    assert data_of(store, run_id) == [None, "one", "two", "three", None]
    assert names_of(store, run_id)[-1] == "lifecycle.cancelled"


def test_a_signal_that_comes_twice_at_once_is_one(gateway, store, run_id, folder):
    """`timeout` sends it to the process, and to its group."""
    with Background(folder, gateway.url, "pipe", run_id) as piping:
        piping.write(b"one\n")
        wait_until(lambda: data_of(store, run_id), "it has begun")
        piping.write(b"two\nthree\n")
        piping.process.send_signal(signal.SIGTERM)
        piping.process.send_signal(signal.SIGTERM)
        assert piping.process.wait(50) == 143
    assert data_of(store, run_id) == ["one", "two", "three"]


def test_a_signal_ends_it_even_if_the_input_never_ends(gateway, store, run_id):
    writing = subprocess.Popen(["yes"], stdout=subprocess.PIPE)
    piping = subprocess.Popen(
        [*COMMAND, "pipe", run_id], env=environment(gateway.url), stdin=writing.stdout
    )
    writing.stdout.close()
    try:
        wait_until(lambda: store.state(run_id).last_sequence, "it has begun")
        piping.terminate()
        assert piping.wait(50) == 143
    finally:
        for process in (piping, writing):
            process.kill()
            process.wait()


def test_no_line_is_lost_or_doubled_over_crashes_and_restarts(own_gateway, store, run_id, folder):
    count = 0
    with Background(folder, own_gateway.url, "pipe", run_id) as piping:

        def write(lines: int) -> None:
            nonlocal count
            for _ in range(lines):
                count += 1
                piping.write(b"line %d\n" % count)

        for disturb in (
            lambda: own_gateway.process.send_signal(signal.SIGHUP),
            lambda: own_gateway.workers()[0].kill(),
            lambda: own_gateway.stop(),
        ):
            write(1000)
            disturb()
            write(1000)
        own_gateway.start()
        write(1000)
        assert piping.end() == 0
        assert piping.err == ""
    assert data_of(store, run_id) == [f"line {number}" for number in range(1, count + 1)]


def test_events_that_wait_for_a_gateway_are_told_once(own_gateway, store, run_id, folder):
    own_gateway.stop()
    with Background(folder, own_gateway.url, "pipe", run_id) as piping:
        piping.write(b"a\nb\n")
        wait_until(lambda: "waiting for" in piping.err, "it says so")
        own_gateway.start()
        wait_until(lambda: "is back" in piping.err, "it says that too")
        assert piping.end() == 0
        assert piping.err.splitlines() == [
            f"tailrace: waiting for {own_gateway.url}: 2 events are not stored yet",
            f"tailrace: {own_gateway.url} is back",
        ]
    assert data_of(store, run_id) == ["a", "b"]


def test_what_is_typed_is_stored_until_ctrl_c(gateway, store, run_id):
    with Terminal(gateway.url, "pipe", run_id, "--lifecycle") as terminal:
        wait_until(lambda: names_of(store, run_id), "it has begun")
        terminal.press(b"one\ntwo\n")
        wait_until(lambda: len(data_of(store, run_id)) == 3, "both lines are stored")
        terminal.press(b"\x03")
        assert terminal.end() == 130
    assert data_of(store, run_id)[1:3] == ["one", "two"]
    assert names_of(store, run_id)[-1] == "lifecycle.cancelled"


def test_after_a_final_error_it_says_so_and_reads_on(gateway, store, run_id):
    """If `pipe` stopped reading, SIGPIPE would kill the program that writes."""
    store.add(run_id, "lifecycle", "completed")
    script = f"set -o pipefail; seq 100000 | {' '.join(COMMAND)} pipe {run_id} --tee | wc -l"
    done = subprocess.run(
        ["bash", "-c", f"{script}; echo ${{PIPESTATUS[*]}}"],
        env=environment(gateway.url),
        capture_output=True,
        timeout=50,
    )
    assert done.stdout.decode().split() == ["100000", "0", "65", "0"]
    said = done.stderr.decode().splitlines()
    assert said[0].startswith("tailrace: nothing more is stored: ")
    assert len(said) == 2


def test_after_a_signal_it_says_what_waits_and_how_to_end_it(own_gateway, run_id, folder):
    own_gateway.stop()
    with Background(folder, own_gateway.url, "pipe", run_id) as piping:
        piping.write(b"a\nb\n")
        wait_until(lambda: "waiting for" in piping.err, "it has begun")
        piping.process.send_signal(signal.SIGTERM)
        told = "tailrace: 2 events are not stored yet; a second signal ends this at once"
        wait_until(lambda: told in piping.err.splitlines(), "it says so")
        piping.process.send_signal(signal.SIGTERM)
        assert piping.process.wait(50) == 143


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1"])
def test_a_time_that_is_no_number_is_a_usage_error(gateway, run_id, seconds):
    done = run(gateway.url, "pipe", run_id, "--retry", seconds)
    assert done.returncode == 64
    assert b"--retry" in done.stderr


def test_a_gateway_that_stays_away_ends_it_with_its_own_status(own_gateway, run_id):
    own_gateway.stop()
    done = run(own_gateway.url, "pipe", run_id, "--retry", "0.1", stdin=b"a\nb\n")
    assert done.returncode == 69
    assert b"Connection refused" in done.stderr
    assert b"2 events are not stored" in done.stderr
