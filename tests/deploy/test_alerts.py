"""The alerts: each fires on what it should, and on nothing else."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.deploy.alert_cases import CASES, QUIET, Case, Series
from tests.documents import anchors_of
from tests.prometheus import ALERTS, PROMTOOL, SHIPPED, skip_if_missing
from tests.servers import ROOT

pytestmark = skip_if_missing

RULES = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
NAMES = [rule["alert"] for rule in RULES]


def promtool(*arguments: str | Path) -> None:
    done = subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_files():
    promtool("check", "config", SHIPPED / "prometheus.yml")
    promtool("check", "rules", ALERTS)


def test_every_alert_has_a_case():
    assert {case.alert for case in CASES} == set(NAMES)


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_an_alert_says_how_urgent_it_is_and_what_to_do(rule):
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["for"] != "0s"
    assert rule["annotations"].keys() == {"summary", "description", "runbook"}
    path, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert anchor in anchors_of(ROOT / path)
    assert rule["alert"].lower() in anchor.split("-")


def test_the_document_lists_the_alerts():
    rows = re.findall(
        r"^\| \[?`(Tailrace\w+)`.*?\| (page|ticket) \|",
        (ROOT / "docs" / "observing.md").read_text(),
        re.MULTILINE,
    )
    assert rows == [(rule["alert"], rule["labels"]["severity"]) for rule in RULES]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.alert)
def test_an_alert_fires_on_what_it_is_about(tmp_path, case: Case):
    firing = f'ALERTS{{alertname="{case.alert}",alertstate="firing"}}'
    count = f"count({firing}) or vector(0)"
    run(tmp_path, case.series, [(case.silent, count, 0), (case.fires, count, 1)])


@pytest.mark.parametrize("name", QUIET)
def test_no_other_alert_fires(tmp_path, name):
    series, expected = QUIET[name]
    others = f'ALERTS{{alertstate="firing",alertname!~"{"|".join(expected)}"}}'
    times = [f"{seconds}s" for seconds in range(0, 21 * 60, 15)]
    run(tmp_path, series, [(time, f"count({others}) or vector(0)", 0) for time in times])


def run(directory: Path, series: Series, expected: list[tuple[str, str, float]]) -> None:
    """Let promtool play series, and check what expressions are at some times."""
    test = {
        "interval": "15s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": expression,
                "eval_time": time,
                "exp_samples": [{"labels": "{}", "value": value}],
            }
            for time, expression, value in expected
        ],
    }
    file = directory / "test.yml"
    document = {"rule_files": [str(ALERTS)], "evaluation_interval": "15s", "tests": [test]}
    file.write_text(json.dumps(document))
    promtool("test", "rules", file)
