"""Fixtures of the tests with archivers: a Redis, an archive, and processes."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.archive.archive import Archive
from app.streaming.event_store import EventStore
from tests.integration.archive.archivers import ArchiverProcess, archive_at
from tests.servers import RedisServer


@pytest.fixture
def server(start_redis: Callable[..., RedisServer]) -> RedisServer:
    """Start a Redis whose runs are those of this test alone."""
    return start_redis()


@pytest.fixture
def runs(server: RedisServer) -> EventStore:
    return EventStore(server.url)


@pytest.fixture
def archive_url(tmp_path: Path) -> str:
    return f"file://{tmp_path}/archive"


@pytest.fixture
def archive(archive_url: str) -> Archive:
    return archive_at(archive_url)


@pytest.fixture
def start_archiver(
    server: RedisServer, archive_url: str, tmp_path: Path
) -> Iterator[Callable[..., ArchiverProcess]]:
    """Return a function that starts an archiver; its arguments, and variables."""
    with contextlib.ExitStack() as stack:

        def start(*arguments: str, **more: object) -> ArchiverProcess:
            process = ArchiverProcess(server.url, archive_url, tmp_path / "log", *arguments, **more)
            return stack.enter_context(process)

        yield start
    log = tmp_path / "log"
    assert not log.exists() or "Traceback" not in log.read_text()
