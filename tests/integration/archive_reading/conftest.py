"""Fixtures of the tests of reading through a gateway: an archive in a directory, or on S3."""

from collections.abc import Callable, Iterator

import pytest

from app.archive.archive import Archive
from app.archive.storage import storage_of
from app.streaming.event_store import EventStore
from tests.archive.archiving import archive_log
from tests.archive.logs import append
from tests.integration.archive.buckets import S3Server
from tests.servers import GatewayServer, RedisServer


@pytest.fixture(scope="module", params=["file", "s3"])
def variables(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """Return the environment in which a program finds the archive."""
    if request.param == "file":
        yield {"ARCHIVE_URL": f"file://{tmp_path_factory.mktemp('archive')}/runs"}
        return
    with S3Server() as server:
        yield {"ARCHIVE_URL": server.url, **server.environ}


@pytest.fixture
def archive(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Archive:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return Archive(storage_of(variables["ARCHIVE_URL"]))


@pytest.fixture(scope="module")
def archive_gateway(
    redis_server: RedisServer,
    variables: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[GatewayServer]:
    """Start a gateway that reads from the archive."""
    log = tmp_path_factory.mktemp("gateway") / "log"
    with GatewayServer(redis_server.url, log, **variables) as gateway:
        yield gateway


@pytest.fixture
def archived(
    store: EventStore, archive: Archive, redis_server: RedisServer
) -> Callable[..., list[str]]:
    """Return a function that archives a run, of which Redis has so many events then."""

    def make(run_id: str, count: int = 100, left: int = 0) -> list[str]:
        ids = append(store, run_id, count - 1)
        archive_log(archive, store, run_id, part_size=30)
        with redis_server.client() as client:
            if left:
                client.xtrim(f"run:{run_id}:events", maxlen=left, approximate=False)
            else:
                client.delete(f"run:{run_id}:events")
        return ids

    return make
