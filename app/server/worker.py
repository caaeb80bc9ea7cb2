"""The gunicorn worker: gevent's, with bounds for slow and silent clients, and a drain at its end.

gunicorn loads this module in its master process, before the workers fork and patch the standard
library. So it imports nothing that starts threads, opens connections or needs the patches.
"""

import _socket
import contextlib
import errno
import gc
import logging
import math
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import FrameType, SimpleNamespace
from typing import Any

import gevent
from gevent.pool import PoolFull
from gevent.server import StreamServer
from gevent.socket import socket
from greenlet import greenlet
from gunicorn.arbiter import Arbiter
from gunicorn.workers import ggevent

from ..metrics.catalog import CONNECTIONS, DRAINING
from ..metrics.sampler import Reading
from ..streaming.follow import client_socket
from .bodies.gunicorn_body import is_read
from .connections import HEALTH_PATHS, METRICS_PATH, Connections
from .kept_alive import KeptAlive, KeptConnection
from .listeners import close_empty, open_now
from .refusals import Refusal, refusal_of, write_problem
from .request_head import close_after_requests, limit_heads
from .request_ids import new_request_id, request_id_of_headers

# A client that pipelines requests never waits. After this many of its requests in a row, the
# other clients get their turn.
MAX_REQUESTS_IN_A_ROW = 8

# While a worker stops, it still answers the requests of open connections, but closes those that
# have been idle for this long since then.
STOPPING_IDLE_SECONDS = 5

# Once its streams have ended, a worker that stops waits this long for requests on connections
# that are open and silent. A proxy must not keep its idle connections for that long: a request
# must not meet one that is being closed (docs/deploy.md, and the files in deploy/).
SILENT_SECONDS = 3.0

# Connections to the monitoring port have places of their own, so no flood of others delays them.
MONITORING_PLACES = 16


log = logging.getLogger("tailrace.http")


class _Server(StreamServer):
    """A server that its worker knows: gunicorn keeps it in a local variable."""

    def __init__(self, listener: Any, handle: Any, **options: Any) -> None:
        super().__init__(listener, handle=handle, **options)
        worker: StreamingWorker = handle.func.__self__
        worker.servers.append(self)
        self.listener = listener
        self._connections = worker.connections_to(listener)
        self._kept_alive = worker.kept_alive(listener)
        self._backlog = worker.cfg.backlog
        self._is_monitoring = worker.is_monitoring(listener)
        if self._is_monitoring:
            self._spawn = _run_now

    def do_read(self) -> Any:
        return self._connections.accept(self._accept if self._kept_alive else super().do_read)

    def _accept(self) -> Any:
        listener: Any = self.socket
        try:
            descriptor, address = listener._accept()
        except BlockingIOError:
            return None
        kind = listener.family, listener.type, listener.proto
        return _socket.socket(*kind, fileno=descriptor), address

    def do_handle(self, client: Any, address: Any) -> None:
        if self._kept_alive is None:
            super().do_handle(client, address)
        else:
            self._kept_alive.add(self, client, address)

    def start_accepting(self) -> None:
        try:
            open_now(self.socket, self._backlog)
        except OSError as error:
            log.error("cannot listen: %s", error)
            sys.exit(Arbiter.WORKER_BOOT_ERROR)  # the master ends
        super().start_accepting()
        if self._is_monitoring:
            server: Any = self
            server._watcher.stop()
            _come_first(server._watcher)
            server._watcher.start(server._do_read)


def _refuse(client: Any, req: Any, status: int, reason: str, detail: str) -> None:
    write_problem(client, status, reason, detail, request_id_of_headers(req.headers))


def _request_id_of(req: Any) -> str:
    """Return the id of a request, of which gunicorn may have parsed nothing."""
    headers = getattr(req, "headers", None)
    return request_id_of_headers(headers) if headers else new_request_id()


def _come_first(watcher: Any) -> None:
    """Make a watcher the first of those that are ready in a round of the loop."""
    watcher.priority = watcher.loop.MAXPRI


def _run_now(run: Callable[..., None], *args: Any) -> None:
    """Run a connection at once, not in the next round of the loop, which a flood makes long."""
    greenlet(run, gevent.get_hub()).switch(*args)


vars(ggevent)["StreamServer"] = _Server  # gunicorn has no setting for it


