"""gunicorn's settings and hooks, importing nothing of the app before the workers fork.

The worker patches the standard library for gevent after the fork, so the settings are
validated, and Redis is looked at, by a process of its own.
"""

import contextlib
import errno
import gc
import json
import logging
import resource
import subprocess
import sys
from types import SimpleNamespace

import gevent
from gunicorn import util
from gunicorn.glogging import Logger
from gunicorn.workers.ggevent import GeventWorker

_check = subprocess.run([sys.executable, "-m", "app", "check"], stdout=subprocess.PIPE)
if _check.returncode:
    sys.exit(_check.returncode)
_settings = json.loads(_check.stdout)

# Who pipelines requests is never waited for: after so many the others get their turn.
REQUESTS_IN_A_ROW = 8

# So long may a client take nothing of an answer (or send nothing of a body).
STALLED_SECONDS = 30.0


class StreamingWorker(GeventWorker):
    """gunicorn's gevent worker, which ends its streams when it is told to stop.

    A stream that was taken over is no connection of gunicorn's any more: it would neither
    wait for it nor end it.
    """

    _draining = None

    def run(self):
        self._names = {listener: listener.getsockname() for listener in self.sockets}
        # gunicorn looks up some twenty settings a request, each by way of its object.
        vars(self.cfg).update({name: each.get() for name, each in self.cfg.settings.items()})
        super().run()
        self._drain()  # where something else than a signal has stopped it
        while not self._draining.ready():
            self.notify()
            gevent.sleep(0.1)

    def handle(self, listener, client, addr):
        # gunicorn asks for the name, which a listener that a stop has closed since has no more.
        name = self._names[listener]
        super().handle(SimpleNamespace(getsockname=lambda: name), client, addr)

    def handle_request(self, listener_name, req, sock, addr):
        sock.settimeout(STALLED_SECONDS)
        try:
            super().handle_request(listener_name, req, sock, addr)
        except TimeoutError:  # the client does not take its answer: as good as gone
            raise ConnectionResetError(errno.ECONNRESET, "stalled") from None
        if self.nr % REQUESTS_IN_A_ROW == 0:
            gevent.sleep(0)

    def handle_exit(self, sig, frame):
        super().handle_exit(sig, frame)
        if self.booted:
            self._drain()

    def _drain(self):
        if self._draining is None:
            self._draining = gevent.spawn(self.wsgi.extensions["tailrace"].drain)


def write_problem(sock, status, title, detail):
    """What gunicorn refuses by itself, in the one shape of all errors (RFC 9457)."""
    problem = {"type": "about:blank", "title": title, "status": status, "detail": detail or title}
    body = json.dumps(problem).encode()
    head = (
        f"HTTP/1.1 {status} {title}\r\nConnection: close\r\nCache-Control: no-store\r\n"
        f"Content-Type: application/problem+json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    util.write_nonblock(sock, head.encode("latin-1") + body)


util.write_error = write_problem  # there is no setting for it


class Log(Logger):
    """gunicorn's log, which gathers nothing for an access log that nobody keeps."""

    def access(self, resp, req, environ, request_time):
        if self.access_log.isEnabledFor(logging.INFO):
            super().access(resp, req, environ, request_time)


_host = _settings["host"]
bind = f"[{_host}]:{_settings['port']}" if ":" in _host else f"{_host}:{_settings['port']}"
workers = _settings["web_concurrency"]
worker_class = StreamingWorker
# A worker whose connections are all taken answers nothing, health checks included, so the app
# admits less than that of whatever may last (app/places.py).
worker_connections = _settings["worker_connections"]
# A worker that stops by count refuses everybody while its streams go on.
max_requests = 0
timeout = 30
graceful_timeout = _settings["drain_seconds"] + 5
keepalive = 5
# Nothing here asks for the scheme or a prefix, so no header may tell of them, whoever it is
# from; and so nobody's address is looked up in a list at each request. (It is also the list
# of who may speak HTTP/2 in clear text, which is off.)
forwarded_allow_ips = "*"
secure_scheme_headers = {}
forwarder_headers = ""
# Two gateways of one user would collide on it.
control_socket_disable = True

accesslog = None
logger_class = Log
logconfig_dict = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "text": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"},
        "json": {
            "()": "pythonjsonlogger.json.JsonFormatter",
            "format": "%(asctime)s %(levelname)s %(name)s %(message)s",
            "rename_fields": {"asctime": "time", "levelname": "level", "name": "logger"},
        },
    },
    "handlers": {
        "console": {
            "class": "logging.StreamHandler",
            "formatter": _settings["log_format"],
            "stream": "ext://sys.stderr",
        }
    },
    "root": {"level": _settings["log_level"].upper(), "handlers": ["console"]},
    "loggers": {
        "gunicorn.error": {"level": _settings["log_level"].upper(), "propagate": True},
        "gunicorn.access": {"level": "WARNING", "propagate": True},
    },
}


def on_starting(server):
    """Allow as many open files as the streams need, where the system lets us."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    _refuse_wrong_reloads(server)


def post_worker_init(worker):
    """What is there by now stays: the collector need not look at it again and again.

    With 5,000 lines a second it held up everybody for 50 to 110 ms every three seconds, and does
    not any more. What streams make and let go of needs no collector.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 10, 10)


def _refuse_wrong_reloads(server):
    """A wrong setting must not stop what runs: gunicorn would leave, its workers with it."""
    reload = server.reload

    def reload_if_right():
        if subprocess.run(
            [sys.executable, "-m", "app", "check"], stdout=subprocess.DEVNULL
        ).returncode:
            server.log.error("not reloaded: the settings are wrong")
        else:
            reload()

    server.reload = reload_if_right
