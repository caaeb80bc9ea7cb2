"""Runs are followed while they are archived, trimmed, and go: everybody gets each event once."""

import json
import random
import threading
from collections.abc import Iterator

import pytest
import requests

from app.archive.archive import Archive
from app.archive.file_storage import FileStorage
from app.archive.parts import PartWriter
from app.archive.writing import archiver as archiver_module
from app.archive.writing.archiver import Archiver
from app.archive.writing.metrics import Metrics
from app.streaming.event_store import EventStore
from tests.archive.logs import append
from tests.servers import GatewayServer, RedisServer, wait_until
from tests.streaming.event_store.logs import InBackground

RUNS = 3
TURNS = 4
EVENTS = 60
FOLLOWERS = 3


class Follower:
    """Follows a run from its first event, breaks off now and then, and comes back."""

    def __init__(self, url: str, dice: random.Random):
        self.seen: list[object] = []
        self._url = url
        self._dice = dice
        self._cursor: str | None = None
        self.is_over = threading.Event()

    def follow(self) -> None:
        """Follow until the run has ended for good."""
        was_over = False
        while True:
            headers = {} if self._cursor is None else {"Last-Event-ID": self._cursor}
            with requests.get(self._url, headers=headers, stream=True, timeout=60) as response:
                if response.status_code == 204:
                    if was_over:
                        return
                    was_over = self.is_over.wait(0.1)  # and look once more: it may have gone on
                    continue
                for event in _events(response):
                    self._take(event)
                    if self._dice.random() < 0.02:
                        break

    def _take(self, event: dict) -> None:
        if event["sequence"]:
            self.seen.append(event["sequence"])
            self._cursor = event["id"]
        elif event["event"]["action"] in ("gap", "reset"):
            self.seen.append(event["event"]["action"])


def _events(response: requests.Response) -> Iterator[dict]:
    for line in response.iter_lines(chunk_size=None):
        if line.startswith(b"data: {"):
            yield json.loads(line.removeprefix(b"data: "))


class Producer:
    """Appends to a run, turn by turn; between the turns it takes what is archived from Redis."""

    def __init__(self, store: EventStore, archive: Archive, run_id: str, dice: random.Random):
        self._store, self._archive, self._run_id, self._dice = store, archive, run_id, dice
        self.total = 0

    def work(self) -> None:
        for turn in range(TURNS):
            if turn:
                self._store.add(self._run_id, "lifecycle", "started")
            for _ in range(EVENTS // 6):
                append(self._store, self._run_id, 6, ended=False)
            self._store.add(self._run_id, "lifecycle", "completed")
            self.total = self._store.state(self._run_id).last_sequence
            wait_until(self._is_archived, "the turn is archived", 60)
            self._take_away(self._dice.choice(["all", "most", "some", "nothing"]))
        self._store.engine.client.delete(f"run:{self._run_id}:events")

    def _is_archived(self) -> bool:
        manifest = self._archive.find(self._run_id)
        return manifest is not None and manifest.state.last_sequence == self.total

    def _take_away(self, how_much: str) -> None:
        left = {
            "all": 0,
            "most": 1,
            "some": self._dice.randrange(1, EVENTS),
            "nothing": 10**6,
        }[how_much]
        key = f"run:{self._run_id}:events"
        self._store.engine.client.xtrim(key, maxlen=left, approximate=False)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(2))
def test_every_follower_gets_every_event_once_and_in_order(tmp_path, monkeypatch, seed):
    monkeypatch.setattr(archiver_module, "GRACE_SECONDS", 0.0)
    monkeypatch.setattr(archiver_module, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(PartWriter, "is_full", property(lambda writer: writer.count >= 25))
    for name in ("redis", "archive"):
        (tmp_path / name).mkdir()
    archive = Archive(FileStorage(tmp_path / "archive"))
    dice = random.Random(seed)
    with (
        RedisServer(tmp_path / "redis") as server,
        GatewayServer(
            server.url, tmp_path / "log", ARCHIVE_URL=f"file://{tmp_path}/archive"
        ) as gateway,
    ):
        store = EventStore(server.url)
        archiver = Archiver(
            store, archive, hold_seconds=1000, idle_ttl_seconds=1000, metrics=Metrics()
        )
        threads = archiver.start()
        producers = [Producer(store, archive, f"run-{n}", dice) for n in range(RUNS)]
        followers = {
            producer: [
                Follower(
                    f"{gateway.url}/runs/run-{n}/events/stream", random.Random(f"{seed}{n}{m}")
                )
                for m in range(FOLLOWERS)
            ]
            for n, producer in enumerate(producers)
        }
        following = [InBackground(each.follow) for some in followers.values() for each in some]
        producing = [InBackground(each.work) for each in producers]
        for each in producing:
            wait_until(lambda: not each._thread.is_alive(), "all is appended", 120)  # noqa: B023
            each.wait()
        newcomers = {
            producer: Follower(f"{gateway.url}/runs/run-{n}/events/stream", dice)
            for n, producer in enumerate(producers)
        }
        for some in followers.values():
            for follower in some:
                follower.is_over.set()
        for each in following:
            wait_until(lambda: not each._thread.is_alive(), "the follower ends", 60)  # noqa: B023
            each.wait()
        for producer, newcomer in newcomers.items():
            newcomer.is_over.set()
            newcomer.follow()
            expected = list(range(1, producer.total + 1))
            for follower in (*followers[producer], newcomer):
                assert follower.seen == expected
        archiver.stop()
        for thread in threads:
            thread.join()
