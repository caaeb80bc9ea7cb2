"""The metrics as text, in the format of Prometheus or OpenMetrics, whichever is asked for."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import (
    Metric as Family,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from .catalog import LAYOUT
from .shared_rows import Numbers, all_rows, is_living, silence_seconds
from .values import Counter, Gauge, Histogram, Metric, own_row

_OPENMETRICS = "application/openmetrics-text; version=1.0.0"

_AGGREGATES: dict[str, Callable[[Iterable[float]], float]] = {"sum": sum, "max": max, "min": min}


class Exposition:
    """Writes down the metrics of all workers."""

    def __init__(self, version: str) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Collector(version))

    def text(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics and their media type, for a header `Accept`."""
        # prometheus_client raises errors for some versions, and says that it speaks others.
        asked = _OPENMETRICS if _asks_for_openmetrics(accept) else ""
        encode, media_type = choose_encoder(asked)
        return encode(self._registry), media_type


def _asks_for_openmetrics(accept: str) -> bool:
    for each in accept.replace(" ", "").split(","):
        name, *parameters = each.split(";")
        versions = [parameter for parameter in parameters if parameter.startswith("version=")]
        if name == "application/openmetrics-text" and versions in ([], ["version=1.0.0"]):
            return True
    return False


class _Collector(Collector):
    def __init__(self, version: str) -> None:
        self._version = version

    def describe(self) -> list[Family]:
        return []

    def collect(self) -> Iterator[Family]:
        rows = all_rows()
        living = [row for row in rows if is_living(row)] or [own_row()]
        for metric in LAYOUT.metrics:
            yield _family(metric, rows, living)
        yield GaugeMetricFamily(
            "tailrace_hub_silence_seconds",
            "For how long the loop of some worker has stood still",
            silence_seconds(),
        )
        yield InfoMetricFamily(
            "tailrace_build", "The version of the gateway", {"version": self._version}
        )


def _family(metric: Metric, rows: Sequence[Numbers], living: Sequence[Numbers]) -> Family:
    if isinstance(metric, Histogram):
        *counts, total = _added(rows, metric)
        bounds = [*map(floatToGoString, metric.bounds), "+Inf"]
        family = HistogramMetricFamily(metric.name, metric.help)
        family.add_metric([], list(zip(bounds, accumulate(counts), strict=True)), total)
        return family
    kind = CounterMetricFamily if isinstance(metric, Counter) else GaugeMetricFamily
    labelled = kind(metric.name, metric.help, labels=list(metric.labels))
    values = _aggregated(living, metric) if isinstance(metric, Gauge) else _added(rows, metric)
    for labels, value in zip(metric.label_values(), values, strict=True):
        labelled.add_metric(labels, value)
    return labelled


def _places(row: Numbers, metric: Metric) -> Sequence[float]:
    return row[metric.first : metric.first + metric.places]


def _added(rows: Sequence[Numbers], metric: Metric) -> list[float]:
    return [sum(values) for values in zip(*(_places(row, metric) for row in rows), strict=True)]


def _aggregated(rows: Sequence[Numbers], metric: Gauge) -> list[float]:
    aggregate = _AGGREGATES[metric.aggregate]
    by_place = zip(*(_places(row, metric) for row in rows), strict=True)
    return [aggregate(values) for values in by_place]
