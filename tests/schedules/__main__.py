"""`python -m tests.schedules`: play random schedules, and tell the story of each miss."""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import fields
from pathlib import Path

from tests.schedules.pool import AT_ONCE, run
from tests.schedules.schedule import Miss, Outcome

PROGRESS_EVERY = 1000


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.schedules", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--schedules", type=int, default=10_000)
    parser.add_argument("--at-once", type=int, default=AT_ONCE)
    parser.add_argument("--stories", type=int, default=10, help="how many stories are told")
    options = parser.parse_args()
    print(f"{options.schedules} schedules of seed {options.seed}", flush=True)
    total = Outcome()
    with tempfile.TemporaryDirectory(prefix="tailrace-schedules-") as directory:
        try:
            asyncio.run(_play(options, Path(directory), total))
        except AssertionError as error:  # a gateway's log has a traceback
            total.misses.append(Miss(f"a gateway failed: {error}", ""))
        if total.misses:
            print(f"the gateways' logs are kept: {_keep_logs(Path(directory))}")
    for name, count in sorted(Counter(miss.kind for miss in total.misses).items()):
        print(f"MISSED {name:30}{count:>8,}")
    print(f"{len(total.misses)} records with misses" if total.misses else "nothing is missed")
    return 1 if total.misses else 0


async def _play(options: argparse.Namespace, directory: Path, total: Outcome) -> None:
    """Play all schedules, add their figures, and tell the first stories."""
    began = time.monotonic()
    async for outcome in run(options.schedules, options.seed, directory, options.at_once):
        for miss in outcome.misses[: max(0, options.stories - len(total.misses))]:
            print(f"\n{miss.story}\n", flush=True)
        total.add(outcome)
        if total.schedules % PROGRESS_EVERY == 0 or total.schedules == options.schedules:
            print(_figures(total, time.monotonic() - began), flush=True)


def _keep_logs(directory: Path) -> Path:
    kept = Path(tempfile.mkdtemp(prefix="tailrace-schedules-"))
    for log in directory.glob("*.log"):
        (kept / log.name).write_bytes(log.read_bytes())
    return kept


def _figures(total: Outcome, seconds: float) -> str:
    counts = [f"{getattr(total, each.name):,} {each.name}" for each in fields(total)[:-1]]
    return f"{', '.join(counts)}, {len(total.misses)} misses in {seconds:.0f} s"


if __name__ == "__main__":
    sys.exit(main())
