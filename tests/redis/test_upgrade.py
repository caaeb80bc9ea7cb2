"""Upgrades to newer servers: by their files, and by replication while a gateway serves."""

import itertools
import re
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from app.streaming.event_store import EventStore
from tests.clients import Stream
from tests.redis.programs import (
    REDIS_8,
    REDIS_OF_DEBIAN,
    VALKEY_8,
    VALKEY_9,
    Program,
    needs,
)
from tests.servers import DURABLE, RedisServer, ReplicatedServers, wait_until

FORWARD = [
    (REDIS_OF_DEBIAN, REDIS_8),
    (REDIS_OF_DEBIAN, VALKEY_8),
    (REDIS_OF_DEBIAN, VALKEY_9),
    (VALKEY_8, VALKEY_9),
    (VALKEY_8, REDIS_8),
]
BACK = [
    (REDIS_8, REDIS_OF_DEBIAN),
    (VALKEY_8, REDIS_OF_DEBIAN),
    (VALKEY_9, VALKEY_8),
    (VALKEY_9, REDIS_8),
    (REDIS_8, VALKEY_8),
]
RUN = "upgraded"


def pairs(*programs: tuple[Program, Program]) -> pytest.MarkDecorator:
    """Run a test for each pair of an old and a new program."""
    params = [
        pytest.param(*pair, id="-to-".join(each.name for each in pair), marks=needs(*pair))
        for pair in programs
    ]
    return pytest.mark.parametrize(("old", "new"), params)


def start(program: Program, directory: Path) -> RedisServer:
    return RedisServer(directory, *DURABLE, binary=program.path)


def shut_down(server: RedisServer) -> None:
    """End a server as an operator does."""
    with server.client() as client:
        client.shutdown()
    server.process.wait(20)
    server.process = None


@pairs(*FORWARD)
def test_a_newer_server_reads_the_files(old, new, tmp_path, start_gateway):
    server = start(old, tmp_path).start()
    gateway = start_gateway(server.url)
    store = EventStore(server.url)
    events = [{"event_category": "llm", "event_action": "stream", "data": "x" * 50}] * 500
    store.append_many(RUN, events, idempotency_key="a", lease_seconds=3600)
    before = store.get_events(RUN, limit=1000), store.state(RUN), store.server("stream")
    with Stream(f"{gateway.url}/runs/{RUN}/events/stream") as stream:
        stream.wait_for_events(500)
        shut_down(server)
        newer = RedisServer(tmp_path, *DURABLE, binary=new.path)
        newer.port = server.port  # as a server that is restarted has it
        with newer:
            assert (store.get_events(RUN, limit=1000), store.state(RUN)) == before[:2]
            assert store.append_many(RUN, events, idempotency_key="a").repeated
            assert store.append(RUN, "llm", "stream", "new").event.sequence == 501
            assert store.state(RUN, ttl=True).ttl
            stream.wait_for_events(501)
            assert stream.sequences == list(range(1, 502))
            assert [each.event for each in stream.controls] == ["gateway.caught_up"]


@pairs(*BACK)
def test_an_older_server_or_another_product_does_not_read_the_files(old, new, tmp_path):
    """Here the first one has written them."""
    server = start(old, tmp_path).start()
    EventStore(server.url).add(RUN, "llm", "stream")
    with server.client() as client:
        client.bgrewriteaof()
        wait_until(
            lambda: (
                (found := client.info("persistence"))["aof_rewrite_in_progress"] == 0
                and found["aof_rewrite_scheduled"] == 0
            ),
            "the files are rewritten",
        )
    shut_down(server)
    ended = subprocess.run(
        ["redis-server", "--dir", tmp_path, *DURABLE, "--port", str(server.port)],
        executable=new.path,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert ended.returncode != 0
    assert re.search(r"RDB format version|[Bb]ad file format", ended.stdout), ended.stdout


class Producer(threading.Thread):
    """Appends one event after another by HTTP, each with a key, until each is acknowledged."""

    def __init__(self, url: str):
        super().__init__(daemon=True)
        self._url = url
        self._stopped = threading.Event()
        self.acknowledged: list[int] = []
        self.refused = 0
        self.longest_pause = 0.0  # in seconds, between two acknowledgements

    def run(self) -> None:
        last = time.monotonic()
        for number in itertools.count():
            if self._stopped.is_set():
                return
            while not self._append(number):
                self.refused += 1
            now = time.monotonic()
            self.longest_pause, last = max(self.longest_pause, now - last), now
            self.acknowledged.append(number)

    def _append(self, number: int) -> bool:
        event = {"event_category": "llm", "event_action": "stream", "data": number}
        headers = {"Idempotency-Key": f"key-{number}"}
        answer = requests.post(self._url, json=event, headers=headers, timeout=30)
        assert answer.status_code in (200, 201, 503), answer.text
        return answer.ok

    def stop(self) -> None:
        self._stopped.set()
        self.join(60)


@pairs(*FORWARD)
def test_a_newer_replica_becomes_the_master_while_a_gateway_serves(
    old, new, tmp_path, start_gateway: Callable, record_property
):
    servers = ReplicatedServers(tmp_path, old.path, new.path)
    try:
        gateway = start_gateway(servers.url)
        url = f"{gateway.url}/runs/{RUN}/events"
        producer = Producer(url)
        with Stream(f"{url}/stream") as stream:
            producer.start()
            wait_until(lambda: len(producer.acknowledged) > 100, "it appends")
            servers.switch()
            wait_until(lambda: servers.master_port() == servers.replica.port, "promoted", 30)
            count = len(producer.acknowledged)
            wait_until(lambda: len(producer.acknowledged) > count + 100, "it goes on")
            producer.stop()
            record_property("longest_pause", producer.longest_pause)
            print(f"appends paused for {producer.longest_pause:.2f} s")
            events = EventStore(servers.replica.url).get_events(RUN, limit=10_000)
            assert [each.data for each in events] == producer.acknowledged
            stream.wait_for_events(len(events))
            assert [each.json["data"] for each in stream.events] == producer.acknowledged
            assert not [each for each in stream.controls if each.event == "gateway.reset"]
        with servers.replica.client() as client:
            assert new.version().split()[1] in client.info("server").values()
    finally:
        servers.stop()
