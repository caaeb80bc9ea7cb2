"""Readiness: whether the Redis can hold logs, what it allows, and what may lose events there."""
