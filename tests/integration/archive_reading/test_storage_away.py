"""A storage that is away or does not answer: what Redis has is served, and the rest waits."""

import json
import threading

import pytest
import requests

from app.archive.archive import Archive
from app.archive.storage import storage_of
from tests.archive.archiving import archive_log
from tests.archive.logs import append
from tests.integration.archive_reading.s3 import LastingS3Server, SilentServer
from tests.servers import GatewayServer, wait_until


@pytest.fixture
def s3():
    with LastingS3Server() as server:
        yield server


@pytest.fixture
def own_gateway(redis_server, s3, tmp_path):
    with GatewayServer(
        redis_server.url, tmp_path / "log", HEARTBEAT_SECONDS=1, ARCHIVE_URL=s3.url, **s3.environ
    ) as gateway:
        yield gateway


@pytest.fixture
def archived(store, s3, redis_client, run_id, monkeypatch) -> str:
    """A run of 50 events, which only the archive has."""
    for name, value in s3.environ.items():
        monkeypatch.setenv(name, value)
    append(store, run_id, 49)
    archive_log(Archive(storage_of(s3.url)), store, run_id, part_size=20)
    redis_client.delete(f"run:{run_id}:events")
    return run_id


class Follower:
    """Follows a run in a thread, and keeps the sequences that have come."""

    def __init__(self, gateway: GatewayServer, run_id: str):
        self.seen: list[int] = []
        self.has_ended = False
        self._url = f"{gateway.url}/runs/{run_id}/events/stream"
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        with requests.get(self._url, stream=True, timeout=60) as response:
            for line in response.iter_lines(chunk_size=None):
                if line.startswith(b"data: {"):
                    event = json.loads(line.removeprefix(b"data: "))
                    if event["sequence"]:
                        self.seen.append(event["sequence"])
        self.has_ended = True


@pytest.mark.parametrize("silent", [False, True], ids=["away", "silent"])
def test_only_what_is_archived_waits_for_the_storage(
    own_gateway, s3, archived, store, run_id, silent
):
    live, here = f"{run_id}-live", own_gateway.url
    append(store, live, 3, ended=False)
    s3.stop()
    server = SilentServer(s3.port)
    if silent:
        server.start()
    try:
        waits, follows = Follower(own_gateway, archived), Follower(own_gateway, live)
        wait_until(lambda: follows.seen == [1, 2, 3], "the live run is followed")
        problem = requests.get(f"{here}/runs/{archived}", timeout=60)
        assert problem.status_code == 503
        assert problem.json()["detail"] == "the archive cannot serve now"
        assert problem.headers["Retry-After"]
        for path in (f"/runs/{archived}/events", f"/runs/{archived}/events?order=desc"):
            assert requests.get(here + path, timeout=60).status_code == 503
        assert requests.delete(f"{here}/runs/{archived}/events", timeout=60).status_code == 503
        # Meanwhile everything else goes on
        assert requests.get(f"{here}/runs/{live}", timeout=60).json()["last_sequence"] == 3
        for number in range(4, 10):
            store.add(live, "step", "done")
            wait_until(lambda: follows.seen[-1] == number, "the event has come")  # noqa: B023
        assert requests.get(f"{here}/readyz", timeout=60).status_code == 200
        assert waits.seen == []
        assert not waits.has_ended
    finally:
        server.stop()
    s3.start()
    wait_until(lambda: waits.has_ended, "the stream goes on, and ends", 60)
    assert waits.seen == list(range(1, 51))
    store.add(live, "lifecycle", "completed")
    wait_until(lambda: follows.has_ended, "the live run has ended")
