"""How many connections a worker serves at once, and how many of them for what."""

import resource
from typing import NamedTuple

# Files that are no client's: mostly connections to Redis, of which readers use one for 64 runs.
OTHER_FILES = 100
RUNS_PER_FILE = 64

# So many of the newest connections are left to wait, for each 8 places, so that each has time to
# send its request, even beside as many busy connections as there are places.
PLACES_PER_WAITING = 8

MAX_APPENDS = 1500
MAX_OTHERS = 1000


class Capacity(NamedTuple):
    """The bounds of one worker.

    Since every kind is bounded, no client can keep the worker from answering health checks.
    """

    streams: int
    appends: int  # in progress
    bodies: int  # still arriving; slow ones keep out no append whose body is complete
    others: int  # requests that are answered at once

    @classmethod
    def of(cls, wanted_streams: int, files: int) -> "Capacity":
        """Share out `files` open files; return the wanted streams if there are enough files."""
        files_per_client = 1 + 1 / RUNS_PER_FILE + 1 / PLACES_PER_WAITING
        clients = max(4, int((files - OTHER_FILES) / files_per_client))
        share = max(1, (clients - wanted_streams) // 3, clients // 16)
        appends, others = min(MAX_APPENDS, share), min(MAX_OTHERS, share)
        streams = min(wanted_streams, clients - 2 * appends - others)
        return cls(streams, appends, appends, others)


def open_files(hard: bool = False) -> int:
    """Return how many files this process may open now, or (`hard`) may allow itself to open."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[hard]
    return 2**31 if limit == resource.RLIM_INFINITY else limit
