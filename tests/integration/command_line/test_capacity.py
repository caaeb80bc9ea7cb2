"""The command `capacity`: what it prints, and what it refuses."""

import json

import pytest

from tests.integration.command_line.running import run

LOAD = {"--runs": "100", "--viewers": "1000", "--events": "50"}
NO_GATEWAY = ""


def capacity(*more: str, stdin: bytes = b"", **changed: str):
    """Run the command with LOAD, some of whose options are others."""
    load = LOAD | {f"--{name}": value for name, value in changed.items()}
    words = [word for name, value in load.items() for word in (name, value)]
    return run(NO_GATEWAY, "capacity", *words, *more, stdin=stdin)


def test_it_says_what_a_load_needs():
    done = capacity()
    assert (done.returncode, done.stderr) == (0, b"")
    lines = done.stdout.decode().splitlines()
    assert "delivered             500 events/s" in lines
    assert "gateway workers       1, at most 50% of a core each" in lines


def test_as_json_it_says_the_same():
    found = json.loads(capacity("--json").stdout)
    assert (found["workers"], found["delivered"], found["notes"]) == (1, 500, [])


def test_costs_of_ones_own_machine_count():
    slow = b'{"send_us": 11000}'
    assert json.loads(capacity("--json", "--costs", "-", stdin=slow).stdout)["workers"] > 10


def test_costs_that_a_file_lacks_are_those_of_a_cluster_where_one_redis_is_not_enough():
    large = {"viewers": "100000", "events": "20000"}
    found = json.loads(capacity("--json", **large).stdout)
    with_file = capacity("--json", "--costs", "-", stdin=b'{"redis_key_bytes": 290}', **large)
    assert json.loads(with_file.stdout) == found
    assert found["shards"] >= 3


def test_whole_numbers_may_have_an_exponent():
    exponents = {"runs": "1e2", "viewers": "1e3", "event-bytes": "5e2", "kept": "1e3"}
    assert capacity("--json", **exponents).stdout == capacity("--json").stdout


def test_a_million_viewers_of_100_000_runs_are_answered():
    done = capacity(runs="100000", viewers="1000000", events="10000")
    assert b"gateway workers" in done.stdout


@pytest.mark.parametrize("name", LOAD)
def test_every_part_of_the_load_must_be_given(name):
    words = [word for pair in LOAD.items() if pair[0] != name for word in pair]
    done = run(NO_GATEWAY, "capacity", *words)
    assert done.returncode == 64
    assert name.encode() in done.stderr


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        ({"runs": "0"}, b"without runs"),
        ({"runs": "-1"}, b"--runs"),
        ({"runs": "1.5"}, b"must be a whole number from 0 up to 1,000,000,000, not '1.5'"),
        ({"runs": "1e10"}, b"must be a whole number"),
        ({"runs": "nan"}, b"must be a whole number"),
        ({"viewers": "x\x1b[2J"}, b"--viewers"),
        ({"runs": "many"}, b"--runs"),
        ({"runs": "1000000001"}, b"--runs"),
        ({"runs": ""}, b"--runs"),
        ({"viewers": "-1"}, b"--viewers"),
        ({"viewers": "9" * 5000}, b"--viewers"),
        ({"events": "-0.1"}, b"--events"),
        ({"events": "nan"}, b"--events"),
        ({"events": "inf"}, b"--events"),
        ({"events": "1e10"}, b"--events"),
        ({"events": "x\x1b[2J"}, b"--events"),
        ({"event-bytes": "0"}, b"--event-bytes"),
        ({"viewers-per-run": "0"}, b"--viewers-per-run"),
        ({"viewers-per-run": "1001"}, b"1,001 viewers of 1,000"),
        ({"viewers-per-run": "9"}, b"at least 10 viewers per run"),
        ({"merged": "0"}, b"must be a whole number from 1 up to"),
        ({"merged": "101"}, b"101 of 100 runs"),
        ({"kept": "-1"}, b"--kept"),
        ({"costs": "/no/such/file"}, b"--costs"),
        ({"costs": "/dev/null"}, b"--costs: the file is no JSON"),
    ],
)
def test_a_load_that_cannot_be_is_a_usage_error(changed, part):
    done = capacity(**changed)
    assert (done.returncode, done.stdout) == (64, b"")
    assert part in done.stderr
    assert b"Traceback" not in done.stderr
    assert b"\x1b" not in done.stderr


@pytest.mark.parametrize(
    "costs", [b"[]", b"{", b"\xff", b'{"x": 1}', b'{"send_us": -1}', b"[" * 100_000, b"1" * 5000]
)
def test_what_is_no_costs_is_a_usage_error(costs):
    done = capacity("--costs", "-", stdin=costs)
    assert (done.returncode, done.stdout) == (64, b"")
    assert b"Traceback" not in done.stderr
