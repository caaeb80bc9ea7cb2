"""The gunicorn worker: gevent's, with timeouts for slow clients, and with a drain at its end.

gunicorn loads this module in its master process, before the workers fork and patch the standard
library. So it imports nothing that starts threads, opens connections or needs the patches.
"""

import errno
import gc
import signal
from collections.abc import Callable
from types import FrameType, SimpleNamespace
from typing import Any

import gevent
from gevent.socket import socket
from gunicorn.workers.ggevent import GeventWorker

from ..streaming.follow import client_socket

# A client that pipelines requests never waits. After this many of its requests in a row, the
# other clients get their turn.
MAX_REQUESTS_IN_A_ROW = 8


class StreamingWorker(GeventWorker):
    """gunicorn's gevent worker, which ends its streams before it stops.

    gunicorn neither waits for a hijacked stream nor ends it: for gunicorn, that connection is
    closed.
    """

    _draining: "gevent.Greenlet[[], None] | None" = None

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

    def _drain(self) -> "gevent.Greenlet[[], None]":
        if self._draining is None:
            app: Any = self.wsgi
            drain: Callable[[], None] = app.extensions["tailrace"].drain
            self._draining = gevent.spawn(drain)
        return self._draining


def _tune_garbage_collector() -> None:
    """Keep the collector away from everything that exists by now.

    At 5,000 lines a second it stopped the worker for 50 to 110 ms every three seconds. What
    streams allocate and free needs no collector.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 10, 10)
