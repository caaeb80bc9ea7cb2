"""The dashboard: Grafana's own types accept it, and every query of it finds something."""

import json
import math
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from app.archive.writing.metrics import Metrics
from app.metrics.catalog import LAYOUT
from tests.deploy.dashboard import FILE, Query, dashboard, filled, panels, queries
from tests.deploy.observed import Observed, cause_gaps, kill_a_worker, observed
from tests.processes import NODE, NODE_SCRIPTS
from tests.prometheus import skip_if_missing
from tests.servers import ROOT, wait_until

TSC = NODE_SCRIPTS / "node_modules" / "typescript" / "bin" / "tsc"


def compile_dashboard(directory: Path, document: object) -> "subprocess.CompletedProcess[str]":
    """Let TypeScript compare a dashboard with the types of Grafana."""
    shutil.copy(Path(__file__).parent / "schema.ts", directory)
    text = json.dumps(document)
    source = f'import type {{ Checked }} from "./schema";\nexport const it: Checked = {text};\n'
    (directory / "dashboard.ts").write_text(source)
    modules = directory / "node_modules"
    if not modules.exists():
        modules.symlink_to(NODE_SCRIPTS / "node_modules")
    options = {
        "strict": True, "noEmit": True, "module": "esnext", "moduleResolution": "bundler",
        "target": "es2022", "skipLibCheck": True, "types": [],
    }  # fmt: skip
    project = directory / "tsconfig.json"
    project.write_text(json.dumps({"compilerOptions": options, "files": ["dashboard.ts"]}))
    return subprocess.run([NODE, TSC, "--project", project], capture_output=True, text=True)


def test_the_types_of_grafana_accept_it(tmp_path):
    done = compile_dashboard(tmp_path, dashboard())
    assert done.returncode == 0, done.stdout[:4000]


@pytest.mark.parametrize(
    "change",
    [
        lambda it: it["panels"][1].update(type="nonsense"),
        lambda it: it["panels"][1]["options"].update(colorMode="nonsense"),
        lambda it: it["panels"][1]["fieldConfig"]["defaults"].update(units="s"),
        lambda it: it["panels"][-1]["fieldConfig"]["defaults"]["custom"].update(drawStyle="x"),
        lambda it: it["templating"]["list"][0].update(type="nonsense"),
    ],
)
def test_the_types_of_grafana_find_what_is_wrong(tmp_path, change):
    document = dashboard()
    change(document)
    assert compile_dashboard(tmp_path, document).returncode != 0


def test_panels_have_a_place_of_their_own_and_say_what_they_show():
    places: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        grid = panel["gridPos"]
        own = {(grid["x"] + x, grid["y"] + y) for x in range(grid["w"]) for y in range(grid["h"])}
        assert not own & places, panel["title"]
        assert max(x for x, _ in own) < 24
        places |= own
    ids = [panel["id"] for panel in dashboard()["panels"]]
    titles = [panel["title"] for panel in panels()]
    assert len(set(ids)) == len(ids)
    assert len(set(titles)) == len(titles)
    for panel in panels():
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]


def test_queries_name_metrics_and_labels_that_exist():
    known = {metric.name: {"job", "instance", *metric.labels} for metric in LAYOUT.metrics}
    known["tailrace_hub_silence_seconds"] = {"job", "instance"}
    for metric in Metrics()._registry.collect():
        for sample in metric.samples:
            known[sample.name] = {"job", "instance", *sample.labels}
    used = set()
    for query in queries():
        for name, selector in re.findall(r"(tailrace_\w+)\{([^}]*)\}", query.expression):
            base = name if name in known else re.sub(r"_(bucket|sum|count)$", "", name)
            assert set(re.findall(r"(\w+)[=!]", selector)) <= known[base], query
            used.add(base)
        legends = set(re.findall(r"\{\{(\w+)\}\}", query.legend))
        by = re.match(r".*?by \(([\w, ]+)\)", query.expression)
        assert legends <= set(by[1].split(", ") if by else ()), query
    left = {metric.name for metric in LAYOUT.metrics} - used
    assert left == {"tailrace_workers_started_total", "tailrace_streams_refused_total"} - used


def test_grafana_is_given_the_dashboard_and_prometheus():
    folder = ROOT / "deploy" / "grafana" / "provisioning"
    [source] = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text())[
        "datasources"
    ]
    assert source["type"] == dashboard()["templating"]["list"][0]["query"]
    [provider] = yaml.safe_load((folder / "dashboards" / "tailrace.yml").read_text())["providers"]
    assert provider["options"]["path"].endswith(FILE.parent.name)


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    """Start all with load, gaps, and a worker that was killed."""
    with observed(tmp_path_factory.mktemp("observed")) as found:
        kill_a_worker(found.gateways[0])

        def gaps() -> float:
            cause_gaps(found.redis)  # again and again: at first there may be no viewer
            return found.prometheus.value('sum(tailrace_notices_total{notice="gap"})') or 0

        wait_until(gaps, "viewers are told gaps", 40)
        yield found


@skip_if_missing
@pytest.mark.parametrize("query", list(queries()), ids=lambda query: query.panel)
def test_a_query_finds_something(gateways, query: Query):
    def has_value() -> bool:
        value = gateways.prometheus.value(query.expression)
        return value is not None and math.isfinite(value)

    wait_until(has_value, query.expression, 40)


@skip_if_missing
def test_the_load_is_seen(gateways):
    """Of what was done, nothing is missing in Prometheus."""
    for expression in (
        'sum(tailrace_notices_total{notice="gap"})',
        "sum(tailrace_workers_died_total)",
        'sum(tailrace_auth_refusals_total{reason="invalid"})',
        'sum(tailrace_appended_events_total{way="lines"})',
        'sum(tailrace_appended_events_total{way="plain"})',
        "sum(tailrace_delivered_events_total)",
        'sum(tailrace_streams_closed_total{kind="stream"})',
    ):
        wait_until(lambda e=expression: (gateways.prometheus.value(e) or 0) > 0, expression, 40)


@skip_if_missing
def test_the_variables_have_values(gateways):
    for variable in dashboard()["templating"]["list"][1:]:
        found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["definition"])
        assert variable["query"]["query"] == variable["definition"]
        series = {"match[]": filled(found[1])}
        wait_until(
            lambda name=found[2], series=series: gateways.prometheus.get(
                f"label/{name}/values", **series
            ),
            variable["definition"],
        )
