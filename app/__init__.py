"""Tailrace: a durable, resumable event stream for every run, over plain HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask

    from .settings import Settings
    from .streaming.event_store import EventStore

__version__ = "0.1.0"


def create_app(settings: Settings | None = None, *, event_store: EventStore | None = None) -> Flask:
    """Wire a gateway.

    Without `settings` they are read from the environment and `.env`. Without `event_store` one is
    made from the settings. Nothing connects to Redis before the first request. Raises
    SettingsError.
    """
    # Imported here: a client or a producer imports this package too, and needs no Flask.
    from .wiring import wire

    return wire(settings, event_store)
