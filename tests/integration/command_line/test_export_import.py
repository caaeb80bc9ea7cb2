"""The commands `export` and `import`: every event, byte for byte, over breaks and repeats."""

import gzip
import json
import signal
import subprocess

import pytest

from app.command_line.given_json import MAX_LINE_BYTES
from tests.command_line.test_terminal import is_harmless
from tests.integration.command_line.running import COMMAND, Background, Terminal, environment, run
from tests.servers import wait_until

ODD_DATA = [
    b"1.0", b"1e5", b"-0.0", b'{"z":1,"a":[2,{}]}', b"18446744073709551615", b'"\xc2\x80\\u0000"',
    "\"Grüße 世界 😀 \u202e\"".encode(), b"null", b'""',
]  # fmt: skip


def said(done: subprocess.CompletedProcess[bytes]) -> str:
    assert b"Traceback" not in done.stderr
    return done.stderr.decode()


def fill(store, run_id: str, count: int) -> None:
    """Append events in batches."""
    for start in range(0, count, 500):
        events = [
            {"event_category": "llm", "event_action": "stream", "data": {"n": number}}
            for number in range(start, min(count, start + 500))
        ]
        store.add_many(run_id, events)


def contents(lines: bytes) -> list[tuple]:
    """Return what an import keeps of the lines: the names and the bytes of data and source."""
    return [
        (line[line.index(b'"event":') :], json.loads(line)["sequence"])
        for line in lines.splitlines()
    ]


def line_of(run_id: str) -> bytes:
    return b'{"event":{"category":"a","action":"b"},"run_id":"%b"}\n' % run_id.encode()


@pytest.fixture
def odd(redis_client, store, run_id):
    """Make a run with odd data, some of it by another program."""
    store.add(run_id, "lifecycle", "started", {"z": 1.0, "a": None}, {"host": "a"})
    for data in ODD_DATA:
        store.add(run_id, "tool", "said", json.loads(data))
    return run_id


def test_lines_are_those_of_the_gateway(gateway, store, redis_client, odd):
    data = b'{"b":1.50,"a":1e3, "n":1' + b"0" * 30 + b"}"
    names = {"event_category": "x", "event_action": "y"}
    redis_client.xadd(f"run:{odd}:events", {**names, "data": data})
    done = run(gateway.url, "export", odd)
    assert done.returncode == 0, said(done)
    assert done.stdout == b"".join(event.to_json() + b"\n" for event in store.get_events(odd))
    assert b'"data":' + data in done.stdout
    assert said(done).startswith(f"tailrace: run {odd}: {len(ODD_DATA) + 2} events, up to ")
    quiet = run(gateway.url, "export", "--quiet", odd)
    assert (quiet.stdout, quiet.stderr) == (done.stdout, b"")


def test_a_run_without_a_log_is_named_and_the_others_are_exported(gateway, store, run_id):
    store.add(run_id, "tool", "called")
    done = run(gateway.url, "export", "no-such-run", run_id)
    assert done.returncode == 65
    assert "run no-such-run has no log" in said(done)
    assert len(done.stdout.splitlines()) == 1


def test_on_a_terminal_the_lines_are_harmless_json(gateway, odd):
    with Terminal(gateway.url, "export", odd) as terminal:
        assert terminal.end() == 0
        assert is_harmless(terminal.shown.replace("\r\n", "\n"))


def test_an_import_has_the_same_events(gateway, odd, folder):
    exported = run(gateway.url, "export", odd).stdout
    (folder / "x.ndjson").write_bytes(exported)
    done = run(gateway.url, "import", "--run", f"{odd}-copy", str(folder / "x.ndjson"))
    count = len(ODD_DATA) + 1
    assert done.returncode == 0, said(done)
    assert said(done) == (f"tailrace: run {odd}-copy: {count} events appended; {count} compared\n")
    copy = run(gateway.url, "export", f"{odd}-copy").stdout
    assert contents(copy) == contents(exported)
    again = run(gateway.url, "import", "--run", f"{odd}-copy", stdin=exported)
    assert again.returncode == 0
    assert f"0 events appended, {count} were there already; {count} compared" in said(again)


