"""The metrics of all workers, for Prometheus."""

import hmac

from flask import Blueprint, Response, request

from .access.access import NotAuthenticated, bearer_token, declares
from .gateway import gateway

blueprint = Blueprint("metrics", __name__)


@blueprint.get("/metrics")
@declares("open")
def metrics() -> Response:
    """Return the metrics of all workers, dead ones included, whichever worker answers."""
    _check()
    body, media_type = gateway().exposition.text(request.headers.get("Accept", ""))
    return Response(body, content_type=media_type)


def _check() -> None:
    """Raise what is answered to a request that may not read them.

    On METRICS_PORT every request may. On PORT the one that brings METRICS_TOKEN may, and, with
    authentication, a bearer of `admin`.
    """
    here = gateway()
    if _came_to(here.settings.metrics_port):
        return
    token = here.settings.metrics_token
    given = bearer_token(request.headers.get("Authorization", ""))
    if token is not None and given is not None and _is_same(given, token):
        return
    if here.access.is_on:
        here.access.check_admin()
    elif token is not None:
        raise NotAuthenticated("the token is not METRICS_TOKEN" if given is not None else None)


def _came_to(port: int | None) -> bool:
    """Return whether the request came to a port of gunicorn's.

    SERVER_PORT does not say it: on a socket in a file system it is that of the header Host.
    """
    connection = request.environ.get("gunicorn.socket")
    name = connection.getsockname() if connection is not None else None
    return isinstance(name, tuple) and name[1] == port


def _is_same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), token.encode())
