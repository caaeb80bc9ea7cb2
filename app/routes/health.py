"""Whether the process lives, and whether it can serve."""

from flask import Blueprint, Response

from .gateway import gateway
from .problems import problem

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
def healthz() -> Response:
    """The process answers; nothing else is asked."""
    return Response(b'{"status":"ok"}', mimetype="application/json")


@blueprint.get("/readyz")
def readyz() -> Response:
    """Redis answers, and the worker is not about to stop."""
    if gateway().streams.draining:
        return problem(503, "the worker is draining")
    gateway().store.ping()
    return Response(b'{"status":"ready"}', mimetype="application/json")
