"""Whether the process is alive, and whether it can serve."""

from flask import Blueprint, Response
from werkzeug.exceptions import ServiceUnavailable

from .access.access import declares
from .gateway import gateway

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
@declares("open")
def healthz() -> Response:
    """Answer 200 while the process is alive; check nothing else."""
    return Response(b'{"status":"ok"}', mimetype="application/json")


@blueprint.get("/readyz")
@declares("open")
def readyz() -> Response:
    """Answer 200 if Redis can serve, and the worker is not stopping; else 503 and the reason."""
    if gateway().streams.draining:
        raise ServiceUnavailable("the worker is draining")
    gateway().access.check_ready(gateway().store)
    return Response(b'{"status":"ready"}', mimetype="application/json")
