"""`python -m tests.contract`: compare for some time; print a story and exit with 1 at a fault."""

import argparse
import random
import tempfile
import time
from pathlib import Path

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.contract.machine import ContractMachine
from tests.servers import GatewayServer, RedisServer

EXAMPLES_OF_A_SEED = 200


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.contract", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--workers", type=int, default=1, help="workers of the gateway")
    parser.add_argument("--no-shrink", action="store_true", help="print the first story as it is")
    options = parser.parse_args()
    given = settings(
        max_examples=EXAMPLES_OF_A_SEED,
        stateful_step_count=50,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        print_blob=False,
        phases=[Phase.generate] if options.no_shrink else [Phase.generate, Phase.shrink],
    )
    until, number = time.monotonic() + options.seconds, options.seed
    with (
        tempfile.TemporaryDirectory(prefix="tailrace-contract-") as directory,
        RedisServer(Path(directory)) as server,
        GatewayServer(
            server.url, Path(directory) / "gateway.log", WEB_CONCURRENCY=options.workers
        ) as gateway,
        server.client() as client,
    ):
        ContractMachine.port, ContractMachine.client = gateway.port, client
        time.sleep(2)  # longer than the shortest lease, which the gateway must have watched
        while time.monotonic() < until:
            print(f"seed {number}: {ContractMachine.steps:,} operations so far", flush=True)
            run_state_machine_as_test(seed(number)(ContractMachine), settings=given)
            number += 1
    print(f"{ContractMachine.steps:,} operations agree")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
