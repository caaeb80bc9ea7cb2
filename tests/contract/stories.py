"""Stories: random operations on two fresh runs, and the shortest story that shows a fault."""

import random
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tests.contract import operations
from tests.contract.operations import Operation
from tests.contract.world import World

MAX_OPERATIONS = 50
MAX_SHRINK_SECONDS = 60.0


class Fault(NamedTuple):
    """What went wrong in a story, at its last operation."""

    story: list[Operation]
    error: Exception

    def __str__(self) -> str:
        lines = [str(operation) for operation in self.story]
        return "\n".join([*lines, f"{type(self.error).__name__}: {self.error}"])


class Tally:
    """How many operations were performed."""

    def __init__(self) -> None:
        self.operations = 0


def draw(seed: int) -> list[Operation]:
    """Draw a story. Some kinds of operations are left out, so that the others come more often."""
    dice = random.Random(seed)
    names = [name for name in operations.names() if dice.random() < 0.7] or operations.names()
    return [operations.draw(dice, names) for _ in range(dice.randint(1, MAX_OPERATIONS))]


def tell(story: Sequence[Operation], make_world: Callable[[], World], tally: Tally) -> Fault | None:
    """Perform a story on fresh runs; return the fault that it shows."""
    world = make_world()
    try:
        for at, operation in enumerate(story):
            tally.operations += 1
            try:
                operation.perform(world)
                for run in world.runs:
                    world.check_redis(run)
            except Exception as error:
                return Fault(list(story[: at + 1]), error)
        try:
            for run in world.runs:
                world.check_lease(run)
        except AssertionError as error:
            return Fault(list(story), error)
    finally:
        world.close()
    return None


def shrink(fault: Fault, make_world: Callable[[], World], tally: Tally) -> Fault:
    """Leave out operations as long as the story still shows a fault."""
    until = time.monotonic() + MAX_SHRINK_SECONDS
    size = len(fault.story) // 2
    while size and time.monotonic() < until:
        length, at = len(fault.story), 0
        while at < len(fault.story) and time.monotonic() < until:
            shorter = fault.story[:at] + fault.story[at + size :]
            found = tell(shorter, make_world, tally)
            if found is None:
                at += size
            else:
                fault = found
        if size > 1 or length == len(fault.story):
            size //= 2
    return fault


def compare(
    seed: int, make_world: Callable[[], World], seconds: float, tally: Tally
) -> Fault | None:
    """Tell stories for some time; return the first fault, as a short story."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        fault = tell(draw(seed), make_world, tally)
        if fault is not None:
            print(f"seed {seed}, {len(fault.story)} operations: {fault.error}", flush=True)
            return shrink(fault, make_world, tally)
        seed += 1
    return None
