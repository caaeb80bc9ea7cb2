"""Tailrace: a durable, resumable event stream for every run, over plain HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask

    from app.settings import Settings
    from app.streaming.event_store import EventStore


def create_app(settings: Settings | None = None, *, event_store: EventStore | None = None) -> Flask:
    """Wire a gateway; the only place that does.

    Without `settings` they are read from the environment (raising SettingsError); without
    `event_store` one is made from them. Nothing is connected until it is used.
    """
    # Imported here, since a producer imports app.streaming, and so this package, without Flask.
    from app.places import Places, open_files
    from app.routes import body, events, health, problems, runs, stream
    from app.routes.answer import Unsent
    from app.routes.gateway import Gateway
    from app.routes.gathering import Gathering
    from app.routes.intake import Intake
    from app.routes.lean_flask import LeanFlask
    from app.routes.schemas import RunIdConverter
    from app.settings import Settings
    from app.streaming.event_store import EventStore
    from app.streaming.heartbeat import Pulse
    from app.streaming.history import History
    from app.streaming.open_streams import OpenStreams
    from app.streaming.readers import Readers
    from app.streaming.subscriber import Surroundings

    settings = settings or Settings.load()
    store = event_store or EventStore(
        settings.redis_url,
        maxlen=settings.stream_maxlen,
        ended_ttl_seconds=settings.stream_ttl_seconds,
        idle_ttl_seconds=settings.stream_idle_ttl_seconds,
        max_event_bytes=settings.max_event_bytes,
    )
    history = History(store)
    readers = Readers(store, settings.flush_interval_ms / 1000, history.drop)
    around = Surroundings(
        store=store,
        readers=readers,
        history=history,
        pulse=Pulse(settings.heartbeat_seconds),
        heartbeat_seconds=settings.heartbeat_seconds,
        retry_ms=settings.retry_ms,
    )
    app = LeanFlask(__name__, static_folder=None)
    # A doubled slash must not make /runs//events the run called "events".
    app.url_map.merge_slashes = False
    app.url_map.converters["any_run_id"] = RunIdConverter
    places = Places.of(settings.max_streams, open_files())
    streams = OpenStreams(around, places.streams)
    intake = Intake(settings.max_body_bytes, places)
    gathering = Gathering(store, settings.flush_interval_ms / 1000)
    Gateway(settings, store, streams, intake, gathering, Unsent()).init_app(app)
    body.init_app(app, intake)
    problems.init_app(app)
    for module in (events, stream, runs, health):
        app.register_blueprint(module.blueprint)
    return app
