"""The only place that wires: settings, event store, readers, limits and views become an app."""

from flask import Flask

from .capacity import Capacity, open_files
from .routes import cors, events, health, json_body, problems, runs, stream
from .routes.admission import Admission
from .routes.gateway import Gateway
from .routes.hosts import Hosts
from .routes.ingest.loop import IngestLoop
from .routes.lean_flask import LeanFlask
from .routes.schemas import RunIdConverter
from .settings import Settings
from .streaming.event_store import EventStore
from .streaming.follow.heartbeats import Heartbeats
from .streaming.follow.history import History
from .streaming.follow.open_streams import OpenStreams
from .streaming.follow.reader_pool import ReaderPool
from .streaming.follow.subscriber import Services


def wire(settings: Settings | None, event_store: EventStore | None) -> Flask:
    """Make the app; see `create_app`."""
    settings = settings or Settings.load()
    store = event_store or _event_store(settings)
    capacity = Capacity.of(settings.max_streams, open_files())
    admission = Admission(settings.max_body_bytes, capacity)
    Gateway(
        settings,
        store,
        OpenStreams(_services(settings, store), capacity.streams),
        admission,
        IngestLoop(store, settings.flush_interval_ms / 1000),
        Hosts(settings.allowed_hosts),
    ).init_app(app := _flask_app())
    json_body.init_app(app, admission)
    cors.init_app(app, settings.cors_origins)
    problems.init_app(app)
    for module in (events, stream, runs, health):
        app.register_blueprint(module.blueprint)
    return app


def _event_store(settings: Settings) -> EventStore:
    return EventStore(
        settings.redis_url,
        maxlen=settings.stream_maxlen,
        ended_ttl_seconds=settings.stream_ttl_seconds,
        idle_ttl_seconds=settings.stream_idle_ttl_seconds,
        max_event_bytes=settings.max_event_bytes,
    )


def _services(settings: Settings, store: EventStore) -> Services:
    history = History(store)
    return Services(
        store=store,
        readers=ReaderPool(store, settings.flush_interval_ms / 1000, history.drop),
        history=history,
        heartbeats=Heartbeats(settings.heartbeat_seconds),
        heartbeat_seconds=settings.heartbeat_seconds,
        retry_ms=settings.retry_ms,
    )


def _flask_app() -> Flask:
    app = LeanFlask(__package__ or "app", static_folder=None)
    # A doubled slash must not make /runs//events the run called "events".
    app.url_map.merge_slashes = False
    app.url_map.converters["any_run_id"] = RunIdConverter
    return app
