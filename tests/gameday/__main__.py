"""`python -m tests.gameday`: break a running system, and print what showed it, as root, by hand."""

import argparse
import logging
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.gameday.load import Load
from tests.gameday.scenes import METRICS, SCENES, Scene
from tests.gameday.stage import Stage
from tests.gameday.watching import AlertWatch, LogWatch, Moved
from tests.servers import wait_until

# Of the time before a scene, from which its usual values are.
QUIET_SECONDS = 10
MAX_SECONDS = 240


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.gameday", description=__doc__)
    parser.add_argument("--only", nargs="+", default=[""], help="parts of the scenes' titles")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("a disk that is full is a file system of its own, so root is needed", file=sys.stderr)
        return 2
    logging.disable(logging.WARNING)  # those of the clients
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # all servers are stopped then too
    failed = 0
    for number, scene in enumerate(SCENES):
        if any(part in scene.title for part in options.only):
            with tempfile.TemporaryDirectory(prefix=f"tailrace-gameday-{number}-") as directory:
                failed += not is_played(scene, Path(directory))
    return 1 if failed else 0


def is_played(scene: Scene, directory: Path) -> bool:
    """Play a scene on servers of its own, so that no alert of another one is seen."""
    with Stage(directory) as stage:
        load = Load(stage.url)
        load.start()
        watch = AlertWatch(stage.prometheus)
        try:
            wait_until(lambda: load.all_have_seen_since(0), "every viewer gets events", 60)
            play(scene, stage, load, watch)
        except AssertionError as error:
            print(f"\n{scene.title}: FAILED: {error}; alerts {watch.since(0)}", flush=True)
            return False
        finally:
            load.stop()
            watch.stop()
    return True


def play(scene: Scene, stage: Stage, load: Load, watch: AlertWatch) -> None:
    """Break something, wait for what shows it, mend it, wait until all is well, and print it."""
    time.sleep(QUIET_SECONDS)
    load.forget()
    logs = LogWatch(stage.logs())
    broken_at, broken = time.time(), time.monotonic()
    mend = scene.run(scene, stage)
    if scene.fires:
        wait_until(lambda: set(scene.fires) <= watch.firing(), "the alerts fire", MAX_SECONDS)
    time.sleep(scene.seconds)
    answers = dict(load.answers)
    mended = time.monotonic()
    mend()
    wait_until(lambda: load.all_have_seen_since(mended), "every viewer gets events", MAX_SECONDS)
    flowing = max(load.seen_at.values()) - mended
    time.sleep(6)  # the metrics of the recovery are scraped
    print_scene(scene, stage, load, watch, logs, broken_at, broken, mended, answers)
    print(f"  recovered: every viewer had events again {flowing:.1f} s after it was mended")
    # Alerts about the last ten minutes go on; the scene is over for all others.
    lasting = {"TailraceWorkerDied", "TailraceGaps", "TailraceTokensRefused"}
    wait_until(lambda: watch.firing() <= lasting, "the alerts are over", MAX_SECONDS)
    over = [each for each in watch.since(mended) if "is over" in each]
    print(f"  alerts after mending: {'; '.join(over) or 'none has ended yet'}", flush=True)


def print_scene(
    scene: Scene,
    stage: Stage,
    load: Load,
    watch: AlertWatch,
    logs: LogWatch,
    broken_at: float,
    broken: float,
    mended: float,
    answers: dict[str, int],
) -> None:
    print(f"\n{scene.title} (for {mended - broken:.0f} s)")
    for name in scene.metrics:
        start = broken_at - QUIET_SECONDS / 2
        print(f"  metric: {Moved(stage.prometheus, name, METRICS[name], start, broken_at)}")
    for change in watch.since(broken):
        if "is over" not in change:
            print(f"  alert: {change}")
    for line in logs.lines()[:12]:
        print(f"  log: {line[:300]}")
    print(f"  producer: answers {answers}, the slowest {load.slowest:.1f} s")
    print(
        f"  viewers: longest silence {load.longest_silence():.1f} s, {load.gaps} gaps, "
        f"{load.resets} resets, {load.wrong} events missing or doubled"
    )
    for text in scene.said:
        print(f"  also: {text}")


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # an appender of a scene that failed would wait for its gateway