class StreamingWorker(ggevent.GeventWorker):
    """gunicorn's gevent worker, which ends its streams before it stops.

    gunicorn neither waits for a hijacked stream nor ends it: for gunicorn, that connection is
    closed.
    """

    opens_listeners = True

    _draining: "gevent.Greenlet[[], None] | None" = None
    _stops_idle_at = math.inf

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.servers: list[_Server] = []
        self.connections = Connections(self.worker_connections)
        self._monitoring = Connections(MONITORING_PLACES)
        self._side_ports: dict[int | None, tuple[str, ...]] = {}  # and what each serves
        self._kept_alive: KeptAlive | None = None
        self.worker_connections += self.connections.reserve

    def load_wsgi(self) -> None:
        # Nearly all that is loaded stays, so the collector would look through it for nothing.
        gc.disable()
        super().load_wsgi()

    def run(self) -> None:
        self._names = {listener: listener.getsockname() for listener in self.sockets}
        app: Any = self.wsgi
        gateway = app.extensions["tailrace"]
        gateway.hosts.listens_on(self._names.values())
        gateway.store.engine.watch()
        gateway.census.start()
        gateway.sampler.start(self._readings())
        settings = gateway.settings
        self._side_ports[settings.monitoring_port] = HEALTH_PATHS
        self._side_ports[settings.metrics_port] = (*HEALTH_PATHS, METRICS_PATH)
        handler = app.extensions.get("tailrace.plain_appends")
        if handler is not None and handler.may_handle and self._has_ordinary_settings():
            self._kept_alive = KeptAlive(self.connections, handler, self._give)
        # gunicorn looks up about twenty settings per request, each through an object.
        vars(self.cfg).update({name: each.get() for name, each in self.cfg.settings.items()})
        limit_heads()
        _tune_garbage_collector()
        super().run()
        draining = self._drain()  # when the worker was stopped by something else than a signal
        until = time.monotonic() + self.cfg.graceful_timeout
        # gunicorn waits for what it serves, but not for what it may be given later.
        while not draining.ready() or (self._is_serving() and time.monotonic() < until):
            self.notify()
            gevent.sleep(0.1)
        if (tracing := app.extensions.get("tailrace.tracing")) is not None:
            tracing.shutdown()

    def handle(self, listener: Any, client: socket, addr: Any) -> None:
        # gunicorn asks the listener for its name, even after a stop has closed the listener.
        name = self._names[listener]
        if self.is_monitoring(listener):
            _come_first(client._read_event)  # type: ignore[attr-defined]
        named: Any = SimpleNamespace(getsockname=lambda: name)
        handle = super().handle
        self.connections_to(listener).serve(
            client,
            lambda: handle(named, client, addr),
            has_sent_request=getattr(gevent.getcurrent(), "has_sent_request", False),
        )

    def kept_alive(self, listener: Any) -> KeptAlive | None:
        """Return what watches the connections to a listener between two requests."""
        is_tcp = isinstance(self._names[listener], tuple)
        return self._kept_alive if is_tcp and not self.is_monitoring(listener) else None

    def _has_ordinary_settings(self) -> bool:
        """Whether gunicorn does nothing with a request but pass it to the app."""
        cfg = self.cfg
        hooks = [cfg.settings[name] for name in ("pre_request", "post_request")]
        return (
            not (cfg.is_ssl or cfg.max_requests or cfg.proxy_protocol not in (False, "off"))
            and cfg.http_protocols == ["h1"]
            and all(each.get() is each.default for each in hooks)
            and bool(cfg.keepalive)
            and not logging.getLogger("gunicorn.access").isEnabledFor(logging.INFO)
        )

    def _readings(self) -> list[Reading]:
        """Return what the worker notes of its connections once a second."""
        waiting, busy, stream = (CONNECTIONS.of(state) for state in ("waiting", "busy", "stream"))
        return [
            (waiting, lambda: self.connections.waiting_count),
            (busy, lambda: self.connections.busy_count),
            (stream, lambda: self.connections.hijacked),
        ]

    def _is_serving(self) -> bool:
        pools: list[Any] = [server.pool for server in self.servers]
        return any(pool.free_count() != pool.size for pool in pools)

    def _give(self, connection: KeptConnection) -> None:
        """Serve a request, and those that are pipelined behind it, as gunicorn does."""
        greenlet = gevent.Greenlet(self._serve_given, connection)
        try:
            connection.server.pool.start(greenlet, blocking=False)
        except PoolFull:
            connection.socket.close()
            self.connections.dropped()

    def _serve_given(self, connection: KeptConnection) -> None:
        raw, server, address = connection.socket, connection.server, connection.address
        client = socket(raw.family, raw.type, raw.proto, fileno=raw.detach())
        greenlet: Any = gevent.getcurrent()
        greenlet.unread, greenlet.kept = connection.buffer, None
        greenlet.has_sent_request = connection.has_sent_request
        connection.buffer = b""
        connection.forget()
        self.handle(server.listener, client, address)
        if greenlet.kept is not None:
            assert self._kept_alive is not None
            self._kept_alive.add(server, greenlet.kept, address, has_sent_request=True)

    def _keep(self, req: Any, client: socket) -> None:
        """Watch a connection again after its request; raises StopIteration if it does."""
        greenlet: Any = gevent.getcurrent()
        if self._kept_alive is None or not self.alive or not hasattr(greenlet, "kept"):
            return
        if is_read(req.body) and not req.unreader.buf.tell():
            kind = client.family, client.type, client.proto
            greenlet.kept = _socket.socket(*kind, fileno=client.detach())
            raise StopIteration

    def connections_to(self, listener: Any) -> Connections:
        """Return the connections among which those to a listener count."""
        return self._monitoring if self.is_monitoring(listener) else self.connections

    def is_monitoring(self, listener: Any) -> bool:
        """Whether a listener is that of a port for those who watch the gateway."""
        return self._paths_of(self._names[listener]) is not None

    def _paths_of(self, name: Any) -> tuple[str, ...] | None:
        """Return what a port serves, if that is not everything."""
        return self._side_ports.get(name[1]) if isinstance(name, tuple) else None

    def timeout_ctx(  # type: ignore[override]  # gunicorn's is said to return nothing
        self,
    ) -> AbstractContextManager[None]:
        return self.connections.waiting()

    def notify(self) -> None:  # once a second
        super().notify()
        idle_seconds: int = self.cfg.keepalive
        if time.monotonic() >= self._stops_idle_at:
            idle_seconds = min(idle_seconds, STOPPING_IDLE_SECONDS)
        self.connections.close_idle(idle_seconds)
        self._monitoring.close_idle(idle_seconds)
        if self._kept_alive is not None:
            self._kept_alive.close_stalled()

    def handle_request(  # type: ignore[override]  # gunicorn's returns nothing either
        self, listener_name: Any, req: Any, sock: socket, addr: Any
    ) -> None:
        paths = self._paths_of(listener_name)
        if paths is not None and req.path not in paths:
            _refuse(sock, req, 404, "Not Found", "there is no such path on this port")
            raise StopIteration
        if paths is None and req.path not in HEALTH_PATHS and self.connections.is_full:
            _refuse(sock, req, 503, "Service Unavailable", "too many connections")
            raise StopIteration
        sock.settimeout(client_socket.STALLED_SECONDS)
        req.hijack = self.connections.hijack
        req.body.force_close = req.force_close  # for a response before the end of the body
        try:
            super().handle_request(listener_name, req, sock, addr)
        except TimeoutError:  # the client does not read the response: treat it as gone
            raise ConnectionResetError(errno.ECONNRESET, "stalled") from None
        finally:
            del req.body.force_close  # else only the garbage collector could free the request
        self._keep(req, sock)
        sock.settimeout(None)  # the wait for the next request has its own limits
        if self.nr % MAX_REQUESTS_IN_A_ROW == 0:
            gevent.sleep(0)

    def init_signals(self) -> None:
        # gunicorn sets the default actions first, and keeps that of SIGHUP and SIGUSR2: to end.
        signals = {*self.SIGNALS, signal.SIGUSR2}
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        super().init_signals()
        for number in (signal.SIGHUP, signal.SIGUSR2):  # only the master acts on them
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        close_after_requests()
        if self.booted:
            self._drain()

    def handle_error(self, req: Any, client: socket, addr: Any, exc: BaseException) -> None:
        if isinstance(exc, gevent.GreenletExit):
            return  # a stop ends connections that are still silent
        refusal, request_id = refusal_of(exc), _request_id_of(req)
        # gunicorn would log and send its errors, which quote the request, and the whole URL.
        if refusal is not None:
            said = addr and addr[0], refusal.detail, request_id
            self.log.warning("refused a request of %s: %s request_id=%s", *said)
        else:
            path = getattr(req, "path", "an unknown path")
            self.log.exception("error in a request of %s request_id=%s", path, request_id)
            refusal = Refusal(500, "Internal Server Error", "")
        with contextlib.suppress(Exception):  # the client is gone
            write_problem(client, *refusal, request_id)

    def _drain(self) -> "gevent.Greenlet[[], None]":
        if self._draining is None:
            self._stops_idle_at = time.monotonic() + STOPPING_IDLE_SECONDS
            self._draining = gevent.spawn(self._drain_now)
        return self._draining

    def _drain_now(self) -> None:
        if self._kept_alive is not None:
            self._kept_alive.stop()
        # A client that comes back must meet another worker, not this one.
        for server in self.servers:
            close_empty(server)
        app: Any = self.wsgi
        drain: Callable[[], None] = app.extensions["tailrace"].drain
        drain()
        DRAINING.set(1)  # the sampler may not have come meanwhile
        until = time.monotonic() + SILENT_SECONDS
        while self.connections.has_waiting and time.monotonic() < until:
            gevent.sleep(0.1)
        while self._kept_alive is not None and self._kept_alive.is_busy:
            gevent.sleep(0.1)
        self.connections.close_idle(0)


def _tune_garbage_collector() -> None:
    """Keep the collector away from everything that exists by now.

    At 5,000 lines a second it stopped the worker for 50 to 110 ms every three seconds. What
    streams allocate and free needs no collector. With a threshold of 5,000 objects, dense JSON
    took twice as long to parse.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 10, 100)
    gc.enable()
