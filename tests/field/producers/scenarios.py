"""Runs the scenarios of a module one after the other: `python -m MODULE URL PREFIX OUTPUT`.

It runs in the environment of requirements-clients.txt. The run of a scenario has the prefix and
the scenario's name. What each has returned goes to the file OUTPUT, as JSON.
"""

import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from app.async_client import AsyncAppender, AsyncClient
from app.client import Client
from app.streaming.appender import Appender

# Nothing listens there.
AWAY = "http://127.0.0.1:1"


class Place(NamedTuple):
    """Where a scenario writes to."""

    url: str
    run_id: str

    def appender(self, suffix: str = "") -> Appender:
        return Client(self.url).appender(f"{self.run_id}{suffix}")

    def async_appender(self, client: AsyncClient) -> AsyncAppender:
        return client.appender(self.run_id)


Scenario = Callable[[Place], Any]


class Scenarios:
    """The functions that are marked as scenarios, by their names."""

    def __init__(self) -> None:
        self._all: dict[str, Scenario] = {}

    def __call__(self, scenario: Scenario) -> Scenario:
        self._all[scenario.__name__] = scenario
        return scenario

    def run(self) -> None:
        """Run all, and write what they have returned; an error is written with its traceback."""
        url, prefix, output, *only = sys.argv[1:]
        results: dict[str, Any] = {}
        for name in only or self._all:
            try:
                results[name] = {"returned": self._all[name](Place(url, f"{prefix}-{name}"))}
            except BaseException:
                results[name] = {"raised": traceback.format_exc()}
        Path(output).write_text(json.dumps(results), encoding="utf-8")


def raised(call: Callable[[], Any]) -> str:
    """Return the name of the error that a call raises; fail if it raises none."""
    try:
        call()
    except BaseException as error:
        return type(error).__name__
    raise AssertionError("nothing was raised")
