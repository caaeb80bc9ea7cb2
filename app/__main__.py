"""`python -m app`: starts Redis if none is given, runs gunicorn, stops what it started last.

`python -m app check` validates the settings, looks at Redis, and prints the settings as JSON.
"""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from app.own_redis import OwnRedis, OwnRedisError
from app.settings import Settings, SettingsError
from app.streaming.connection import default_url, without_password
from app.streaming.errors import InvalidInput, ServerTooOld, StoreUnavailable
from app.streaming.event_store import EventStore

HERE = Path(__file__).parent
DATA = Path(".data")

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1)


class Reaper:
    """Ends the children should this process be killed; see `app/reaper.py`."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-S", HERE / "reaper.py"],
            stdin=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )

    def watch(self, pid: int, stop_signal: signal.Signals) -> None:
        self._tell(f"watch {pid} {stop_signal.value}")

    def forget(self, pid: int) -> None:
        self._tell(f"forget {pid}")

    def _tell(self, line: str) -> None:
        try:
            print(line, file=self._process.stdin, flush=True)
        except BrokenPipeError:
            print("tailrace: the reaper is gone", file=sys.stderr)


def check() -> int:
    """Print the settings as JSON; 2 when one is wrong, or Redis is too old."""
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
    print(json.dumps(dataclasses.asdict(settings)))
    return 0


def serve() -> int:
    """Run the gateway until it is stopped; gives gunicorn's exit status."""
    settings = Settings.load()
    reaper = Reaper()
    own_redis = None
    environ = dict(os.environ)
    if settings.redis_url:
        where = f"Redis at {without_password(settings.redis_url)}"
    else:
        own_redis = OwnRedis(DATA)
        own_redis.start()
        reaper.watch(own_redis.pid, signal.SIGTERM)
        environ["REDIS_URL"] = own_redis.url
        where = f"its own {own_redis.version}, data in {DATA}/"
    print(f"Tailrace: http://{settings.host}:{settings.port} with {where}", flush=True)
    if own_redis:
        print(f"REDIS_URL={own_redis.url}", flush=True)
    gunicorn = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "wsgi:app"],
        env=environ,
        # A Ctrl-C in the terminal must come to it once, and to Redis after it has ended.
        start_new_session=True,
    )
    reaper.watch(gunicorn.pid, signal.SIGINT)
    for number in FORWARDED:
        signal.signal(number, lambda number, frame: gunicorn.send_signal(number))
    if not os.isatty(0):
        signal.signal(signal.SIGHUP, lambda number, frame: gunicorn.send_signal(number))
    try:
        return _wait(gunicorn, own_redis, reaper)
    finally:
        if own_redis:
            own_redis.stop()
            reaper.forget(own_redis.pid)


def _wait(gunicorn: subprocess.Popen, own_redis: OwnRedis | None, reaper: Reaper) -> int:
    """Wait until gunicorn ends, starting a Redis that died meanwhile again."""
    while True:
        try:
            status = gunicorn.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            if own_redis and not own_redis.running:
                print("tailrace: its own Redis has died, and is started again", file=sys.stderr)
                reaper.forget(own_redis.pid)
                own_redis.start()
                reaper.watch(own_redis.pid, signal.SIGTERM)
            continue
        reaper.forget(gunicorn.pid)
        # Ended by the signal that asked it to is as good as an exit.
        return 0 if -status in (signal.SIGTERM, signal.SIGINT) else abs(status)


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
