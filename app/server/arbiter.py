"""What gunicorn's master process does beyond gunicorn: file limits, reloads, logs, its errors.

gunicorn calls its master the arbiter.
"""

import contextlib
import json
import logging
import resource
import socket
import subprocess
import sys
from collections.abc import MutableMapping
from datetime import timedelta
from typing import Any

from gunicorn import util
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger

_log = logging.getLogger("gunicorn.error")

_CHECK = (sys.executable, "-m", __name__.partition(".")[0], "check")


def read_settings() -> dict[str, Any]:
    """Return the settings, and `worker_connections`; exit if one of them is wrong.

    The workers patch the standard library after they have forked. Nothing of the app may be
    imported before that, so another process validates the settings and looks at Redis.
    """
    check = subprocess.run(_CHECK, stdout=subprocess.PIPE)
    if check.returncode:
        sys.exit(check.returncode)
    settings: dict[str, Any] = json.loads(check.stdout)
    return settings


def on_starting(server: Arbiter) -> None:
    """Allow as many open files as the system permits, and refuse reloads with wrong settings."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    _refuse_wrong_reloads(server)


def _refuse_wrong_reloads(server: Arbiter) -> None:
    """Keep the running workers when the new settings are wrong: gunicorn would exit."""
    reload = server.reload

    def reload_if_right() -> None:
        if subprocess.run(_CHECK, stdout=subprocess.DEVNULL).returncode:
            _log.error("not reloaded: the settings are wrong")
        else:
            reload()

    server.reload = reload_if_right  # type: ignore[method-assign]  # gunicorn has no hook for it


class QuietLogger(Logger):
    """gunicorn's logger, which prepares no access log line when nobody reads the access log."""

    def access(
        self, resp: Any, req: Any, environ: MutableMapping[str, Any], request_time: timedelta
    ) -> None:
        if self.access_log.isEnabledFor(logging.INFO):
            super().access(resp, req, environ, request_time)


def write_problem(sock: socket.socket, status_int: int, reason: str, mesg: str) -> None:
    """Send what gunicorn refuses by itself as problem details (RFC 9457), as the app does."""
    problem = {
        "type": "about:blank",
        "title": reason,
        "status": status_int,
        "detail": mesg or reason,
    }
    retry = "Retry-After: 1\r\n" if status_int == 503 else ""
    body = json.dumps(problem).encode()
    head = (
        f"HTTP/1.1 {status_int} {reason}\r\nConnection: close\r\nCache-Control: no-store\r\n{retry}"
        f"Content-Type: application/problem+json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    util.write_nonblock(sock, head.encode("latin-1") + body)


util.write_error = write_problem  # gunicorn has no setting for it
