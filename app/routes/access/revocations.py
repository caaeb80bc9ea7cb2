"""Revoking tokens, for all gateways on one Redis."""

import time

import orjson
from flask import Blueprint, Response, request
from werkzeug.exceptions import NotFound

from ...auth.revocations import parse_revocation
from ..gateway import gateway
from ..problems import FieldError
from .access import declares

MAX_BODY_BYTES = 4096

blueprint = Blueprint("revocations", __name__)


@blueprint.post("/revocations")
@declares("admin")
def revoke() -> Response:
    """Refuse a token, or all older ones of a subject, and end their streams: 204."""
    revocation_log = gateway().access.revocation_log
    if revocation_log is None:
        raise NotFound
    try:
        value = orjson.loads(request.stream.read(MAX_BODY_BYTES))
    except orjson.JSONDecodeError as error:
        raise FieldError(400, "body", f"is not JSON: {error}") from None
    try:
        revocation = parse_revocation(value, time.time())
    except ValueError as error:
        name, _, detail = str(error).partition(": ")
        raise FieldError(422, name, detail) from None
    revocation_log.append(revocation)
    return Response(status=204)
