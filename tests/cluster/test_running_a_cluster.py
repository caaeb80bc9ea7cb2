"""The commands with which docs/redis.md sets up, changes, backs up and upgrades a cluster."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from app.streaming.event_store import EventStore
from app.streaming.log.log_state import LogState
from tests.clients import Stream
from tests.documents import blocks_of
from tests.redis.acl import REDIS_MD, acl_of, acl_of_cluster
from tests.redis.programs import REDIS_OF_DEBIAN, VALKEY_9, needs
from tests.servers import ROOT, RedisServer, free_port, wait_until

pytestmark = needs(REDIS_OF_DEBIAN)

RUNS = [f"run-{number}" for number in range(60)]
EVENT = {"event_category": "llm", "event_action": "stream", "data": "x"}
PASSWORD = "another"  # as the document has it


def block(beginning: str) -> str:
    """Return the one code block of the document in which some words stand."""
    [code] = [each.code for each in blocks_of(REDIS_MD) if beginning in each.code]
    return code


class Protected(RedisServer):
    """A server of Debian's Redis whose user `default` has a password."""

    def __init__(self, directory: Path, password: str, *options: str):
        directory.mkdir()
        super().__init__(directory, *options, binary=REDIS_OF_DEBIAN.path)
        self._password = password

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, protocol=2, password=self._password)


class Node(Protected):
    """A node with the documented configuration; its cluster finds a dead node sooner."""

    def __init__(self, directory: Path):
        self.bus_port = free_port()
        super().__init__(directory, PASSWORD)
        text = block("masterauth another").replace("/etc/redis", str(ROOT / "deploy" / "redis"))
        more = f"\nport {self.port}\ncluster-port {self.bus_port}\nrepl-diskless-sync-delay 0\n"
        faster = text.replace("cluster-node-timeout 5000", "cluster-node-timeout 1000")
        self._configuration = [str(directory / "redis.conf")]
        (directory / "redis.conf").write_text(faster.replace("maxmemory 4gb", "") + more)
        self._options = ("--protected-mode", "yes")


