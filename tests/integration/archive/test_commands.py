"""The commands `archive` and `restore`, as a shell runs them."""

import fcntl
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import requests

from app.archive.names import LogName
from tests.archive.logs import append, entries_of
from tests.documents import blocks_of
from tests.integration.archive.archivers import archive_at, archived, assert_whole, is_archived
from tests.redis.acl import acl_of, set_user, url_of
from tests.servers import ROOT, free_port, wait_until


@pytest.fixture
def environ(server, archive_url):
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    variables = {"REDIS_URL": server.url, "ARCHIVE_URL": archive_url, "PYTHONPATH": str(ROOT)}
    return {**kept, **variables}


@pytest.fixture
def run(environ, tmp_path):
    def run_command(*arguments, **more):
        before = more.pop("preexec_fn", None)
        return subprocess.run(
            [sys.executable, "-m", "app", *arguments],
            env={**environ, **more},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=50,
            preexec_fn=before,
        )

    return run_command


def test_archive_once_list_and_restore(run, runs, archive):
    for name in ("a", "B", "c"):
        append(runs, name, 3)
    append(runs, "active", 3, ended=False)
    done = run("archive", "--once")
    assert (done.returncode, done.stdout) == (0, "")
    assert sorted(line.split()[6] for line in done.stderr.splitlines()) == ["B", "a", "c"]
    listed = run("archive", "--list").stdout.splitlines()
    assert sorted(line.split("\t")[:4] for line in listed) == [
        [name, "ended", "4", "4"] for name in ("B", "a", "c")
    ]
    entries = {name: entries_of(runs, name) for name in ("a", "B", "c")}
    for name in entries:
        runs.delete(name)
    done = run("restore", "B")
    assert (done.returncode, done.stdout) == (0, "run B: restored 4 events\n")
    done = run("restore", "--all")
    assert done.returncode == 0
    assert sorted(done.stdout.splitlines()) == [
        "run B: Redis lacks nothing", "run a: restored 4 events", "run c: restored 4 events",
    ]  # fmt: skip
    assert entries == {name: entries_of(runs, name) for name in entries}


def test_a_run_that_cannot_be_restored_is_named_and_the_others_are_restored(run, runs):
    append(runs, "a", 3)
    append(runs, "b", 3)
    run("archive", "--once")
    runs.delete("a")
    runs.delete("b")
    append(runs, "b", 1)
    assert run("restore", "a", "../x").returncode == 64
    done = run("restore", "none", "b", "a")
    assert done.returncode == 65
    assert done.stdout == "run a: restored 4 events\n"
    assert done.stderr.splitlines() == [
        "tailrace: run none is not archived",
        "tailrace: run b: Redis has another log of it; delete that first",
    ]


def test_damaged_archives_are_listed(run, runs, archive, tmp_path):
    append(runs, "a", 3)
    append(runs, "b", 3)
    run("archive", "--once")
    (tmp_path / "archive" / archive.find("a").log_name.manifest).write_text("{")
    done = run("archive", "--list")
    lines = sorted(done.stdout.splitlines())
    assert lines[0].startswith("a\tdamaged\ta/")
    assert lines[1].startswith("b\tended\t4\t4\t")
    runs.delete("a")
    done = run("restore", "--all")
    assert done.returncode == 65
    assert "the archive is damaged: a/" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "variables", "status", "part"),
    [
        (["archive"], {"ARCHIVE_URL": ""}, 2, "ARCHIVE_URL: Must be set"),
        (["archive", "--list"], {"ARCHIVE_URL": ""}, 2, "ARCHIVE_URL: Must be set"),
        (["restore", "a"], {"ARCHIVE_URL": ""}, 2, "ARCHIVE_URL: Must be set"),
        (["archive"], {"ARCHIVE_URL": "x"}, 2, "ARCHIVE_URL: Must be the URL"),
        (["archive"], {"REDIS_URL": "x"}, 2, "REDIS_URL: Must be"),
        (["archive", "--once"], {"REDIS_URL": "redis://127.0.0.1:1"}, 69, "Redis does not answer"),
        (["restore", "a"], {"REDIS_URL": "redis://127.0.0.1:1"}, 69, "Redis does not answer"),
        (["archive", "--list", "--once"], {}, 64, "--list"),
        (["archive", "--metrics-port", "0"], {}, 64, "--metrics-port"),
        (["archive", "--metrics-port", "9", "--metrics-host", "192.0.2.1"], {}, 64, "metrics-port"),
        (["restore"], {}, 64, "name runs"),
        (["restore", "a", "--all"], {}, 64, "name runs"),
        (["restore", "--all"], {"ARCHIVE_URL": "file:///dev/null/x"}, 69, "archive cannot serve"),
        (["archive", "--list"], {"ARCHIVE_URL": "file:///dev/null/x"}, 69, "archive cannot serve"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said(run, arguments, variables, status, part):
    done = run(*arguments, **variables)
    assert done.returncode == status
    assert part in done.stderr
    assert "Traceback" not in done.stderr


def test_a_full_storage_is_told_and_written_when_there_is_room(run, runs, archive, server):
    for _ in range(300):
        runs.add("a", "a", "b", {"x": os.urandom(50).hex()})
    append(runs, "a", 1)
    runs.set_expire("a", 60)
    append(runs, "b", 1)

    def fill_disk():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    done = run("archive", "--once", preexec_fn=fill_disk)
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert archived(archive, "a") is None
    assert_whole(archive, runs, "b")
    with server.client() as client:
        assert client.ttl("run:a:events") > 3000
    assert run("archive", "--once").returncode == 0
    assert_whole(archive, runs, "a")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_archiver_runs_until_it_is_stopped_and_answers_for_its_metrics(
    environ, runs, archive, tmp_path, number
):
    port = free_port()
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "app", "archive", "--metrics-port", str(port)],
            env={**environ, "LOG_FORMAT": "json"},
            cwd=tmp_path,
            stderr=output,
        )
    try:
        append(runs, "a", 3)
        wait_until(lambda: is_archived(archive, runs, "a"), "it is archived", 40)

        def counted():
            return requests.get(f"http://127.0.0.1:{port}/metrics", timeout=5).text

        wait_until(lambda: "tailrace_archive_archived_runs_total 1.0" in counted(), "it counts")
        assert "tailrace_archive_archived_events_total 4.0" in counted()
        assert "tailrace_archive_next_expiry_seconds" in counted()
    finally:
        process.send_signal(number)
        assert process.wait(10) == 0
    assert '"message": "archived run a up to' in log.read_text()


