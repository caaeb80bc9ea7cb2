"""Tailrace: a durable, resumable event stream for every run, over plain HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask

    from .settings import Settings
    from .streaming.event_store import EventStore


def create_app(settings: Settings | None = None, *, event_store: EventStore | None = None) -> Flask:
    """Wire a gateway; the only place that does.

    Without `settings` they are read from the environment (raising SettingsError); without
    `event_store` one is made from them. Nothing is connected until it is used.
    """
    # Imported here, since a producer imports app.streaming, and so this package, without Flask.
    from .capacity import Capacity, open_files
    from .routes import events, health, problems, runs, stream
    from .routes import json_body as body
    from .routes.admission import Admission
    from .routes.gateway import Gateway
    from .routes.ingest.loop import IngestLoop
    from .routes.lean_flask import LeanFlask
    from .routes.schemas import RunIdConverter
    from .server.response import Unsent
    from .settings import Settings
    from .streaming.event_store import EventStore
    from .streaming.follow.heartbeats import Heartbeats
    from .streaming.follow.history import History
    from .streaming.follow.open_streams import OpenStreams
    from .streaming.follow.reader_pool import ReaderPool
    from .streaming.follow.services import Services

    settings = settings or Settings.load()
    store = event_store or EventStore(
        settings.redis_url,
        maxlen=settings.stream_maxlen,
        ended_ttl_seconds=settings.stream_ttl_seconds,
        idle_ttl_seconds=settings.stream_idle_ttl_seconds,
        max_event_bytes=settings.max_event_bytes,
    )
    history = History(store)
    readers = ReaderPool(store, settings.flush_interval_ms / 1000, history.drop)
    services = Services(
        store=store,
        readers=readers,
        history=history,
        heartbeats=Heartbeats(settings.heartbeat_seconds),
        heartbeat_seconds=settings.heartbeat_seconds,
        retry_ms=settings.retry_ms,
    )
    app = LeanFlask(__name__, static_folder=None)
    # A doubled slash must not make /runs//events the run called "events".
    app.url_map.merge_slashes = False
    app.url_map.converters["any_run_id"] = RunIdConverter
    capacity = Capacity.of(settings.max_streams, open_files())
    streams = OpenStreams(services, capacity.streams)
    admission = Admission(settings.max_body_bytes, capacity)
    ingest_loop = IngestLoop(store, settings.flush_interval_ms / 1000)
    Gateway(settings, store, streams, admission, ingest_loop, Unsent()).init_app(app)
    body.init_app(app, admission)
    problems.init_app(app)
    for module in (events, stream, runs, health):
        app.register_blueprint(module.blueprint)
    return app
