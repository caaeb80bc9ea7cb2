"""The places of a worker: how many connections it has at once, and how many of them for what."""

import resource
from typing import NamedTuple

# Files that are no client's: connections to Redis, of which readers have one for 64 runs.
OTHER_FILES = 100
RUNS_TO_A_FILE = 64


class Capacity(NamedTuple):
    """A worker answers health checks whatever its clients do, as long as all these are bounded."""

    streams: int
    appends: int  # under way
    bodies: int  # still to come, so that slow ones keep out nobody whose body is there
    others: int  # requests that come and go

    @classmethod
    def of(cls, wanted_streams: int, files: int) -> "Capacity":
        """As many streams as are wanted, or as so many open files allow."""
        clients = max(4, (files - OTHER_FILES) * RUNS_TO_A_FILE // (RUNS_TO_A_FILE + 1))
        share = max(1, (clients - wanted_streams) // 3, clients // 16)
        appends, others = min(1500, share), min(1000, share)
        streams = min(wanted_streams, clients - 2 * appends - others)
        return cls(streams, appends, appends, others)


def open_files(hard: bool = False) -> int:
    """How many files this process may have open, now or (`hard`) at the most."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[hard]
    return 2**31 if limit == resource.RLIM_INFINITY else limit
