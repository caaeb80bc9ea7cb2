"""Whether the process is alive, and whether it can serve."""

from typing import Any

import orjson
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
    """Answer 200 if Redis can serve, and the worker is not stopping; else 503 and the reason.

    With 200 it warns of settings of Redis that may lose events.
    """
    if gateway().streams.draining:
        raise ServiceUnavailable("the worker is draining")
    store = gateway().store
    gateway().access.check_ready(store)
    answer: dict[str, Any] = {"status": "ready"}
    if warnings := store.warnings():
        answer["warnings"] = [each._asdict() for each in warnings]
    return Response(orjson.dumps(answer), mimetype="application/json")
