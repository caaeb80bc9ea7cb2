"""The metrics of the archiver, in the format of Prometheus."""

from threading import Thread
from wsgiref.simple_server import WSGIServer

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    disable_created_metrics,
    start_http_server,
)

# Why a log could not be archived.
FAILURES = ("storage", "redis", "damaged", "changed", "refused", "unexpected")


class Metrics:
    """Counts what one archiver does. No label names a run."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self.runs = self._counter("archived_runs", "Logs that were archived up to their end.")
        self.events = self._counter("archived_events", "Events that were written to the archive.")
        self.bytes = self._counter("archived_bytes", "Bytes of the parts that were written.")
        self.passes = self._counter("passes", "How often all runs were looked at.")
        self.failures = self._counter(
            "failures", "Attempts to archive a log that failed.", ["kind"]
        )
        for kind in FAILURES:
            self.failures.labels(kind)
        self.due = self._gauge("due_logs", "Logs that are to be archived now.")
        self.held = self._gauge(
            "held_logs", "Logs that are not archived and would have expired, but are held."
        )
        self.at_limit = self._gauge(
            "unarchived_logs_at_limit",
            "Logs that are not archived and will expire: ARCHIVE_HOLD_SECONDS is over.",
        )
        self.next_expiry = self._gauge(
            "next_expiry_seconds",
            "After how many seconds the first log expires that is to be archived; +Inf if none is.",
        )
        self.next_expiry.set(float("inf"))

    def _counter(self, name: str, help: str, labels: list[str] | None = None) -> Counter:
        name = f"tailrace_archive_{name}"
        return Counter(name, help, labels or (), registry=self._registry)

    def _gauge(self, name: str, help: str) -> Gauge:
        return Gauge(f"tailrace_archive_{name}", help, registry=self._registry)

    def serve(self, port: int, address: str) -> tuple[WSGIServer, Thread]:
        """Answer `GET /metrics` on a port, in a thread. Raises OSError."""
        return start_http_server(port, address, registry=self._registry)
