"""The load clients: followers and producers by POST in C, and the producers of lines."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

from tests.servers import ROOT

SOURCE = Path(__file__).parent / "load.c"
PROGRAM = Path(__file__).parent / ".build" / "load"


@cache
def _built() -> str:
    """Return the program in C, compiled anew if its source is newer."""
    if not PROGRAM.exists() or PROGRAM.stat().st_mtime < SOURCE.stat().st_mtime:
        PROGRAM.parent.mkdir(exist_ok=True)
        subprocess.run(["cc", "-O2", "-o", PROGRAM, SOURCE], check=True)
    return str(PROGRAM)


def follow_command(port: int, followers: int, runs: int, each: int) -> list[str]:
    """Return the command of followers of `each` runs, which count what they receive."""
    return [_built(), "follow", *map(str, (port, followers, runs, each))]


def post(port: int, connections: int, seconds: float, body: Path) -> dict:
    """Post a body over each connection, again as soon as the answer has come."""
    return _run(_built(), "post", port, connections, seconds, body)


def produce(
    port: int, connections: int, runs: int, rate: float, seconds: float, body: tuple[str, str]
) -> dict:
    """Post events at a steady rate to each run in turn, with the time between the body's parts."""
    return _run(_built(), "produce", port, connections, runs, rate, seconds, *body)


def stream_lines(port: int, connections: int, seconds: float, rate: float) -> dict:
    """Stream lines over each connection at a steady rate."""
    return _run(sys.executable, "-m", "tests.bench.lines", port, connections, seconds, rate)


def _run(*words: object) -> dict:
    return json.loads(subprocess.check_output([str(word) for word in words], cwd=ROOT))
