"""The names of the keys that a run has in Redis."""

from functools import lru_cache


def log_key(run_id: str) -> str:
    """Return the key of a run's log."""
    return f"run:{run_id}:events"


@lru_cache(maxsize=1000)  # a producer appends to the same run again and again
def redis_keys(run_id: str) -> tuple[str, str, str]:
    """Return the key of a run's log, and the two keys for its idempotency keys.

    The hash tag puts all three in one slot.
    """
    log = log_key(run_id)
    return log, f"{{{log}}}:keys", f"{{{log}}}:key-order"
