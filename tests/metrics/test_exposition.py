"""The metrics as text: read again by the parsers of prometheus-client."""

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_prometheus

from app.metrics import shared_rows
from app.metrics.catalog import (
    APPENDS,
    DELIVERY_LAG,
    LAYOUT,
    REDIS_PROBE_SECONDS,
    REDIS_UP,
    STREAMS_OPEN,
)
from app.metrics.exposition import Exposition
from app.metrics.shared_rows import SharedRows
from app.metrics.values import own_row, use
from tests.servers import ROOT

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@pytest.fixture(autouse=True)
def _three_workers(monkeypatch):
    """Two that live, and one that has died; this process is the first."""
    before = own_row()
    monkeypatch.setattr(shared_rows, "_rows", None)
    rows = SharedRows()
    workers = [rows.claim() for _ in range(3)]
    for number, worker in enumerate(workers, 1):
        worker.join()
        APPENDS.of("plain", "stored").add(number)
        STREAMS_OPEN.of("stream").set(10 * number)
        REDIS_UP.set(number != 2)
        REDIS_PROBE_SECONDS.set(number / 100)
        DELIVERY_LAG.observe(number / 1000)
    workers[2].release()
    workers[0].join()
    yield
    use(before)


def samples(text: str, parse=parse_prometheus) -> dict[str, float]:
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in parse(text)
        for sample in family.samples
    }


@pytest.mark.parametrize(
    ("accept", "parse"), [("", parse_prometheus), (OPENMETRICS, parse_openmetrics)]
)
def test_counters_are_of_all_workers_and_gauges_of_those_that_live(accept, parse):
    body, media_type = Exposition("1.2").text(accept)
    found = samples(body.decode(), parse)
    assert found["tailrace_appends_total[('outcome', 'stored'), ('way', 'plain')]"] == 1 + 2 + 3
    assert found["tailrace_streams_open[('kind', 'stream')]"] == 10 + 20
    assert found["tailrace_redis_up[]"] == 0  # the least
    assert found["tailrace_redis_probe_seconds[]"] == 0.02  # the most
    assert found["tailrace_delivery_lag_seconds_count[]"] == 3
    assert found["tailrace_delivery_lag_seconds_bucket[('le', '0.001')]"] == 1
    assert found["tailrace_delivery_lag_seconds_bucket[('le', '0.0025')]"] == 2
    assert found["tailrace_delivery_lag_seconds_sum[]"] == pytest.approx(0.006)
    assert found["tailrace_build_info[('version', '1.2')]"] == 1
    assert media_type.startswith("application/openmetrics-text" if accept else "text/plain")


def test_every_metric_is_there_with_its_help():
    body, _ = Exposition("1.2").text("")
    families = {family.name: family for family in parse_prometheus(body.decode())}
    for metric in LAYOUT.metrics:
        family = families[metric.name.removesuffix("_total")]
        assert family.documentation == metric.help
        assert family.type == metric.kind


def test_the_answer_is_small():
    body, _ = Exposition("1.2").text("")
    assert len(body) < 100_000


def test_the_document_explains_every_metric():
    text = (ROOT / "docs" / "observing.md").read_text()
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| `tailrace_")]
    shown = {cells[0].strip().strip("`"): cells[1].strip() for cells in rows}
    known = {
        metric.name: ", ".join(f"`{name}`" for name in metric.labels) for metric in LAYOUT.metrics
    }
    known |= {"tailrace_hub_silence_seconds": "", "tailrace_build_info": "`version`"}
    assert shown == known
