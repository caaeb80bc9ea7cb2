"""`python -m tests.contract`: compare for some time; print a story and exit with 1 at a fault."""

import argparse
import math
import random
import tempfile
import traceback
from functools import partial
from pathlib import Path

from tests.contract.stories import Tally, compare
from tests.contract.world import World, connect_worker
from tests.servers import GatewayServer, RedisServer


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.contract", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--workers", type=int, default=1, help="workers of the gateway")
    options = parser.parse_args()
    print(options, flush=True)
    tally = Tally()
    with (
        tempfile.TemporaryDirectory(prefix="tailrace-contract-") as directory,
        RedisServer(Path(directory)) as server,
        GatewayServer(
            server.url, Path(directory) / "gateway.log", WEB_CONCURRENCY=options.workers
        ) as gateway,
        server.client() as client,
    ):
        # Which worker answers is not known, so one of several may have connected only now.
        watching_since = math.inf if options.workers > 1 else connect_worker(gateway.port)
        make_world = partial(World, gateway.port, client, watching_since)
        fault = compare(options.seed, make_world, options.seconds, tally)
    print(f"{tally.operations:,} operations")
    if fault is None:
        return 0
    traceback.print_exception(fault.error)
    print(f"\n{fault}")
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
