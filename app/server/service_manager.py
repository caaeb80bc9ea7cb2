"""Tells systemd when the gateway is ready, and when it reloads (sd_notify)."""

import time
from collections.abc import Callable
from typing import Any

from gunicorn import systemd
from gunicorn.arbiter import Arbiter

Notify = Callable[..., None]


def has_begun(worker: Any) -> bool:
    """Return whether a worker has begun to serve.

    From then on, a worker notes the monotonic time in its file. Before, the file has the time of
    its creation, which is that of the clock.
    """
    try:
        return bool(worker.tmp.last_update() <= time.monotonic())
    except (OSError, ValueError):  # the worker has ended, and its file is closed
        return False


def all_have_begun(server: Arbiter) -> bool:
    """Return whether all workers of a master serve."""
    workers = list(server.WORKERS.values())
    return len(workers) >= server.num_workers and all(map(has_begun, workers))


class ServiceManager:
    """Sends what systemd waits for. Without NOTIFY_SOCKET it does nothing.

    gunicorn says that it is ready before a worker has started.
    """

    def __init__(self, server: Arbiter) -> None:
        self._server = server
        self._notify: Notify = systemd.sd_notify
        self._is_awaited = True
        vars(systemd)["sd_notify"] = lambda *args, **kwargs: None  # gunicorn's own word

    def reloads(self) -> None:
        """Say that new workers start. For systemd.service(5), `Type=notify-reload`."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        self._is_awaited = True

    def look(self) -> None:
        """Say that the gateway is ready, once all workers serve."""
        if self._is_awaited and all_have_begun(self._server):
            self._is_awaited = False
            self._send("READY=1\nSTATUS=serving")

    def _send(self, message: str) -> None:
        self._notify(message, self._server.log)
