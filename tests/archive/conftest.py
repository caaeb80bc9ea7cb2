"""Fixtures of the tests of the archive: an archive in a directory."""

from collections.abc import Callable
from pathlib import Path

import pytest

from app.archive.archive import Archive
from app.archive.file_storage import FileStorage
from tests.servers import RedisServer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "archive"


@pytest.fixture
def archive(folder: Path) -> Archive:
    return Archive(FileStorage(folder))


@pytest.fixture
def start_redis_server(tmp_path: Path) -> Callable[..., RedisServer]:
    """Return a function that makes a server with command-line options."""

    def make(*options: str) -> RedisServer:
        directory = tmp_path / "redis"
        directory.mkdir()
        return RedisServer(directory, *options)

    return make