def test_several_runs_keep_their_names_or_get_others(gateway, store, run_id):
    for name in "ab":
        store.add(f"{run_id}{name}", "lifecycle", "started", name)
        store.add(f"{run_id}{name}", "lifecycle", "completed")
    exported = run(gateway.url, "export", f"{run_id}a", f"{run_id}b").stdout
    done = run(gateway.url, "import", "--map", f"{run_id}a={run_id}c", stdin=exported)
    assert done.returncode == 0, said(done)
    assert store.get_events(f"{run_id}c")[0].data == "a"
    assert f"run {run_id}b: 0 events appended, 2 were there already" in said(done)
    both = run(gateway.url, "import", "--run", f"{run_id}d", stdin=exported)
    assert both.returncode == 65
    assert f"cannot both become {run_id}d" in said(both)


def test_a_run_that_has_other_events_is_refused(gateway, store, run_id):
    fill(store, run_id, 3)
    exported = run(gateway.url, "export", run_id).stdout
    store.add("other", "llm", "stream", "another")
    done = run(gateway.url, "import", "--run", "other", stdin=exported)
    assert done.returncode == 65
    assert "run other: event 1 is another one than in the file" in said(done)
    assert store.state("other").last_sequence == 1


def test_an_export_that_has_grown_is_imported_from_where_it_had_ended(gateway, store, run_id):
    fill(store, run_id, 700)
    exported = run(gateway.url, "export", run_id).stdout
    run(gateway.url, "import", "--run", f"{run_id}x", stdin=exported)
    fill(store, run_id, 10)
    exported = run(gateway.url, "export", run_id).stdout
    done = run(gateway.url, "import", "--run", f"{run_id}x", stdin=exported)
    assert "10 events appended, 700 were there already; 710 compared" in said(done)
    assert contents(run(gateway.url, "export", f"{run_id}x").stdout) == contents(exported)


def test_a_run_that_was_reopened_is_imported_too(gateway, store, run_id):
    for action in ("started", "failed", "started", "completed"):
        store.add(run_id, "lifecycle", action)
    exported = run(gateway.url, "export", run_id).stdout
    assert run(gateway.url, "import", "--run", f"{run_id}x", stdin=exported).returncode == 0
    assert store.state(f"{run_id}x").ended


def test_a_lost_run_becomes_a_failed_one_and_that_is_said(gateway, store, run_id):
    store.add(run_id, "lifecycle", "started", lease_seconds=1)
    assert run(gateway.url, "follow", run_id).returncode == 2
    exported = run(gateway.url, "export", run_id).stdout
    for _ in range(2):
        done = run(gateway.url, "import", "--run", f"{run_id}x", stdin=exported)
        assert done.returncode == 0
        assert "1 lifecycle.lost became lifecycle.failed" in said(done)
    last = store.get_events(f"{run_id}x")[-1]
    assert (last.name, last.source) == ("lifecycle.failed", {"imported": "lifecycle.lost"})


def test_what_follow_printed_is_imported_without_its_notices(gateway, store, redis_client, run_id):
    fill(store, run_id, 5)
    redis_client.xtrim(f"run:{run_id}:events", maxlen=2, approximate=False)
    store.add(run_id, "lifecycle", "completed")
    printed = run(gateway.url, "follow", run_id, "--from", "2", "--json").stdout
    done = run(gateway.url, "import", "--run", f"{run_id}x", stdin=printed)
    assert done.returncode == 0
    assert "events of the category gateway were left out" in said(done)
    assert store.state(f"{run_id}x").length == 3


@pytest.mark.parametrize(
    ("line", "part"),
    [
        (b"oops", "line 2: line: is not JSON"),
        (b'{"event":{"category":"a","action":"b c"}}', "line 2: event_action"),
        (b'{"event":{"category":"a","action":"b"},"data":1' + b"0" * 30 + b"}", "line 2: "),
        (b'{"event":{"category":"a","action":"b"},"run_id":"b a"}', "line 2: run_id"),
    ],
)
def test_a_line_that_cannot_be_imported_is_named(gateway, run_id, line, part):
    good = b'{"event":{"category":"a","action":"b"},"run_id":"%b"}' % run_id.encode()
    line = line.replace(b'"action":"b"}', b'"action":"b"},"run_id":"%b"' % run_id.encode(), 1)
    done = run(gateway.url, "import", stdin=good + b"\n" + line + b"\n")
    assert done.returncode == 65
    assert part in said(done)


