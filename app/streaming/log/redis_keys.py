"""The names of the keys that a run has in Redis."""

from functools import lru_cache

from ..errors import InvalidInput
from ..event import OwnLog, check_run_id


def log_key(run_id: str) -> str:
    """Return the key of a run's log, or of one of Tailrace's own."""
    return f"tailrace:{run_id}" if isinstance(run_id, OwnLog) else f"run:{run_id}:events"


def run_id_of(key: bytes) -> str | None:
    """Return the run of whose log this is the key, None if it is no run's."""
    try:
        return check_run_id(key.decode().removeprefix("run:").removesuffix(":events"))
    except (InvalidInput, UnicodeDecodeError):
        return None


@lru_cache(maxsize=1000)  # a producer appends to the same run again and again
def redis_keys(run_id: str) -> tuple[str, str, str]:
    """Return the key of a run's log, and the two keys for its idempotency keys.

    The hash tag puts all three in one slot.
    """
    log, tagged = log_key(run_id), _tagged(run_id)
    return log, f"{tagged}:keys", f"{tagged}:key-order"


def archiving_key(run_id: str) -> str:
    """Return the key of what archivers note of a run, in the slot of its log."""
    return f"{_tagged(run_id)}:archiving"


def restoring_key(run_id: str, token: str) -> str:
    """Return the key under which a log is restored before it gets its name, in the same slot."""
    return f"{_tagged(run_id)}:restoring:{token}"


def _tagged(run_id: str) -> str:
    log = log_key(run_id)
    return log if isinstance(run_id, OwnLog) else f"{{{log}}}"
