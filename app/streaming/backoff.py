"""The pauses between one attempt and the next: longer each time, and random."""

import random
from collections.abc import Iterator


def backoff(initial: float, maximum: float) -> Iterator[float]:
    """Yield pauses in seconds without end.

    The bound starts at `initial` and doubles up to `maximum`. Each pause lies at random between
    half the bound and the bound, so that clients that failed together do not return together.
    """
    bound = initial
    while True:
        yield random.uniform(bound / 2, bound)
        bound = min(maximum, 2 * bound)
