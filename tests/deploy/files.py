"""The files in deploy/, as tests read them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.servers import ROOT

DEPLOY = ROOT / "deploy"
GATEWAY_COMMAND = ["python", "-m", "gunicorn", "-c", "gunicorn.conf.py", "wsgi:app"]

# gunicorn waits 5 seconds after a drain, and stops; a busy machine needs some more.
SECONDS_AFTER_DRAIN = 10


def documents_in(path: Path) -> list[dict[str, Any]]:
    """Return the documents of a file of YAML."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def settings_in(text: str) -> Iterator[tuple[str, str]]:
    """Yield the names and values of a file of variables."""
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            yield name, value
