"""Wires the gateway: settings, event store, readers, limits and views become an app."""

import logging
import os
from collections.abc import Iterable, Mapping
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

from flask import Flask

from . import __version__
from .archive.archive import Archive
from .archive.storage import storage_of
from .archive.threads import StorageThreads
from .capacity import Capacity, open_files
from .metrics import catalog
from .metrics.exposition import Exposition
from .metrics.sampler import Reading, Sampler
from .metrics.values import Gauge, Place
from .routes import client_module, debug, health, metrics, problems, ui
from .routes.access import cors, revocations, session
from .routes.access.access import Access
from .routes.access.hosts import Hosts
from .routes.admission import Admission
from .routes.compat import compat
from .routes.description import description, page
from .routes.gateway import Gateway
from .routes.ingest.loop import IngestLoops
from .routes.lean_flask import LeanFlask
from .routes.reading import history, merged, runs, stream
from .routes.schemas import RunIdConverter
from .routes.writing import events, json_body, requests
from .routes.writing.plain_appends import PlainAppends
from .settings import Settings
from .streaming.errors import StoreUnavailable
from .streaming.event_store import EventStore
from .streaming.feeds.readers import make_readers
from .streaming.follow.heartbeats import Heartbeats
from .streaming.follow.history import History
from .streaming.follow.open_streams import OpenStreams
from .streaming.follow.subscriber import Services

if TYPE_CHECKING:
    from .auth.authenticator import Authenticator
    from .tracing import Tracing

log = logging.getLogger("tailrace.tracing")


def wire(settings: Settings | None, event_store: EventStore | None) -> Flask:
    """Make the app; see `create_app`."""
    settings = settings or Settings.load()
    tracing = _tracing(os.environ)
    store = event_store or _event_store(settings, tracing)
    capacity = Capacity.of(settings.max_streams, open_files())
    admission = Admission(settings.max_body_bytes, capacity, lanes=store.has_lanes)
    services = _services(settings, store)
    streams = OpenStreams(services, capacity.streams, settings.max_streams_per_subject)
    access = _make_access(settings, store, streams)
    here = Gateway(
        settings,
        store,
        streams,
        admission,
        IngestLoops(store),
        Hosts(settings.allowed_hosts),
        access,
        store.census(),
        Sampler(_readings(streams, admission, capacity), partial(_answers_of_redis, store)),
        Exposition(__version__),
    )
    here.init_app(app := _flask_app())
    json_body.init_app(app, admission)
    cors.init_app(app, settings.cors_origins, with_credentials=access.is_on)
    problems.init_app(app)
    for module in (
        *(events, requests),
        *(history, stream, merged, runs),
        *(health, debug, metrics, session, revocations),
    ):
        app.register_blueprint(module.blueprint)
    app.register_blueprint(description.blueprint)
    compat.init_app(app, settings.compat)
    client_module.init_app(app)
    if settings.docs:
        page.init_app(app)
    if settings.ui:
        ui.init_app(app)
    access.init_app(app)
    description.Description(app, __version__, access.schemes)
    if tracing is None:
        app.extensions["tailrace.plain_appends"] = PlainAppends(app, here)
    else:  # each append is a request of its own
        tracing.init_app(app)
    return app


def _tracing(environ: Mapping[str, str]) -> "Tracing | None":
    """Return the tracer of this process if the variables of OpenTelemetry ask for one."""
    exporter = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    is_asked = exporter not in ("", "none") or (not exporter and _has_endpoint(environ))
    if not is_asked or environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    try:
        # By name: nobody else needs the extra, nor pays for it.
        made: Tracing = import_module(".tracing", __package__).Tracing()
        return made
    except (ImportError, KeyError) as error:
        log.warning("no spans are made, which OTEL_… asks for: %r", error)
        return None


def _has_endpoint(environ: Mapping[str, str]) -> bool:
    names = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
    return any(environ.get(name) for name in names)


def _event_store(settings: Settings, tracing: "Tracing | None") -> EventStore:
    make = EventStore if tracing is None else tracing.event_store
    return make(
        settings.redis_url,
        maxlen=settings.stream_maxlen,
        ended_ttl_seconds=settings.stream_ttl_seconds,
        idle_ttl_seconds=settings.stream_idle_ttl_seconds,
        max_event_bytes=settings.max_event_bytes,
        archive=_archive(settings),
        ack_replicas=settings.ack_replicas,
    )


def _archive(settings: Settings) -> Archive | None:
    if settings.archive_url is None:
        return None
    return Archive(storage_of(settings.archive_url), in_thread=StorageThreads())


def _services(settings: Settings, store: EventStore) -> Services:
    history = History(store)
    return Services(
        store=store,
        readers=make_readers(store, history.drop),
        history=history,
        heartbeats=Heartbeats(settings.heartbeat_seconds),
        heartbeat_seconds=settings.heartbeat_seconds,
        retry_ms=settings.retry_ms,
    )


def _readings(streams: OpenStreams, admission: Admission, capacity: Capacity) -> list[Reading]:
    """Return what a worker notes of itself once a second."""
    services = streams.services
    return [
        (catalog.STREAMS_LIMIT, lambda: capacity.streams),
        (catalog.DRAINING, lambda: streams.draining),
        (catalog.BACKLOG_BYTES, lambda: services.backlog.size),
        (catalog.HELD_BODY_BYTES, lambda: admission.bytes.held),
        (catalog.FEEDS, lambda: len(services.readers)),
        (catalog.READERS, lambda: services.readers.readers),
        (catalog.HISTORY_BYTES, lambda: services.history.bytes),
        (catalog.REDIS_CONNECTIONS, services.store.engine.count_connections),
    ]


def _answers_of_redis(store: EventStore) -> list[tuple[Gauge | Place, float]]:
    """Return what a worker notes of Redis now and then. Raises an error if it cannot serve."""
    away = store.engine.count_away()
    return [
        (catalog.REDIS_NODES_AWAY, away),
        (catalog.REDIS_WARNINGS, len(store.warnings())),
        *((catalog.RUNS.of(state), size) for state, size in _sizes_of_index(store, away)),
    ]


def _sizes_of_index(store: EventStore, away: int) -> Iterable[tuple[str, int]]:
    """Return how many runs are active and have ended; nothing if that is on a node that is away."""
    try:
        return store.runs.index.sizes().items()
    except StoreUnavailable:
        if not away:
            raise
        return ()


def _make_access(settings: Settings, store: EventStore, streams: OpenStreams) -> Access:
    """Return what decides about requests. Raises SettingsError."""
    if not settings.has_authentication:
        return Access()
    # By name: without authentication nobody pays for what verifies tokens.
    authentication = import_module(".authentication", __package__)
    authenticator: Authenticator = authentication.make_authenticator(
        settings, store.engine, lambda refuses: streams.end_owned(refuses, "revoked")
    )
    return Access(
        authenticator,
        public_read=settings.public_read,
        query_token=settings.auth_query_token,
        origins=settings.cors_origins,
        max_appends_per_second=settings.max_appends_per_subject,
    )


def _flask_app() -> Flask:
    app = LeanFlask(__package__ or "app", static_folder=None)
    # A doubled slash must not make /runs//events the run called "events".
    app.url_map.merge_slashes = False
    app.url_map.converters["any_run_id"] = RunIdConverter
    return app
