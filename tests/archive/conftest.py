"""Fixtures of the tests of the archive: an archive in a directory."""

from pathlib import Path

import pytest

from app.archive.archive import Archive
from app.archive.file_storage import FileStorage


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "archive"


@pytest.fixture
def archive(folder: Path) -> Archive:
    return Archive(FileStorage(folder))
