"""The names of the keys that a run has in Redis."""


def log_key(run_id: str) -> str:
    """The key of a run's log."""
    return f"run:{run_id}:events"


def keys_of(run_id: str) -> tuple[str, str, str]:
    """The run's log, and what is kept beside it of idempotency keys, in the same slot."""
    log = log_key(run_id)
    return log, f"{{{log}}}:keys", f"{{{log}}}:key-order"