class Machines:
    """Eight nodes and an older server, and a shell that has the names of the document for them."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.nodes = [Node(directory / f"redis-{number}") for number in range(1, 9)]
        self.old = Protected(directory / "old", "old", "--requirepass", "old")
        self.loader_port = free_port()
        self.fourth = self.nodes[3]  # the node that is upgraded
        (directory / "bin").mkdir()
        self._install("redis-server", f"exec -a redis-server {REDIS_OF_DEBIAN.path}")
        self._install("python", f"exec {sys.executable}")
        (directory / "backup").mkdir()
        rules = " ".join([*acl_of("tailrace"), *acl_of_cluster()])
        (directory / "rules").write_text(rules.replace("-@all", "nocommands"))

    @property
    def url(self) -> str:
        ports = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[:3])
        return f"redis+cluster://tailrace:password@{ports}"

    def start(self) -> None:
        """Set up a cluster of the first six nodes."""
        for node in self.nodes[:6]:
            node.start()
        self.run("--cluster create")
        assert self.run("--cluster check redis-1:6379\nset +f").count(": OK") == 12
        wait_until(lambda: all(map(serves, self.nodes[:6])), "all nodes serve")

    def stop(self) -> None:
        for server in (*self.nodes, self.old):
            server.stop()

    def run(self, beginning: str) -> str:
        """Run a block of the document, and return what it prints; none of it may fail."""
        code = re.sub(r"(redis://|=|,|@)?redis-(\d):6379", self._address, block(beginning))
        code = code.replace("/backup", f"{self.directory}/backup").replace(
            "7000", str(self.loader_port)
        )
        environment = {
            **os.environ,
            "PATH": f"{self.directory / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "REDISCLI_AUTH": PASSWORD,
        }
        shell = ["bash", "-e", "-o", "pipefail", "-c", code]
        answer = subprocess.run(
            shell, cwd=self.directory, env=environment, capture_output=True, text=True, timeout=90
        )
        assert answer.returncode == 0, answer.stdout + answer.stderr
        assert not re.search("ERR|AUTH|[Ee]rror", answer.stderr), answer.stderr
        return answer.stdout

    def _install(self, name: str, command: str) -> None:
        """Write a program that runs a command with its own arguments."""
        program = self.directory / "bin" / name
        program.write_text(f'#!/bin/bash\n{command} "$@"\n')
        program.chmod(0o755)

    def _address(self, match: re.Match) -> str:
        """Return where a node is. `redis-cli --cluster` needs its bus port too."""
        before, number = match[1] or "", int(match[2])
        server = [self.old, *self.nodes][number] if number != 4 else self.fourth
        has_bus = number and not before
        bus = f"@{server.bus_port}" if has_bus else ""
        return f"{before}127.0.0.1:{server.port}{bus}"

    def replica_of(self, master: Node) -> Node:
        with master.client() as client:
            port = client.info("replication")["slave0"]["port"]
        return next(node for node in self.nodes if node.port == port)


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    machines = Machines(tmp_path)
    try:
        machines.start()
        yield machines
    finally:
        machines.stop()


def serves(node: Node) -> bool:
    with node.client() as client:
        return client.cluster("INFO")["cluster_state"] == "ok"


def fill(url: str) -> dict[str, LogState]:
    """Append events with a key to all runs, and return their states."""
    store = EventStore(url)
    for run_id in RUNS:
        store.append_many(run_id, [EVENT] * 3, idempotency_key="key")
    return states(url)


def states(url: str) -> dict[str, LogState]:
    """Return what the logs are: their ids, sequences and epochs."""
    store = EventStore(url)
    return {run_id: store.state(run_id) for run_id in RUNS}


def has_all(url: str, before: dict[str, LogState]) -> bool:
    """Return whether all logs are as they were, and their idempotency keys too."""
    if states(url) != before:
        return False
    store = EventStore(url)
    for run_id in RUNS:
        store.append_many(run_id, [EVENT] * 3, idempotency_key="key")
    return states(url) == before


def shut_down(node: Node) -> None:
    with node.client() as client:
        client.shutdown()
    node.process.wait(20)
    node.process = None


def test_a_move_from_one_server_to_a_new_cluster(machines, start_gateway):
    machines.run("app check")
    machines.old.start()
    before = fill(f"redis://:old@127.0.0.1:{machines.old.port}/0")
    machines.run("DBSIZE")
    assert has_all(machines.url, before)
    gateway, seen = start_gateway(machines.url), {"Last-Event-ID": str(before[RUNS[0]].first_id)}
    with Stream(f"{gateway.url}/runs/{RUNS[0]}/events/stream", seen) as stream:
        stream.wait_for_events(2)
        assert [each.json["sequence"] for each in stream.events] == [2, 3]
        assert "reset" not in {each.json["event"]["action"] for each in stream.controls}


def test_a_shard_comes_and_goes(machines):
    before = fill(machines.url)
    for node in machines.nodes[6:]:
        node.start()
    machines.run("--cluster-use-empty-masters")
    seventh = EventStore(f"redis+cluster://tailrace:password@127.0.0.1:{machines.nodes[6].port}")
    assert {run_id: seventh.state(run_id) for run_id in RUNS} == before
    with machines.nodes[6].client() as client:
        assert client.dbsize() > 0
    machines.run("--cluster-weight")
    for node in machines.nodes[6:]:
        node.process.wait(20)
    assert has_all(machines.url, before)


def test_a_backup_is_restored_into_an_empty_cluster(machines):
    before = fill(machines.url)
    machines.run("--cluster backup")
    for node in machines.nodes[:3]:
        with node.client() as client:
            client.flushall()
    machines.run("--cluster import redis-1:6379 --cluster-from 127.0.0.1:7000")
    assert has_all(machines.url, before)


@needs(VALKEY_9)
def test_an_upgrade_of_a_shard(machines):
    before = fill(machines.url)
    first, replica = machines.nodes[0], machines.replica_of(machines.nodes[0])
    for node in (replica, first):
        shut_down(node)
        node._binary = VALKEY_9.path
        node.start()
        machines.fourth = node
        machines.run("grep master_link_status:up")
        machines.run("grep role:master")
        assert has_all(machines.url, before)
