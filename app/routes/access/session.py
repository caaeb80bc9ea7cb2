"""The cookie of a browser: a token that its page cannot read, and that every request brings."""

import math
import time

import orjson
from flask import Blueprint, Response, request
from werkzeug.exceptions import NotFound

from ...server.addresses import is_loopback
from ..gateway import gateway
from ..problems import FieldError
from .access import (
    LOOPBACK_COOKIE,
    SECURE_COOKIE,
    NotAuthenticated,
    NotPermitted,
    declares,
    is_direct,
)
from .hosts import host_of

# Browsers keep none for longer (RFC 6265bis, section 5.5).
MAX_COOKIE_SECONDS = 400 * 24 * 3600

# Browsers drop a cookie whose name and value have more than 4,096 bytes together (RFC 6265bis,
# section 5.6).
MAX_TOKEN_CHARACTERS = 4096 - len(SECURE_COOKIE)

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
    if len(token.strip()) > MAX_TOKEN_CHARACTERS:
        raise FieldError(422, "token", "is too large for a cookie, which has 4,096 bytes")
    identity = access.identify()
    if identity is None or identity.expires_at is None:
        raise NotPermitted("an API key makes no session; use a token")
    left = max(0.0, identity.expires_at - time.time())
    response = Response(orjson.dumps({"expires_in": int(left)}), mimetype="application/json")
    _set_cookie(response, token.strip(), min(MAX_COOKIE_SECONDS, math.ceil(left)))
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
    # A browser on plain HTTP drops a cookie that is Secure, but only loopback may have another. The
    # header Host may be that of a proxy on this machine; Origin is that of the page.
    origin = request.headers.get("Origin", "http://localhost").lower()
    is_local = (
        is_direct()
        and origin.startswith("http://")
        and is_loopback(host_of(origin.removeprefix("http://")))
    )
    response.set_cookie(
        LOOPBACK_COOKIE if is_local else SECURE_COOKIE,
        token,
        max_age=max_age,
        path="/",
        secure=not is_local,
        httponly=True,
        samesite="Strict",
    )
