"""The cookie of a browser: a token that its page cannot read, and that every request brings."""

import math
import time

import orjson
from flask import Blueprint, Response, request
from werkzeug.exceptions import NotFound

from ...server.addresses import is_loopback
from ..gateway import gateway
from .access import LOOPBACK_COOKIE, SECURE_COOKIE, NotAuthenticated, NotPermitted, declares
from .hosts import host_of

blueprint = Blueprint("session", __name__)


@blueprint.post("/session")
@declares("open")
def begin() -> Response:
    """Set the cookie from the bearer token of the request, and answer when it expires."""
    access = gateway().access
    if not access.is_on:
        raise NotFound
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        raise NotAuthenticated
    identity = access.identify()
    if identity is None or identity.expires_at is None:
        raise NotPermitted("an API key makes no session; use a token")
    left = max(0.0, identity.expires_at - time.time())
    response = Response(orjson.dumps({"expires_in": int(left)}), mimetype="application/json")
    _set_cookie(response, token.strip(), math.ceil(left))
    return response


@blueprint.delete("/session")
@declares("open")
def end() -> Response:
    """Clear the cookie."""
    access = gateway().access
    if not access.is_on:
        raise NotFound
    access.check_origin()
    response = Response(status=204)
    _set_cookie(response, "", 0)
    return response


def _set_cookie(response: Response, token: str, max_age: int) -> None:
    # Browsers keep a cookie that is Secure from HTTP on no host that they can reach elsewhere.
    is_local = request.scheme == "http" and is_loopback(host_of(request.host))
    response.set_cookie(
        LOOPBACK_COOKIE if is_local else SECURE_COOKIE,
        token,
        max_age=max_age,
        path="/",
        secure=not is_local,
        httponly=True,
        samesite="Strict",
    )
