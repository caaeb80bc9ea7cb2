"""`python -m tests.chaos`: run a storm, print its figures, and exit with 1 if it found errors."""

import argparse
import asyncio
import os
import random
import signal
import sys
import tempfile
import threading
from collections import Counter
from dataclasses import fields
from pathlib import Path

import psutil

from tests.chaos.servers import Footprint
from tests.chaos.storm import Plan, Storm, storm

MAX_REPORTED = 40


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=150, help="how long faults are injected")
    parser.add_argument("--changing", type=int, default=60, help="runs whose logs change")
    parser.add_argument("--cluster", action="store_true", help="on three masters with replicas")
    parser.add_argument("--binary", help="the program of the servers, such as that of a Redis")
    parser.add_argument("--ack-replicas", type=int, default=0, help="ACK_REPLICAS of the gateway")
    plan = Plan(**vars(parser.parse_args()))
    print(f"{plan}, at most {plan.max_seconds:.0f} s", flush=True)
    watchdog = threading.Timer(plan.max_seconds, _give_up)
    watchdog.daemon = True
    watchdog.start()
    signal.signal(signal.SIGTERM, lambda number, frame: _give_up())
    with tempfile.TemporaryDirectory(prefix := "tailrace-chaos-") as directory:
        outcome = asyncio.run(storm(plan, Path(directory)))
        if outcome.report.wrong:
            kept = Path(tempfile.mkdtemp(prefix=prefix)) / "gateway.log"
            kept.write_bytes((Path(directory) / "gateway.log").read_bytes())
            print(f"the gateway's log is kept: {kept}")
    return print_outcome(outcome)


def print_outcome(outcome: Storm) -> int:
    """Print the figures and what is wrong. Returns the exit status."""
    report = outcome.report
    for each in fields(report):
        value = getattr(report, each.name)
        if isinstance(value, int):
            print(f"{each.name.replace('_', ' '):18}{value:>10,}")
        elif isinstance(value, Counter):
            print(each.name.replace("_", " "))
            for kind, count in sorted(value.items()):
                print(f"  {kind:26}{count:>8,}")
    print(f"{'':18}{'before':>10}{'after':>10}")
    for each in fields(Footprint):
        before, after = getattr(outcome.before, each.name), getattr(outcome.after, each.name)
        print(f"{each.name.replace('_', ' '):18}{before:>10}{after:>10}")
    for line in report.wrong[:MAX_REPORTED]:
        print("WRONG", line)
    print(f"{len(report.wrong)} wrong" if report.wrong else "nothing is wrong")
    return 1 if report.wrong else 0


def _give_up() -> None:
    """Kill all child processes and exit, so that nothing hangs."""
    print("WRONG the storm took too long, or got SIGTERM", flush=True)
    for child in psutil.Process().children(recursive=True):
        child.kill()
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