def test_an_archive_at_another_place_gets_what_the_one_before_has(run, runs, archive, tmp_path):
    """Else nothing would be copied that Redis has, and it would expire there."""
    append(runs, "a", 3)
    assert run("archive", "--once").returncode == 0
    (tmp_path / "other").mkdir()
    url = f"file://{tmp_path}/other"
    assert run("archive", "--once", ARCHIVE_URL=url).returncode == 0
    for each in (archive, archive_at(url)):
        assert_whole(each, runs, "a")


def test_a_pass_that_is_stopped_says_so_though_the_storage_does_not_answer(environ, runs, tmp_path):
    append(runs, "a", 3)
    folder = tmp_path / "archive" / LogName("a", runs.state("a").epoch).folder
    folder.mkdir(parents=True)
    with (folder / ".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = [sys.executable, "-m", "app", "archive", "--once"]
        process = subprocess.Popen(command, env=environ, cwd=tmp_path)

        def waits() -> bool:
            # Another file may be closed meanwhile.
            opened = psutil.Process(process.pid).open_files()
            return any(Path(each.path).name == ".lock" for each in opened)

        wait_until(waits, "it waits for the lock", 40)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 128 + signal.SIGTERM


def test_a_run_of_another_program_is_found_without_a_gateway(start_archiver, runs, archive, server):
    with server.client() as client:
        client.xadd("run:foreign:events", {"event_category": "lifecycle", "event_action": "failed"})
    start_archiver()
    wait_until(lambda: is_archived(archive, runs, "foreign"), "it is archived", 40)
    assert_whole(archive, runs, "foreign")


def test_a_part_can_be_imported(run, runs, archive, gateway, tmp_path):
    runs.append("a", "a", "b", {"n": 1.0}, lease_seconds=900)
    runs.engine.client.xadd(
        "run:a:events", {"event_category": "a", "event_action": "b", "data": "1"}
    )
    append(runs, "a", 3)
    run("archive", "--once")
    [part] = archive.find("a").parts
    lines = subprocess.run(
        ["gunzip", "-c", tmp_path / "archive" / part.name], capture_output=True, check=True
    ).stdout
    (tmp_path / "lines").write_bytes(lines)
    done = run("import", "lines", "--map", "a=imported-copy", TAILRACE_URL=gateway.url)
    assert done.returncode == 0, done.stderr


def test_the_smallest_acl_is_enough(run, runs, archive, server):
    document = ROOT / "docs" / "archive.md"
    [more] = [block.code for block in blocks_of(document) if block.code.startswith("ACL SETUSER")]
    append(runs, "a", 3)
    runs.set_expire("a", 60)
    with server.client() as client:
        set_user(client, "tailrace", acl_of("tailrace"))
        for line in more.splitlines():
            client.execute_command(*line.split())
    url = url_of("tailrace", server)
    done = run("archive", "--once", REDIS_URL=url)
    assert done.returncode == 0, done.stderr
    assert_whole(archive, runs, "a")
    entries = entries_of(runs, "a")
    runs.delete("a")
    done = run("restore", "a", REDIS_URL=url)
    assert done.returncode == 0, done.stderr
    assert entries_of(runs, "a") == entries