@pytest.mark.parametrize(
    "arguments",
    [["--map", "a"], ["--run", "a b"], ["--run", "a", "--map", "b=c"], ["/does/not/exist"]],
    ids=" ".join,
)
def test_wrong_arguments_of_an_import_are_usage_errors(gateway, arguments):
    done = run(gateway.url, "import", *arguments)
    assert done.returncode == 64
    assert said(done)


def test_events_that_the_target_trims_at_once_are_told(start_gateway, start_redis, store, run_id):
    small = start_gateway(start_redis().url, STREAM_MAXLEN=100)
    fill(store, run_id, 3000)
    big = start_gateway()
    exported = run(big.url, "export", run_id).stdout
    done = run(small.url, "import", stdin=exported)
    assert done.returncode == 0, said(done)
    assert "3000 events appended" in said(done)
    assert "are trimmed already, see STREAM_MAXLEN" in said(done)
    again = run(small.url, "import", stdin=exported)
    assert "0 events appended, 3000 were there already" in said(again)


def test_an_export_goes_on_over_crashes_and_reloads(own_gateway, store, run_id, folder):
    data = "x" * 20_000
    for start in range(0, 2000, 50):
        events = [
            {"event_category": "llm", "event_action": "stream", "data": [start + n, data]}
            for n in range(50)
        ]
        store.add_many(run_id, events)
    reading = subprocess.Popen(
        ["bash", "-c", f"{' '.join(COMMAND)} export {run_id}"],
        env=environment(own_gateway.url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out = bytearray()
    try:
        # A pipe that is not read holds the export up, so each break comes in the middle.
        for at, disturb in (
            (2_000_000, lambda: own_gateway.workers()[0].kill()),
            (12_000_000, lambda: own_gateway.process.send_signal(signal.SIGHUP)),
            (22_000_000, lambda: (own_gateway.stop(), own_gateway.start())),
        ):
            while len(out) < at:
                out += reading.stdout.read1()
            disturb()
        rest, err = reading.communicate(timeout=50)
        assert reading.returncode == 0, err
        assert b"2000 events" in err
    finally:
        reading.kill()
        reading.wait()
    lines = (out + rest).splitlines()
    assert [json.loads(line)["data"][0] for line in lines] == list(range(2000))


def test_an_import_that_is_killed_goes_on_without_doubling(own_gateway, store, run_id, folder):
    fill(store, run_id, 9000)
    file = folder / "x.ndjson"
    file.write_bytes(run(own_gateway.url, "export", run_id).stdout)
    copy = f"{run_id}x"
    for share in (1, 2500, 5000):
        with Background(folder, own_gateway.url, "import", "--run", copy, str(file)) as importing:

            def has_come(share: int = share, importing: Background = importing) -> bool:
                return store.state(copy).last_sequence >= share or importing.process.poll() == 0

            wait_until(has_come, "some events are there")
            importing.process.kill()
    done = run(own_gateway.url, "import", "--run", copy, str(file))
    assert done.returncode == 0, said(done)
    assert "; 9000 compared" in said(done)
    assert contents(run(own_gateway.url, "export", copy).stdout) == contents(file.read_bytes())


def test_a_file_that_has_its_ids_twice_is_imported_whole(gateway, store, run_id):
    fill(store, run_id, 500)
    twice = run(gateway.url, "export", run_id).stdout * 2
    done = run(gateway.url, "import", "--run", f"{run_id}x", stdin=twice)
    assert "1000 events appended; 1000 compared" in said(done)
    assert store.state(f"{run_id}x").last_sequence == 1000


def test_a_log_that_is_deleted_before_the_end_is_a_failed_comparison(
    own_gateway, store, run_id, folder
):
    line = b'{"event_category": "a", "event_action": "b"}\n'
    with Background(folder, own_gateway.url, "import", "--run", run_id) as importing:
        importing.write(line * 500)
        wait_until(lambda: store.state(run_id).last_sequence == 500, "the first batch is there")
        store.delete(run_id)
        assert importing.end() == 65
        assert "event 500 is not in the log any more" in importing.err


def test_an_import_goes_on_over_crashes_and_reloads(own_gateway, store, run_id, folder):
    fill(store, run_id, 9000)
    exported = run(own_gateway.url, "export", run_id).stdout
    lines, copy = exported.splitlines(keepends=True), f"{run_id}x"
    with Background(folder, own_gateway.url, "import", "--run", copy) as importing:
        for at, disturb in (
            (2000, lambda: own_gateway.workers()[0].kill()),
            (4000, lambda: own_gateway.process.send_signal(signal.SIGHUP)),
            (6000, lambda: own_gateway.stop()),
        ):
            importing.write(b"".join(lines[at - 2000 : at]))
            disturb()
        own_gateway.start()
        importing.write(b"".join(lines[6000:]))
        assert importing.end() == 0, importing.err
        assert "9000 events appended; 9000 compared" in importing.err
    assert contents(run(own_gateway.url, "export", copy).stdout) == contents(exported)


def test_a_terminal_shows_the_progress(gateway, store, run_id, folder):
    fill(store, run_id, 2000)
    file = folder / "x.ndjson"
    file.write_bytes(run(gateway.url, "export", run_id).stdout)
    with Terminal(gateway.url, "import", "--run", f"{run_id}x", str(file)) as terminal:
        assert terminal.end() == 0
        assert "import" in terminal.shown
        assert "100%" in terminal.shown
    script = ["sh", "-c", f"{' '.join(COMMAND)} export {run_id} > {folder / 'y.ndjson'}"]
    with Terminal(gateway.url, command=script) as terminal:
        assert terminal.end() == 0
        assert "export" in terminal.shown
        assert "100%" in terminal.shown
    assert (folder / "y.ndjson").read_bytes() == file.read_bytes()


@pytest.mark.parametrize("content", [b"", b"\n\n"], ids=repr)
def test_an_input_without_events_is_told(gateway, content):
    done = run(gateway.url, "import", stdin=content)
    assert (done.returncode, said(done)) == (0, "tailrace: no events\n")


def test_a_run_to_map_that_is_not_in_the_input_is_told(gateway, store, run_id):
    options = ["--map", f"{run_id}={run_id}x", "--map", "typo=y", "--map", "other=z"]
    done = run(gateway.url, "import", *options, stdin=line_of(run_id))
    assert done.returncode == 65
    assert said(done).splitlines()[-2:] == [
        "tailrace: --map typo=y: the input has no events of the run typo",
        "tailrace: --map other=z: the input has no events of the run other",
    ]
    assert store.state(f"{run_id}x").length == 1


def test_a_line_that_is_too_long_is_refused_without_reading_it_whole(gateway, store, run_id):
    long = line_of(run_id)[:-2] + b',"data":"' + b"x" * MAX_LINE_BYTES + b'"}\n'
    done = run(gateway.url, "import", stdin=line_of(run_id) + long)
    assert done.returncode == 65
    assert f"line 2: line: has more than {MAX_LINE_BYTES} bytes" in said(done)


def test_a_byte_order_mark_is_no_part_of_the_first_line(gateway, store, run_id, folder):
    for name in "ab":
        (folder / name).write_bytes(b"\xef\xbb\xbf" + line_of(run_id))
    done = run(gateway.url, "import", str(folder / "a"), str(folder / "b"))
    assert done.returncode == 0, said(done)
    assert store.state(run_id).length == 2


def test_a_compressed_file_is_named(gateway, run_id):
    done = run(gateway.url, "import", stdin=gzip.compress(line_of(run_id)))
    assert done.returncode == 65
    assert "line 1: line: is compressed with gzip; use gunzip -c" in said(done)
