"""gunicorn's settings. The code that they name is in app/server."""

import importlib
import os
import sys
from pathlib import Path

# In a checkout the package is `app`, beside this file. An installed package holds this file.
_here = Path(__file__).parent
_package = "app" if (_here / "app").is_dir() else _here.name
# First of all: the working directory may hold modules of the same names.
sys.path.insert(0, str(_here if _package == "app" else _here.parent))
# After a reload the workers must not mix new code with what this process has loaded before.
for _name in [name for name in sys.modules if name.partition(".")[0] == _package]:
    del sys.modules[_name]
_arbiter = importlib.import_module(f"{_package}.server.arbiter")
_log_format = importlib.import_module(f"{_package}.log_format")
_arbiter.hold_signals()
_settings = _arbiter.read_settings()
_host = _settings["host"]
_level = _settings["log_level"].upper()

_names = ("port", "monitoring_port", "metrics_port")
_ports = filter(None, dict.fromkeys(_settings[name] for name in _names))
bind = [f"[{_host}]:{port}" if ":" in _host else f"{_host}:{port}" for port in _ports]
workers = _settings["web_concurrency"]
worker_class = f"{_package}.server.worker.StreamingWorker"
# A worker with all its connections in use answers nothing, health checks included. So the app
# admits fewer than this many (app/capacity.py).
worker_connections = _settings["worker_connections"]
# A worker that stops after a number of requests refuses everything while its streams go on.
max_requests = 0
# All headers of a request together are limited too (app/server/request_head.py).
limit_request_line = 8190
limit_request_fields = 100
limit_request_field_size = 8190
timeout = 30
graceful_timeout = _settings["drain_seconds"] + 5
# A worker touches a file there all the time. A container may be read-only but for this one.
if os.access("/dev/shm", os.W_OK):
    worker_tmp_dir = "/dev/shm"
keepalive = _settings["keepalive_seconds"]
# Nothing here reads the scheme or a prefix, so no header may set them, from any address. With
# `*` no address is looked up in a list for each request. (The same list says who may speak
# HTTP/2 in clear text, which is off.)
forwarded_allow_ips = "*"
secure_scheme_headers = {}
forwarder_headers = ""
# Two gateways of one user would collide on its socket.
control_socket_disable = True
_is_open = _arbiter.stands_open(_settings)


def on_starting(server):
    _arbiter.refuse_to_stand_open(server.address, _is_open)
    _arbiter.on_starting(server)


def when_ready(server):
    _arbiter.when_ready(server, _is_open)


pre_fork = _arbiter.pre_fork
post_fork = _arbiter.post_fork
child_exit = _arbiter.child_exit

accesslog = None
logger_class = _arbiter.AccessLogger
logconfig_dict = {
    **_log_format.logging_configuration(_settings["log_format"], _settings["log_level"]),
    "loggers": {
        "gunicorn.error": {"level": _level, "propagate": True},
        "gunicorn.access": {
            "level": "INFO" if _settings["access_log"] else "WARNING",
            "propagate": True,
        },
    },
}
