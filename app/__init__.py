"""Tailrace: a durable, resumable event stream for every run, over plain HTTP."""

from flask import Flask

from app.routes import events, health, problems, runs, stream
from app.routes.gateway import Gateway
from app.settings import Settings
from app.streaming.event_store import EventStore
from app.streaming.reader import Readers
from app.streaming.subscriber import Subscribers


def create_app(settings: Settings | None = None, *, event_store: EventStore | None = None) -> Flask:
    """Wire a gateway; the only place that does.

    Without `settings` they are read from the environment (raising SettingsError); without
    `event_store` one is made from them. Nothing is connected until it is used.
    """
    settings = settings or Settings.load()
    store = event_store or EventStore(
        settings.redis_url,
        maxlen=settings.stream_maxlen,
        ended_ttl_seconds=settings.stream_ttl_seconds,
        idle_ttl_seconds=settings.stream_idle_ttl_seconds,
        max_event_bytes=settings.max_event_bytes,
    )
    app = Flask(__name__, static_folder=None)
    # A doubled slash must not make /runs//events the run called "events".
    app.url_map.merge_slashes = False
    Gateway(
        settings=settings,
        store=store,
        readers=Readers(store, settings.flush_interval_ms / 1000),
        subscribers=Subscribers(settings.max_streams),
    ).init_app(app)
    problems.init_app(app)
    for module in (events, stream, runs, health):
        app.register_blueprint(module.blueprint)
    return app
