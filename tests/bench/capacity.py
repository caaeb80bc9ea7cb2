"""Capacity: the highest load at which nothing is lost, and 99 of 100 events come in time."""

from collections.abc import Callable

from tests.bench.figures import Figures

MAX_P99_MS = 50
MIN_DELIVERED = 0.999

# The search ends when the bounds are this close together.
CLOSE = 1.15


def capacity(measure: Callable[[float], Figures], first: float) -> Figures:
    """Return the figures at the highest load that was found, which `load` names.

    `measure` puts a load on a server that was started for it.
    """
    best = Figures(notes={"load": 0.0})
    low, high, tried = 0.0, float("inf"), first
    while high > max(low, first / 64) * CLOSE:
        figures = measure(tried)
        figures.notes["load"] = tried
        if _is_met(figures):
            low, best = tried, figures
        else:
            high = tried
        tried = 2 * tried if high == float("inf") else (low + high) / 2
    return best


def _is_met(figures: Figures) -> bool:
    delivered = figures.notes.get("delivered of expected", figures.notes.get("delivered of sent"))
    return (
        (delivered or 0) >= MIN_DELIVERED
        and figures.p99_ms is not None
        and 0 <= figures.p99_ms <= MAX_P99_MS
    )
