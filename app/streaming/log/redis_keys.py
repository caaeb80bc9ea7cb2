"""The names of the keys that a run has in Redis."""

from functools import lru_cache


def log_key(run_id: str) -> str:
    """The key of a run's log."""
    return f"run:{run_id}:events"


@lru_cache(maxsize=1000)  # a producer appends to the same one again and again
def redis_keys(run_id: str) -> tuple[str, str, str]:
    """The run's log, and what is kept beside it of idempotency keys, in the same slot."""
    log = log_key(run_id)
    return log, f"{{{log}}}:keys", f"{{{log}}}:key-order"
