"""Whether the process is alive, and whether it can serve."""

from typing import Any

import orjson
from flask import Blueprint, Response
from werkzeug.exceptions import ServiceUnavailable
from werkzeug.wrappers import Response as BaseResponse

from ..metrics.shared_rows import silence_seconds
from ..streaming.errors import StoreUnavailable
from ..streaming.event_store import EventStore
from ..streaming.readiness.cluster_readiness import ShardState
from .access.access import declares
from .gateway import gateway
from .problems import respond

# gunicorn kills a worker that is silent for as long. So /livez answers 503 for more than a moment
# only if gunicorn cannot do that.
MAX_SILENCE_SECONDS = 30.0

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
@declares("open")
def healthz() -> Response:
    """Answer 200 while the process is alive; check nothing else."""
    return Response(b'{"status":"ok"}', mimetype="application/json")


@blueprint.get("/livez")
@declares("open")
def livez() -> Response:
    """Answer 200 unless the loop of some worker has stood still for 30 seconds."""
    silence = silence_seconds()
    if silence > MAX_SILENCE_SECONDS:
        raise ServiceUnavailable(f"a worker has stood still for {silence:.0f} s")
    return Response(b'{"status":"ok"}', mimetype="application/json")


@blueprint.get("/readyz")
@declares("open")
def readyz() -> BaseResponse:
    """Answer 200 if Redis can serve, and the worker is not stopping; else 503 and the reason.

    With 200 it warns of settings of Redis that may lose events. On a cluster one node that can
    serve is enough: a dead one is told, and hurts only the runs that it has.
    """
    if gateway().streams.draining:
        raise ServiceUnavailable("the worker is draining")
    store = gateway().store
    try:
        gateway().access.check_ready(store)
    except StoreUnavailable as error:
        return respond(error, **_shards(store))
    answer: dict[str, Any] = {"status": "ready", **_shards(store)}
    if warnings := store.warnings():
        answer["warnings"] = [each._asdict() for each in warnings]
    return Response(orjson.dumps(answer), mimetype="application/json")


def _shards(store: EventStore) -> dict[str, Any]:
    """Return the shards of a cluster as they were at the last check; nothing else."""
    states = store.shards()
    return {"shards": [_shard(each) for each in states]} if states else {}


def _shard(state: ShardState) -> dict[str, str]:
    named = {"node": state.node, "slots": state.slots}
    if state.detail is None:
        return {**named, "status": "ready"}
    return {**named, "status": "unavailable", "detail": state.detail}
