"""The command `tailrace` (in a checkout `python -m app`): serve a gateway, or check its settings.

`serve`, the default, starts a Redis if REDIS_URL names none, runs gunicorn, and stops both in
order. `check` validates the settings, looks at Redis, and prints the settings as JSON.
"""

import contextlib
import dataclasses
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from subprocess import Popen

try:
    from . import __version__
    from .capacity import Capacity, open_files
    from .child_processes import STOP_SIGNALS, ChildProcesses
    from .own_redis import OwnRedis, OwnRedisError
    from .settings import Settings, SettingsError
    from .streaming.errors import InvalidInput, StoreUnavailable, UnsupportedServer
    from .streaming.event_store import EventStore
    from .streaming.redis.redis_url import default_url, without_password
except ModuleNotFoundError as error:  # installed without the extra
    sys.exit(f"tailrace: the package {error.name} is missing; install Tailrace with [server]")

HERE = Path(__file__).parent
DATA = Path(".data")

PORT_WAIT_SECONDS = 10.0
GUNICORN_STOP_SECONDS = 10.0

USAGE = f"""usage: {"python -m app" if __package__ == "app" else "tailrace"} [serve | check]

  serve   run the gateway (the default)
  check   check the settings and Redis, and print the settings as JSON

Settings are environment variables, such as REDIS_URL, HOST and PORT."""


def check() -> int:
    """Print the settings as JSON, with the number of connections of a worker.

    Returns 2 if a setting is wrong, or if Redis can never serve (UnsupportedServer).
    """
    settings = Settings.load()
    url = settings.redis_url or default_url()
    try:
        store = EventStore(url)
        store.check_server()
        store.check_ready()
    except UnsupportedServer as error:
        _complain(f"{without_password(url)}: {error}")
        return 2
    except StoreUnavailable as error:
        _complain(f"cannot reach Redis at {without_password(url)}, and will go on trying: {error}")
    capacity = Capacity.of(settings.max_streams, open_files(hard=True))
    shown = dataclasses.replace(
        settings, redis_url=settings.redis_url and without_password(settings.redis_url)
    )
    print(json.dumps({**dataclasses.asdict(shown), "worker_connections": sum(capacity)}))
    return 0


def serve() -> int:
    """Run the gateway until it is stopped; return gunicorn's exit status."""
    # Until gunicorn runs, a stop signal just exits. The exit stops what was started.
    for number in STOP_SIGNALS:
        signal.signal(number, lambda number, frame: sys.exit(0))
    settings = Settings.load()
    _wait_for_port(settings.host, settings.port)
    children = ChildProcesses()
    environ = dict(os.environ)
    own_redis = None
    if settings.redis_url:
        redis = f"Redis at {without_password(settings.redis_url)}"
    else:
        own_redis = OwnRedis(DATA, partial(children.spawn, "redis", signal.SIGTERM))
        redis = f"its own {own_redis.version}, data in {DATA}/"
    try:
        if own_redis:
            own_redis.start()
            environ["REDIS_URL"] = own_redis.url
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        print(f"Tailrace: http://{host}:{settings.port} with {redis}", flush=True)
        if own_redis:
            print(f"REDIS_URL={own_redis.url}", flush=True)
        return _run_gunicorn(settings, environ, own_redis, children)
    finally:
        if own_redis:
            own_redis.stop()
        children.dismiss_reaper()


def _wait_for_port(host: str, port: int) -> None:
    """Wait until the gateway can listen there: an earlier one may still be stopping."""
    until, printed = time.monotonic() + PORT_WAIT_SECONDS, False
    while True:
        try:
            [(family, kind, protocol, _, address), *_] = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
                return
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise SettingsError(f"HOST: cannot listen on {host}: {error}") from None
            if time.monotonic() > until:
                raise SettingsError(f"PORT: {port} of {host} is in use") from None
            if not printed:
                _complain(f"waiting for port {port} of {host}, which is in use")
                printed = True
            time.sleep(0.1)


def _is_listening(settings: Settings) -> bool:
    """Whether a process accepts connections on the gateway's address."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    try:
        socket.create_connection((host, settings.port), timeout=1).close()
    except OSError:
        return False
    return True


def _gunicorn_command() -> list[str]:
    """Return the command that runs gunicorn.

    In a checkout its configuration and wsgi.py are beside the package. An installed package
    has its own configuration.
    """
    gunicorn = [sys.executable, "-m", "gunicorn", "-c"]
    installed = HERE / "gunicorn.conf.py"
    if installed.exists():
        return [*gunicorn, str(installed), f"{__package__}:create_app()"]
    return [*gunicorn, str(HERE.parent / "gunicorn.conf.py"), "wsgi:app"]


def _run_gunicorn(
    settings: Settings,
    environ: dict[str, str],
    own_redis: OwnRedis | None,
    children: ChildProcesses,
) -> int:
    """Run gunicorn to its end, and restart the gateway's own Redis if it dies meanwhile."""
    gunicorn = children.spawn("gunicorn", signal.SIGINT, _gunicorn_command(), env=environ)
    try:
        received = _forward_signals(gunicorn, settings)
        while gunicorn.poll() is None:
            if own_redis and not own_redis.running:
                _complain("its own Redis has died, and is started again")
                own_redis.start()
            with contextlib.suppress(subprocess.TimeoutExpired):
                gunicorn.wait(timeout=0.5)
        # After a stop signal any end is in order, even one during the start.
        return 0 if received & set(STOP_SIGNALS) else abs(gunicorn.returncode)
    finally:
        _stop_gunicorn(gunicorn)


def _forward_signals(gunicorn: "Popen[bytes]", settings: Settings) -> set[int]:
    """Forward this process's signals to gunicorn; return the set of those received so far."""
    received: set[int] = set()

    def forward(number: int, frame: object) -> None:
        received.add(number)
        if _is_listening(settings):
            gunicorn.send_signal(number)
        else:  # gunicorn does not handle signals yet, and serves no request
            os.killpg(gunicorn.pid, signal.SIGKILL)

    forwarded = [*STOP_SIGNALS, signal.SIGUSR1]
    if not os.isatty(0):  # a closing terminal sends SIGHUP to mean: exit
        forwarded.append(signal.SIGHUP)
    for number in forwarded:
        signal.signal(number, forward)
    return received


def _stop_gunicorn(gunicorn: "Popen[bytes]") -> None:
    if gunicorn.poll() is None:
        gunicorn.send_signal(signal.SIGINT)
        try:
            gunicorn.wait(timeout=GUNICORN_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            gunicorn.kill()
            gunicorn.wait()


def _complain(message: str) -> None:
    for line in message.splitlines():
        print(f"tailrace: {line}", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    commands: dict[tuple[str, ...], Callable[[], int]] = {
        (): serve,
        ("serve",): serve,
        ("check",): check,
    }
    given = tuple(sys.argv[1:] if arguments is None else arguments)
    if given in (("-h",), ("--help",)):
        print(USAGE)
        return 0
    if given == ("--version",):
        print(f"tailrace {__version__}")
        return 0
    command = commands.get(given)
    if command is None:
        print(USAGE, file=sys.stderr)
        return 2
    try:
        return command()
    except (SettingsError, InvalidInput, OwnRedisError) as error:
        _complain(str(error))
        return 2


if __name__ == "__main__":
    sys.exit(main())
