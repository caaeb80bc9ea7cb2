"""`python -m app`: starts Redis if none is given, runs gunicorn, stops what it started last.

`python -m app check` validates the settings, looks at Redis, and prints the settings as JSON.
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
from functools import partial
from pathlib import Path
from subprocess import Popen
from typing import Any

from .capacity import Capacity, open_files
from .own_redis import OwnRedis, OwnRedisError
from .settings import Settings, SettingsError
from .streaming.errors import InvalidInput, ServerTooOld, StoreUnavailable
from .streaming.event_store import EventStore
from .streaming.log.redis_url import default_url, without_password

HERE = Path(__file__).parent
DATA = Path(".data")

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
PORT_SECONDS = 10.0


class Reaper:
    """Ends the children should this process be killed; see `app/reaper.py`."""

    def __init__(self):
        self._process = Popen(
            [sys.executable, "-S", HERE / "reaper.py"],
            stdin=subprocess.PIPE,
            start_new_session=True,
            bufsize=0,
        )
        self._children: list[Popen] = []

    def spawn(self, name: str, stop_signal: signal.Signals, command: list, **how: Any) -> Popen:
        """Start a child, and have it ended by a signal, then killed, when this process is.

        It makes itself known before it becomes another program: there is no moment at which
        it lives and the reaper does not know it. It has a session of its own: a Ctrl-C in the
        terminal must come to gunicorn once, and to Redis after that has ended.
        """

        def begin() -> None:
            signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # the reaper may be gone
            with contextlib.suppress(BrokenPipeError):
                os.write(to_reaper, f"{name} {os.getpid()} {stop_signal.value}\n".encode())
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)

        to_reaper = self._process.stdin.fileno()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        try:
            child = Popen(command, start_new_session=True, preexec_fn=begin, **how)
            self._children.append(child)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return child

    def dismiss(self) -> None:
        """All children have ended, but for one whose start a stop has broken off."""
        for child in self._children:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()


def check() -> int:
    """Print the settings as JSON, and how many connections a worker has at the most; 2 when one
    is wrong, or Redis is too old."""
    settings = Settings.load()
    url = settings.redis_url or default_url()
    try:
        EventStore(url).check_server()
    except ServerTooOld as error:
        print(f"tailrace: {without_password(url)}: {error}", file=sys.stderr)
        return 2
    except StoreUnavailable as error:
        print(
            f"tailrace: cannot reach Redis at {without_password(url)}, and goes on trying: {error}",
            file=sys.stderr,
        )
    capacity = Capacity.of(settings.max_streams, open_files(hard=True))
    print(json.dumps({**dataclasses.asdict(settings), "worker_connections": sum(capacity)}))
    return 0


def serve() -> int:
    """Run the gateway until it is stopped; gives gunicorn's exit status."""
    # Until gunicorn runs, a stop just leaves, and what was started is stopped on the way.
    for number in STOPS:
        signal.signal(number, lambda number, frame: sys.exit(0))
    settings = Settings.load()
    _wait_for_port(settings.host, settings.port)
    reaper = Reaper()
    environ = dict(os.environ)
    own_redis = None
    if settings.redis_url:
        redis = f"Redis at {without_password(settings.redis_url)}"
    else:
        own_redis = OwnRedis(DATA, partial(reaper.spawn, "redis", signal.SIGTERM))
        redis = f"its own {own_redis.version}, data in {DATA}/"
    try:
        if own_redis:
            own_redis.start()
            environ["REDIS_URL"] = own_redis.url
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        print(f"Tailrace: http://{host}:{settings.port} with {redis}", flush=True)
        if own_redis:
            print(f"REDIS_URL={own_redis.url}", flush=True)
        return _run_gunicorn(settings, environ, own_redis, reaper)
    finally:
        if own_redis:
            own_redis.stop()
        reaper.dismiss()


def _wait_for_port(host: str, port: int) -> None:
    """Look that the gateway can listen there; a former one may be on its way out."""
    until = time.monotonic() + PORT_SECONDS
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
            time.sleep(0.1)


def _listens(settings: Settings) -> bool:
    """Whether somebody takes connections where the gateway is to be."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    try:
        socket.create_connection((host, settings.port), timeout=1).close()
    except OSError:
        return False
    return True


def _run_gunicorn(
    settings: Settings, environ: dict[str, str], own_redis: OwnRedis | None, reaper: Reaper
) -> int:
    """Run gunicorn to its end, and start a Redis that died meanwhile again."""
    command = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "wsgi:app"]
    gunicorn = reaper.spawn("gunicorn", signal.SIGINT, command, env=environ)
    try:
        asked = _forward_signals(gunicorn, settings)
        while gunicorn.poll() is None:
            if own_redis and not own_redis.running:
                print("tailrace: its own Redis has died, and is started again", file=sys.stderr)
                own_redis.start()
            with contextlib.suppress(subprocess.TimeoutExpired):
                gunicorn.wait(timeout=0.5)
        # However it ends once it was asked to, even while it was still starting, is in order.
        return 0 if asked & set(STOPS) else abs(gunicorn.returncode)
    finally:
        _end(gunicorn)


def _forward_signals(gunicorn: Popen, settings: Settings) -> set[int]:
    """Forward to gunicorn what this process is sent; gives the set of what it was sent."""
    asked: set[int] = set()

    def forward(number: int, frame: object) -> None:
        asked.add(number)
        if _listens(settings):
            gunicorn.send_signal(number)
        else:  # it does not heed signals yet, and serves nobody
            os.killpg(gunicorn.pid, signal.SIGKILL)

    forwarded = [*STOPS, signal.SIGUSR1]
    if not os.isatty(0):  # a terminal that closes sends SIGHUP, which means to leave
        forwarded.append(signal.SIGHUP)
    for number in forwarded:
        signal.signal(number, forward)
    return asked


def _end(gunicorn: Popen) -> None:
    """Leave nothing of gunicorn behind, whatever happened."""
    if gunicorn.poll() is None:
        gunicorn.send_signal(signal.SIGINT)
        try:
            gunicorn.wait(timeout=10)
        except subprocess.TimeoutExpired:
            gunicorn.kill()
            gunicorn.wait()


def main(arguments: list[str]) -> int:
    commands = {(): serve, ("check",): check}
    command = commands.get(tuple(arguments))
    if command is None:
        print("usage: python -m app [check]", file=sys.stderr)
        return 2
    try:
        return command()
    except (SettingsError, InvalidInput, OwnRedisError) as error:
        for line in str(error).splitlines():
            print(f"tailrace: {line}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
