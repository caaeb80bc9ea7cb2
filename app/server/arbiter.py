"""What gunicorn's master process does beyond gunicorn: signals, reloads, file limits, its errors.

gunicorn calls its master the arbiter.
"""

import contextlib
import json
import logging
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterable, MutableMapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from gunicorn.arbiter import Arbiter
from gunicorn.config import Config
from gunicorn.glogging import Logger

from ..metrics.answers import count_response
from ..metrics.shared_rows import SharedRows
from .addresses import STANDS_OPEN, is_loopback
from .listeners import open_late
from .request_ids import request_id_of
from .service_manager import ServiceManager, all_have_begun

_log = logging.getLogger("gunicorn.error")

_PACKAGE = __name__.partition(".")[0]
# The directory that holds the package. With -P a user's own `app` does not hide it.
_PACKAGE_PARENT = str(Path(__file__).parents[2])
_CHECK = (sys.executable, "-P", "-m", _PACKAGE, "check")
# gunicorn changes to --chdir after it has read its configuration, and forgets this one.
_STARTED_IN = os.getcwd()

# By default each of these ends the master, until it handles signals.
_LATER_SIGNALS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


def hold_signals() -> None:
    """Let signals wait until the master handles them; a stop signal still ends it at once."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.pthread_sigmask(signal.SIG_BLOCK, _LATER_SIGNALS)


def when_ready(server: Arbiter, is_open: bool) -> None:
    """Act on the signals that have come meanwhile: the master handles signals now."""
    refuse_to_stand_open(_addresses_of_listeners(server), is_open)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (*_LATER_SIGNALS, *_STOP_SIGNALS))


def read_settings() -> dict[str, Any]:
    """Return the settings, and `worker_connections`; exit if one of them is wrong.

    The workers patch the standard library after they have forked. Nothing of the app may be
    imported before that, so another process validates the settings and looks at Redis.
    """
    check = _check(_working_directory(), subprocess.PIPE)
    if check.returncode:
        sys.exit(check.returncode)
    settings: dict[str, Any] = json.loads(check.stdout)
    return settings


def _check(directory: str, output: int) -> "subprocess.CompletedProcess[bytes]":
    path = os.pathsep.join(filter(None, (_PACKAGE_PARENT, os.environ.get("PYTHONPATH"))))
    environ = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(_CHECK, stdout=output, cwd=directory, env=environ)


def _working_directory() -> str:
    """Return where gunicorn will run: there is the `.env` that counts."""
    config = Config()
    parser = config.parser()
    for words in (sys.argv[1:], config.get_cmd_args_from_env()):
        if directory := parser.parse_known_args(words)[0].chdir:
            return os.path.join(_STARTED_IN, directory)
    return _STARTED_IN


def refuse_to_stand_open(addresses: Iterable[object], is_open: bool) -> None:
    """Exit if everybody who reaches an address beyond loopback could read, append and delete."""
    beyond = _beyond_loopback(addresses)
    if is_open and beyond:
        print(f"tailrace: ALLOW_ANONYMOUS: {beyond[0]} {STANDS_OPEN}", file=sys.stderr, flush=True)
        sys.exit(2)


def _beyond_loopback(addresses: Iterable[object]) -> list[str]:
    """Return the hosts that others can reach; a socket in a file system is no host."""
    hosts = [each[0] for each in addresses if isinstance(each, tuple)]
    return [host for host in hosts if not is_loopback(host)]


def _addresses_of_listeners(server: Arbiter) -> list[object]:
    """Return where the server listens; systemd, or who started it, may have opened the sockets."""
    return [each.sock.getsockname() for each in server.LISTENERS]


def stands_open(settings: dict[str, Any]) -> bool:
    """Return whether nobody needs a token."""
    return not (settings["has_authentication"] or settings["allow_anonymous"])


class _ReloadedError(Exception):
    """Ends the wait of a reload."""


def on_starting(server: Arbiter) -> None:
    """Change what gunicorn has no setting for, in this process and its workers."""
    # gunicorn would answer 500 to every path that does not begin with it.
    os.environ.pop("SCRIPT_NAME", None)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if getattr(server.worker_class, "opens_listeners", False):
        open_late()
    manager = ServiceManager(server)
    _change_reloads(server, manager)
    _keep_workers_until_replaced(server, manager)
    _let_booting_workers_stop(server)


def _keep_workers_until_replaced(server: Arbiter, manager: ServiceManager) -> None:
    """Let a reload end the old workers only when the new ones serve.

    gunicorn ends them at once. Then those who come back first wait until a new one has started.
    """
    manage_workers = server.manage_workers

    def manage_if_all_serve() -> None:
        if len(server.WORKERS) <= server.num_workers or all_have_begun(server):
            manage_workers()
        manager.look()

    server.manage_workers = manage_if_all_serve  # type: ignore[method-assign]


def _change_reloads(server: Arbiter, manager: ServiceManager) -> None:
    """Make a reload keep the running workers when the new settings are wrong, and never wait.

    With wrong settings gunicorn would exit. And it would wait for the old workers to end their
    drain, and handle no signal meanwhile, not even one to stop.
    """
    reload, reap_workers = server.reload, server.reap_workers

    def reload_if_right() -> None:
        check = _check(_working_directory(), subprocess.PIPE)
        if check.returncode:
            _log.error("not reloaded: the settings are wrong")
        elif stands_open(json.loads(check.stdout)) and _beyond_loopback(
            _addresses_of_listeners(server)
        ):
            _log.error("not reloaded: ALLOW_ANONYMOUS: the address %s", STANDS_OPEN)
        else:
            manager.reloads()
            os.chdir(_STARTED_IN)  # gunicorn reads its command line again
            server.reap_workers = stop_waiting  # type: ignore[method-assign]
            try:
                with contextlib.suppress(_ReloadedError):
                    reload()
            finally:
                server.reap_workers = reap_workers  # type: ignore[method-assign]

    def stop_waiting() -> None:  # gunicorn calls it when all but the wait is done
        raise _ReloadedError

    server.reload = reload_if_right  # type: ignore[method-assign]  # gunicorn has no hook for it


def _let_booting_workers_stop(server: Arbiter) -> None:
    """Let a stop signal end a worker that is still booting.

    Such a worker has the handlers of the master, which only note a signal for a loop that the
    worker does not have. The signal was lost, and the stop took as long as gunicorn waits.
    """
    spawn_worker = server.spawn_worker

    def spawn_with_signals_blocked() -> Any:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
        try:
            return spawn_worker()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    server.spawn_worker = spawn_with_signals_blocked  # type: ignore[method-assign]


def pre_fork(server: Any, worker: Any) -> None:
    """Give a worker its row of metrics, in memory that it shares with the others."""
    server.metric_rows = SharedRows(getattr(server, "metric_rows", None))
    worker.metric_row = server.metric_rows.claim()


def child_exit(server: Arbiter, worker: Any) -> None:
    """Leave the row of a worker that has ended to the next one."""
    row = getattr(worker, "metric_row", None)  # one that started before an upgrade may have none
    if row is not None:
        row.release()


def post_fork(server: Arbiter, worker: Any) -> None:
    """Let a worker count in its row.

    A stop signal ends it until it has its own handlers: it serves nobody yet.
    """
    if worker.metric_row is not None:
        worker.metric_row.join()
    for number in _STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)


class AccessLogger(Logger):
    """gunicorn's logger, with access lines like those of the app, if they are on at all.

    A line has no query: it may hold a cursor, or what is secret.
    """

    def access(
        self, resp: Any, req: Any, environ: MutableMapping[str, Any], request_time: timedelta
    ) -> None:
        """Count and log a response whose last byte was handed over, or a stream whose head was."""
        count_response(resp.status_code)
        if not self.access_log.isEnabledFor(logging.INFO):
            return
        fields = {
            "client": environ.get("REMOTE_ADDR", "-"),
            "method": environ["REQUEST_METHOD"],
            "path": re.split(r"[?#]", environ["RAW_URI"], maxsplit=1)[0],
            "status": resp.status_code,
            "bytes": resp.sent,
            "seconds": round(request_time.total_seconds(), 6),
            "request_id": request_id_of(environ),
        }
        text = " ".join(f"{name}={value}" for name, value in fields.items())
        self.access_log.info("request %s", text, extra=fields)
