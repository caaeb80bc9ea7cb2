"""The archive on a cluster: runs of all nodes are archived, read back, and restored."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from app.archive.archive import Archive
from app.streaming.event_store import EventStore
from app.streaming.log.redis_keys import log_key
from tests.archive.logs import append, entries_of
from tests.cluster_servers import ClusterServers
from tests.integration.archive.archivers import (
    ArchiverProcess,
    archive_at,
    assert_whole,
    is_archived,
)
from tests.servers import ROOT, wait_until


@pytest.fixture
def cluster(start_cluster) -> ClusterServers:
    return start_cluster(3, 0, options=("--appendonly", "yes", "--appendfsync", "always"))


@pytest.fixture
def store(cluster: ClusterServers) -> EventStore:
    return EventStore(cluster.url)


@pytest.fixture
def archive_url(tmp_path: Path) -> str:
    (tmp_path / "archive").mkdir()
    return f"file://{tmp_path}/archive"


@pytest.fixture
def archive(archive_url: str) -> Archive:
    return archive_at(archive_url)


@pytest.fixture
def runs(cluster: ClusterServers, store: EventStore) -> dict[str, list[str]]:
    """Append runs that have ended, two on each node; return the ids of their events."""
    run_ids = [run_id for node in cluster.masters for run_id in cluster.runs_on(node, 2)]
    return {run_id: append(store, run_id, 150) for run_id in run_ids}


@pytest.fixture
def tailrace(cluster: ClusterServers, archive_url: str):
    def run(*arguments: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-m", "app", *arguments],
            env={**os.environ, "REDIS_URL": cluster.url, "ARCHIVE_URL": archive_url},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=50,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run


def expire(cluster: ClusterServers, run_id: str) -> None:
    """Let the log of a run expire."""
    node = cluster.master_of(run_id)
    cluster.command(node, "PEXPIRE", log_key(run_id), 1)
    wait_until(lambda: not cluster.command(node, "EXISTS", log_key(run_id)), "the log has expired")


def streamed(response: requests.Response) -> list[tuple[str, str]]:
    """Return the run and the id of each event of a whole stream of lines."""
    assert response.status_code == 200
    lines = map(json.loads, response.text.splitlines())
    return [(each["run_id"], each["id"]) for each in lines if each["id"]]


def test_runs_of_all_nodes_are_archived_expire_and_are_read(
    cluster, store, archive_url, archive, runs, tailrace, start_gateway
):
    gateway = start_gateway(cluster.url, ARCHIVE_URL=archive_url)
    before = {run_id: requests.get(f"{gateway.url}/runs/{run_id}/events", timeout=20).json()
              for run_id in runs}  # fmt: skip
    tailrace("archive", "--once")
    assert sorted(line.split("\t")[0] for line in tailrace("archive", "--list")) == sorted(runs)
    expired, trimmed = list(runs)[::2], list(runs)[1::2]
    for run_id in runs:
        assert_whole(archive, store, run_id)
    for run_id in expired:
        expire(cluster, run_id)
    for run_id in trimmed:
        cluster.command(cluster.master_of(run_id), "XTRIM", log_key(run_id), "MAXLEN", 30)
    lines = {"Accept": "application/x-ndjson"}
    for run_id, ids in runs.items():
        url = f"{gateway.url}/runs/{run_id}"
        assert requests.get(url, timeout=20).json()["length"] == len(ids)
        assert requests.get(f"{url}/events", timeout=20).json() == before[run_id]
        response = requests.get(f"{url}/events/stream", headers=lines, timeout=20)
        assert streamed(response) == [(run_id, each) for each in ids]
        resumed = {**lines, "Last-Event-ID": ids[60]}
        response = requests.get(f"{url}/events/stream", headers=resumed, timeout=20)
        assert streamed(response) == [(run_id, each) for each in ids[61:]]
    url = f"{gateway.url}/events/stream"
    response = requests.get(url, params={"run": list(runs)}, headers=lines, timeout=20)
    found = streamed(response)
    for run_id, ids in runs.items():
        assert [each for name, each in found if name == run_id] == ids


def test_all_archived_runs_are_restored_on_their_nodes(cluster, store, runs, tailrace):
    tailrace("archive", "--once")
    entries = {run_id: entries_of(store, run_id) for run_id in runs}
    expired, trimmed, kept = list(runs)[:3], list(runs)[3:5], list(runs)[5]
    for run_id in expired:
        expire(cluster, run_id)
    for run_id in trimmed:
        cluster.command(cluster.master_of(run_id), "XTRIM", log_key(run_id), "MAXLEN", 30)
    said = tailrace("restore", "--all")
    assert sorted(said) == sorted([
        *(f"run {run_id}: restored 151 events" for run_id in (*expired, *trimmed)),
        f"run {kept}: Redis lacks nothing",
    ])  # fmt: skip
    assert {run_id: entries_of(store, run_id) for run_id in runs} == entries
    for node in cluster.masters:
        keys = cluster.command(node, "KEYS", "*restoring*")
        assert keys == []


def test_runs_of_the_other_nodes_are_archived_while_one_is_away(
    cluster, store, archive_url, archive, tmp_path
):
    on_each = [cluster.runs_on(node, 1)[0] for node in cluster.masters]
    with ArchiverProcess(cluster.url, archive_url, tmp_path / "log") as archiver:
        append(store, "first", 3)
        wait_until(lambda: is_archived(archive, store, "first"), "it archives", 30)
        index = cluster.owner_of_key("tailrace:{runs}:active")
        victim = next(node for node in cluster.masters if node is not index)
        lame = next(each for each in on_each if cluster.master_of(each) is victim)
        more = [f"{run_id}-{number}" for run_id in on_each for number in range(8)]
        others = [each for each in more if cluster.master_of(each) is not victim]
        append(store, lame, 3)
        victim.stop()
        for run_id in others:
            append(store, run_id, 3)
        for run_id in others:
            wait_until(lambda: is_archived(archive, store, run_id), f"{run_id} is archived", 40)  # noqa: B023
        victim.start()
        wait_until(cluster.serves, "all nodes serve again", 30)
        wait_until(lambda: is_archived(archive, store, lame), "it is archived too", 40)
        assert not archiver.has_ended
    assert "Traceback" not in (tmp_path / "log").read_text()
