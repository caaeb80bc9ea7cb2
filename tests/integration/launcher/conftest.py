"""Fixtures of the launcher's tests: an empty directory, and a gateway started in it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.launcher.launched import Directory, LaunchedGateway


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Directory]:
    home = Directory(tmp_path)
    yield home
    home.end_all()


@pytest.fixture
def gateway(home: Directory) -> LaunchedGateway:
    """Launch a gateway without settings, and wait until it serves."""
    return home.launch().wait_until_it_serves()
