"""What scenarios have returned, and the runs that they have left."""

import json
import os
import re
import subprocess
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from app.streaming.event import Event
from app.streaming.event_store import EventStore
from tests.servers import ROOT, GatewayServer

FOLDER = ROOT / "tests" / "field" / "producers"
PYTHON = ROOT / "tests" / "field" / ".venv" / "bin" / "python"
ENDS = {"lifecycle.completed", "lifecycle.failed", "lifecycle.cancelled"}

needs_frameworks = [
    pytest.mark.skipif(
        not PYTHON.exists() and "CI" not in os.environ,
        reason="the frameworks are not installed (make tests/field/.venv/installed)",
    ),
    pytest.mark.timeout(300),  # on a busy machine, the frameworks need long to start
]


def scenarios_of(module: str) -> list[str]:
    """The names of a module's scenarios; the module itself cannot be imported here."""
    text = (FOLDER / f"{module}.py").read_text()
    return re.findall(r"^@scenario\ndef (\w+)", text, re.MULTILINE)


class Recorded:
    """The runs of the scenarios of one module."""

    def __init__(self, store: EventStore, prefix: str, results: dict[str, Any], printed: str):
        self._store = store
        self.prefix = prefix
        self._results = results
        self.printed = printed

    def returned(self, scenario: str) -> Any:
        assert "raised" not in self._results[scenario], self._results[scenario]["raised"]
        return self._results[scenario]["returned"]

    def events(self, scenario: str) -> list[Event]:
        self.returned(scenario)
        return self._store.get_events(f"{self.prefix}-{scenario}")

    def names(self, scenario: str) -> list[str]:
        """The names of a run's events; several of one name in a row are one."""
        return [name for name, _ in groupby(event.name for event in self.events(scenario))]

    def all(self, scenario: str, name: str) -> list[Any]:
        """The data of all events of this name."""
        return [event.data for event in self.events(scenario) if event.name == name]

    def one(self, scenario: str, name: str) -> Any:
        [data] = self.all(scenario, name)
        return data

    def text(self, scenario: str, name: str = "llm.stream") -> str:
        return "".join(data["content"] for data in self.all(scenario, name))


def run_scenarios(
    module: str,
    gateway: GatewayServer,
    store: EventStore,
    directory: Path,
    *only: str,
    **variables: str,
) -> Recorded:
    """Run all scenarios of a module, or only some, beside the frameworks."""
    output, prefix = directory / f"{module}.json", directory.name
    done = subprocess.run(
        [PYTHON, "-m", f"tests.field.producers.{module}", gateway.url, prefix, output, *only],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)} | variables, timeout=240,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return Recorded(store, prefix, json.loads(output.read_text()), done.stdout)


def check_lifecycle(events: list[Event]) -> None:
    """Every run begins, and ends once; it begins again before anything else comes."""
    is_open = False
    for event in events:
        assert is_open != (event.name == "lifecycle.started"), [each.name for each in events]
        is_open = event.name not in ENDS
    assert not is_open
    assert [event.sequence for event in events] == [*range(1, len(events) + 1)]
