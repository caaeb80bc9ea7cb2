"""Glue for frameworks: what their agents and tasks do becomes events of a run."""

from .run_events import RunEvents

__all__ = ["RunEvents"]
