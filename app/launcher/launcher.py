"""The command `serve`: starts a Redis if none is given, runs gunicorn, and stops both in order."""

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from subprocess import Popen

from ..check import complain, resolve
from ..settings import PORTS, Settings, SettingsError
from ..streaming.redis.own_server import DATA
from ..streaming.redis.redis_url import without_password
from .child_processes import STOP_SIGNALS, ChildProcesses
from .own_redis import STOP_SIGNAL, OwnRedis

PACKAGE = Path(__file__).parents[1]

PORT_WAIT_SECONDS = 10.0
GUNICORN_STOP_SECONDS = 10.0

# What gunicorn gets of this process's signals.
FORWARDED = (*STOP_SIGNALS, signal.SIGHUP, signal.SIGUSR1)


def serve() -> int:
    """Run the gateway until it is stopped; return gunicorn's exit status."""
    # Until gunicorn runs, a stop signal just exits. The exit stops what was started. Python drops
    # what is raised in a destructor, so `leave_if_stopped` exits once more.
    received: list[int] = []

    def leave_if_stopped() -> None:
        if received:
            sys.exit(0)

    def stop(number: int, frame: object) -> None:
        received.append(number)
        leave_if_stopped()

    for number in STOP_SIGNALS:
        signal.signal(number, stop)
    settings = Settings.load()
    for name in PORTS:
        if port := getattr(settings, name):
            _wait_for_port(settings.host, port, name.upper())
    children = ChildProcesses()
    environ = _without_empty_settings()
    own_redis = None
    if settings.redis_url:
        redis = f"Redis at {without_password(settings.redis_url)}"
    else:
        # A supervisor may send SIGTERM to all processes at once. Redis ends after gunicorn.
        spawn = partial(children.spawn, "redis", STOP_SIGNAL, blocked=(signal.SIGTERM,))
        own_redis = OwnRedis(DATA, spawn, leave_if_stopped)
        redis = f"its own {own_redis.server}, data in {DATA}/"
    try:
        if own_redis:
            own_redis.start()
            environ["REDIS_URL"] = own_redis.url
        leave_if_stopped()
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        print(f"Tailrace: http://{host}:{settings.port} with {redis}", flush=True)
        if own_redis:
            print(f"REDIS_URL={own_redis.url}", flush=True)
        return _run_gunicorn(environ, own_redis, children)
    finally:
        if own_redis:
            own_redis.stop()
        children.dismiss_reaper()


def _without_empty_settings() -> dict[str, str]:
    """Return the environment without settings that are empty: gunicorn reads some of them too."""
    names = Settings.names()
    return {name: value for name, value in os.environ.items() if value or name not in names}


def _wait_for_port(host: str, port: int, name: str) -> None:
    """Wait until the gateway can listen there: an earlier one may still be stopping."""
    family, address = resolve(host, port)
    until, printed = time.monotonic() + PORT_WAIT_SECONDS, False
    while True:
        try:
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
                return
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise SettingsError(f"HOST: cannot listen on {host}: {error}") from None
            if time.monotonic() > until:
                raise SettingsError(f"{name}: {port} of {host} is in use") from None
            if not printed:
                complain(f"waiting for port {port} of {host}, which is in use")
                printed = True
            time.sleep(0.1)


def _gunicorn_command() -> list[str]:
    """Return the command that runs gunicorn.

    In a checkout its configuration and wsgi.py are beside the package. An installed package
    has its own configuration.
    """
    gunicorn = [sys.executable, "-m", "gunicorn", "-c"]
    installed = PACKAGE / "gunicorn.conf.py"
    if installed.exists():
        return [*gunicorn, str(installed), f"{PACKAGE.name}:create_app()"]
    return [*gunicorn, str(PACKAGE.parent / "gunicorn.conf.py"), "wsgi:app"]


def _run_gunicorn(
    environ: dict[str, str], own_redis: OwnRedis | None, children: ChildProcesses
) -> int:
    """Run gunicorn to its end, and restart the gateway's own Redis if it dies meanwhile."""
    # A signal that comes before gunicorn is ready waits until then (server/arbiter.py).
    gunicorn = children.spawn(
        "gunicorn", signal.SIGINT, _gunicorn_command(), blocked=FORWARDED, env=environ
    )
    try:
        received = _forward_signals(gunicorn)
        while gunicorn.poll() is None:
            if own_redis and not own_redis.running and not received & set(STOP_SIGNALS):
                complain("its own Redis has died, and is started again")
                own_redis.start()
            with contextlib.suppress(subprocess.TimeoutExpired):
                gunicorn.wait(timeout=0.5)
        # After a stop signal any end is in order, even one during the start.
        return 0 if received & set(STOP_SIGNALS) else abs(gunicorn.returncode)
    finally:
        _stop_gunicorn(gunicorn)


def _forward_signals(gunicorn: "Popen[bytes]") -> set[int]:
    """Forward this process's signals to gunicorn; return the set of those received so far."""
    received: set[int] = set()

    def forward(number: int, frame: object) -> None:
        received.add(number)
        gunicorn.send_signal(number)

    def refuse(number: int, frame: object) -> None:
        complain("SIGUSR2 does nothing here; SIGHUP reloads, and SIGTERM stops")

    for number in FORWARDED:
        signal.signal(number, forward)
    if os.isatty(0):  # a closing terminal sends SIGHUP to mean: exit
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGUSR2, refuse)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (*FORWARDED, signal.SIGUSR2))
    return received


def _stop_gunicorn(gunicorn: "Popen[bytes]") -> None:
    if gunicorn.poll() is None:
        gunicorn.send_signal(signal.SIGINT)
        try:
            gunicorn.wait(timeout=GUNICORN_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            gunicorn.kill()
            gunicorn.wait()
