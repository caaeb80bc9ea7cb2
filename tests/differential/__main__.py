"""`python -m tests.differential`: play random conversations, and tell each difference."""

import argparse
import random
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.differential.play import gateways, play

AT_ONCE = 4


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.differential", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--conversations", type=int, default=30_000)
    options = parser.parse_args()
    print(f"{options.conversations} conversations of seed {options.seed}", flush=True)
    with (
        tempfile.TemporaryDirectory(prefix="tailrace-differential-") as directory,
        gateways(Path(directory)) as started,
        ThreadPoolExecutor(AT_ONCE) as pool,
    ):
        seeds = [f"{options.seed}-{number}" for number in range(AT_ONCE)]
        count = options.conversations // AT_ONCE
        outcomes = list(pool.map(lambda seed: play(started, seed, count), seeds))
    differences = [each for outcome in outcomes for each in outcome.differences]
    for difference in differences[:10]:
        print(f"\n{difference}\n")
    answers = sum(outcome.answers for outcome in outcomes)
    print(f"{answers:,} answers, {len(differences)} differences")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
