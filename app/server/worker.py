"""The gunicorn worker: gevent's, with timeouts for slow clients, and with a drain at its end.

gunicorn loads this module in its master process, before the workers fork and patch the standard
library. So it imports nothing that starts threads, opens connections or needs the patches.
"""

import errno
import gc
import signal
import time
from collections.abc import Callable, Iterable
from types import FrameType, SimpleNamespace
from typing import Any

import gevent
from gevent.server import StreamServer
from gevent.socket import socket
from gunicorn.workers import ggevent

from ..streaming.follow import client_socket

# A client that pipelines requests never waits. After this many of its requests in a row, the
# other clients get their turn.
MAX_REQUESTS_IN_A_ROW = 8

# Once its streams have ended, a worker that stops waits this long for requests on connections
# that are open and silent.
SILENT_SECONDS = 3.0


class _Server(StreamServer):
    """A server that its worker knows: gunicorn keeps it in a local variable."""

    def __init__(self, listener: Any, handle: Any, **options: Any) -> None:
        super().__init__(listener, handle=handle, **options)
        handle.func.__self__.servers.append(self)


vars(ggevent)["StreamServer"] = _Server  # gunicorn has no setting for it


class StreamingWorker(ggevent.GeventWorker):
    """gunicorn's gevent worker, which ends its streams before it stops.

    gunicorn neither waits for a hijacked stream nor ends it: for gunicorn, that connection is
    closed.
    """

    _draining: "gevent.Greenlet[[], None] | None" = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.servers: list[_Server] = []

    def run(self) -> None:
        self._names = {listener: listener.getsockname() for listener in self.sockets}
        app: Any = self.wsgi
        app.extensions["tailrace"].hosts.listens_on(self._names.values())
        # gunicorn looks up about twenty settings per request, each through an object.
        vars(self.cfg).update({name: each.get() for name, each in self.cfg.settings.items()})
        _tune_garbage_collector()
        super().run()
        draining = self._drain()  # when the worker was stopped by something else than a signal
        while not draining.ready():
            self.notify()
            gevent.sleep(0.1)

    def handle(self, listener: Any, client: socket, addr: Any) -> None:
        # gunicorn asks the listener for its name, even after a stop has closed the listener.
        name = self._names[listener]
        named: Any = SimpleNamespace(getsockname=lambda: name)
        super().handle(named, client, addr)

    def handle_request(  # type: ignore[override]  # gunicorn's returns nothing either
        self, listener_name: Any, req: Any, sock: socket, addr: Any
    ) -> None:
        sock.settimeout(client_socket.STALLED_SECONDS)
        req.body.force_close = req.force_close  # for a response before the end of the body
        try:
            super().handle_request(listener_name, req, sock, addr)
        except TimeoutError:  # the client does not read the response: treat it as gone
            raise ConnectionResetError(errno.ECONNRESET, "stalled") from None
        sock.settimeout(None)  # gunicorn itself limits the wait for the next request
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
        if self.booted:
            self._drain()

    def handle_error(self, req: Any, client: socket, addr: Any, exc: BaseException) -> None:
        # A stop ends connections that are still silent. That is no error.
        if not isinstance(exc, gevent.GreenletExit):
            super().handle_error(req, client, addr, exc)

    def _drain(self) -> "gevent.Greenlet[[], None]":
        if self._draining is None:
            self._draining = gevent.spawn(self._drain_now)
        return self._draining

    def _drain_now(self) -> None:
        # A client that comes back must meet another worker, not this one.
        for server in self.servers:
            server.close()
        app: Any = self.wsgi
        drain: Callable[[], None] = app.extensions["tailrace"].drain
        drain()
        until = time.monotonic() + SILENT_SECONDS
        while (silent := self._silent_connections()) and time.monotonic() < until:
            gevent.sleep(0.1)
        gevent.killall(silent, block=False)

    def _silent_connections(self) -> "list[gevent.Greenlet[..., Any]]":
        """Return the greenlets of connections on which no request is handled.

        Their suspended frames tell, so that requests need not say when they begin and end.
        """
        pools: Iterable[Any] = (server.pool for server in self.servers)
        connections = [each for pool in pools for each in pool.greenlets]
        return [each for each in connections if not _runs(each.gr_frame, self.handle_request)]


def _runs(frame: FrameType | None, method: Any) -> bool:
    while frame is not None and frame.f_code is not method.__func__.__code__:
        frame = frame.f_back
    return frame is not None


def _tune_garbage_collector() -> None:
    """Keep the collector away from everything that exists by now.

    At 5,000 lines a second it stopped the worker for 50 to 110 ms every three seconds. What
    streams allocate and free needs no collector.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 10, 10)
