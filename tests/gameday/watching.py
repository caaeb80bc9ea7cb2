"""What Prometheus and the logs show of a scene, and after how many seconds."""

import re
import threading
import time
from collections import Counter
from pathlib import Path

from tests.prometheus import Prometheus

POLL_SECONDS = 0.25

# A line that says more than that something was opened, closed or started.
_WORTH_READING = re.compile(r"(WARNING|ERROR|CRITICAL)|^\d+:[MSC] .* [#*] |\[(error|alert|crit)\]")
# What differs between two lines that say the same.
_TIME = re.compile(r"^\d+:[MSC] \d+ \w+ \d+ [\d:.]+ |^\d{4}[-/]\d\d[-/]\d\d [\d:,]+ ")
_VARIES = re.compile(r"\b\d+(\.\d+)?\b|0x[0-9a-f]+")


class AlertWatch:
    """Notes when each alert becomes pending, fires, and is over."""

    def __init__(self, prometheus: Prometheus):
        self._prometheus = prometheus
        self._over = threading.Event()
        self._states: dict[tuple[str, str], str] = {}
        self.changes: list[tuple[float, str, str, str]] = []
        self.summaries: dict[str, str] = {}
        threading.Thread(target=self._watch, daemon=True).start()

    def stop(self) -> None:
        self._over.set()

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire now."""
        return {name for (name, _), state in list(self._states.items()) if state == "firing"}

    def waits(self) -> bool:
        """Whether any alert is pending or fires."""
        return bool(self._states)

    def since(self, moment: float) -> list[str]:
        """Return what has changed since a moment of the monotonic clock, in seconds after it."""
        return [
            f"{name}{f' ({where})' if where else ''} {state} after {at - moment:.0f} s"
            for at, name, where, state in list(self.changes)
            if at >= moment
        ]

    def _watch(self) -> None:
        while not self._over.wait(POLL_SECONDS):
            try:
                self._note(self._prometheus.alerts())
            except OSError:  # a scene may be too much for the machine
                continue

    def _note(self, alerts: list[dict]) -> None:
        now = time.monotonic()
        found: dict[tuple[str, str], str] = {}
        for alert in alerts:
            labels = alert["labels"]
            found[labels["alertname"], labels.get("instance", "")] = alert["state"]
            self.summaries[labels["alertname"]] = alert["annotations"]["summary"]
        for key in {*found, *self._states}:
            before, after = self._states.get(key), found.get(key)
            if before != after:
                self.changes.append((now, *key, after or "is over"))
        self._states = found


class LogWatch:
    """Reads what logs have got since it was made."""

    def __init__(self, logs: dict[str, Path]):
        self._logs = logs
        self._begin = {
            name: path.stat().st_size if path.exists() else 0 for name, path in logs.items()
        }

    def lines(self) -> list[str]:
        """Return each kind of line that is worth reading, once, and how often it came."""
        counts: Counter[tuple[str, str]] = Counter()
        first: dict[tuple[str, str], str] = {}
        for name, path in self._logs.items():
            if not path.exists():
                continue
            with path.open("rb") as log:
                log.seek(self._begin[name])
                for line in log.read().decode("utf-8", "replace").splitlines():
                    if not _WORTH_READING.search(line):
                        continue
                    text = _TIME.sub("", line)
                    kind = name.partition("-")[0], _VARIES.sub("N", text)
                    counts[kind] += 1
                    first.setdefault(kind, text)
        return [f"{kind[0]}: {first[kind]} ({count} times)" for kind, count in counts.items()]


class Moved:
    """How a metric moved in a scene."""

    def __init__(
        self, prometheus: Prometheus, title: str, expression: str, start: float, broken: float
    ):
        values = prometheus.values(expression, start, time.time())
        # NaN is not equal to itself: a ratio of nothing.
        points = [point for series in values.values() for point in series if point[1] == point[1]]
        before = [value for at, value in points if at < broken]
        after = [(at, value) for at, value in points if at >= broken]
        self.title = title
        self.usual = max(before, default=0.0), min(before, default=0.0)
        self.highest = max((value for _, value in after), default=0.0)
        self.lowest = min((value for _, value in after), default=0.0)
        high, low = self.usual
        margin = 0.05 * max(abs(high), abs(low), 0.02)
        left = [at for at, value in after if not low - margin <= value <= high + margin]
        self.after = min(left) - broken if left else None

    def __str__(self) -> str:
        high, low = self.usual
        usual = f"{low:.3g}" if high - low < 0.05 * max(high, 1e-9) else f"{low:.3g} to {high:.3g}"
        if self.after is None:
            return f"{self.title}: did not move ({usual})"
        return (
            f"{self.title}: {usual} → {self.lowest:.3g} to {self.highest:.3g}, "
            f"first after {self.after:.0f} s"
        )
