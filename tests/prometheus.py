"""A real Prometheus, with the files of deploy/prometheus, that scrapes every second."""

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import pytest
import requests

from tests.servers import ROOT, Server, free_port, wait_until

SHIPPED = ROOT / "deploy" / "prometheus"
ALERTS = SHIPPED / "alerts.yml"

PROGRAM = shutil.which("prometheus")
PROMTOOL = shutil.which("promtool")

skip_if_missing = pytest.mark.skipif(
    PROGRAM is None and "CI" not in os.environ,
    reason="prometheus is not installed (.ci/run installs it)",
)


class Prometheus(Server):
    """A server on a free port. `targets` are the shipped ones, each with the address it is at."""

    def __init__(self, directory: Path, targets: Mapping[str, str], archiver: str | None = None):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._directory = directory
        self._targets = targets
        self._archiver = archiver
        self.process: subprocess.Popen | None = None

    def start(self) -> Self:
        configuration = self._directory / "prometheus.yml"
        configuration.write_text(self._configuration())
        shutil.copy(ALERTS, self._directory)
        data = self._directory / "prometheus"
        with (self._directory / "prometheus.log").open("wb") as log:
            self.process = subprocess.Popen(
                [
                    PROGRAM,
                    f"--config.file={configuration}",
                    f"--storage.tsdb.path={data}",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                ],
                stdout=log,
                stderr=log,
            )
        wait_until(self._answers, "Prometheus answers")
        return self

    def get(self, path: str, **parameters: object) -> Any:
        """Return the data of an answer of its API."""
        answer = requests.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=20)
        document = answer.json()
        assert document["status"] == "success", document
        return document["data"]

    def alerts(self) -> list[dict[str, Any]]:
        """Return the alerts that are pending or firing."""
        return self.get("alerts")["alerts"]

    def value(self, expression: str) -> float | None:
        """Return the value of the first series of an expression now, None without one."""
        found = self.get("query", query=expression)["result"]
        return float(found[0]["value"][1]) if found else None

    def values(
        self, expression: str, start: float, end: float, step: float = 1
    ) -> dict[str, list[tuple[float, float]]]:
        """Return the points of each series of an expression, by its labels."""
        found = self.get("query_range", query=expression, start=start, end=end, step=step)
        return {
            str(sorted(series["metric"].items())): [
                (at, float(value)) for at, value in series["values"]
            ]
            for series in found["result"]
        }

    def _configuration(self) -> str:
        """Return the shipped configuration, with the addresses and the pace of a test."""
        text = (SHIPPED / "prometheus.yml").read_text()
        if self._archiver is not None:
            text = text.replace("\n  #- job", "\n  - job").replace("\n  #  ", "\n    ")
            assert '["127.0.0.1:9107"]' in text
            text = text.replace('["127.0.0.1:9107"]', f'["{self._archiver}"]')
        for name in ("scrape_interval: 15s", "evaluation_interval: 15s"):
            assert name in text
            text = text.replace(name, name.replace("15s", "1s"))
        shown = "".join(f"          - {name}\n" for name in self._targets)
        assert f"    static_configs:\n      - targets:\n{shown}" in text
        groups = [
            {"targets": [address], "labels": {"instance": name}}
            for name, address in self._targets.items()
        ]
        return text.replace(
            f"static_configs:\n      - targets:\n{shown}", f"static_configs: {json.dumps(groups)}\n"
        )

    def _answers(self) -> bool:
        assert self.process.poll() is None, (self._directory / "prometheus.log").read_text()
        with contextlib.suppress(requests.ConnectionError, requests.Timeout):
            return requests.get(f"{self.url}/-/ready", timeout=5).ok
        return False
