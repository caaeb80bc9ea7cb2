"""The dashboard as tests read it: its panels, and their queries for a given Prometheus."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.servers import ROOT

FILE = ROOT / "deploy" / "grafana" / "dashboards" / "tailrace.json"

# What Grafana puts in for the variables: all gateways and the archiver, at a scrape each second.
VALUES = {
    "$__rate_interval": "10s",
    "$job": "tailrace",
    "$instance": ".+",
    "$archiver": "tailrace-archive",
}


class Query(NamedTuple):
    """One query of a panel."""

    panel: str
    expression: str
    legend: str


def dashboard() -> dict[str, Any]:
    return json.loads(FILE.read_text())


def panels() -> list[dict[str, Any]]:
    """Return the panels, without the rows that they are under."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def queries() -> Iterator[Query]:
    """Yield all queries, as Grafana would send them."""
    for panel in panels():
        for target in panel["targets"]:
            yield Query(panel["title"], filled(target["expr"]), target["legendFormat"])


def filled(expression: str) -> str:
    for name, value in VALUES.items():
        expression = expression.replace(name, value)
    return expression
