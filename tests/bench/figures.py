"""The figures that a workload measures on a server."""

from dataclasses import dataclass, field


@dataclass
class Figures:
    """The figures of one workload on one server. None where there is no such figure."""

    events: int = 0
    cpu_us: float | None = None
    redis_us: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    append_p50_ms: float | None = None
    append_p99_ms: float | None = None
    notes: dict[str, float] = field(default_factory=dict)


def percentile(values: list[float], share: float) -> float | None:
    """Return the value below which a share of the values lies, or None without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None
