"""Revoking tokens, for all gateways on one Redis."""

import time

from flask import Blueprint, Response
from werkzeug.exceptions import NotFound

from ...auth.revocations import parse_revocation
from ..admission import Reservation
from ..gateway import gateway
from ..problems import FieldError
from ..writing.json_body import read_json
from .access import declares

MAX_BODY_BYTES = 4096

blueprint = Blueprint("revocations", __name__)


@blueprint.post("/revocations")
@declares("admin")
def revoke() -> Response:
    """Refuse a token, or all older ones of a subject, and end their streams: 204."""
    access = gateway().access
    if not access.is_on:
        raise NotFound
    with Reservation(gateway().admission) as reservation:
        value = read_json(reservation, MAX_BODY_BYTES, MAX_BODY_BYTES)
    access.check_still()
    try:
        revocation = parse_revocation(value, time.time())
    except ValueError as error:
        name, _, detail = str(error).partition(": ")
        raise FieldError(422, name, detail) from None
    access.revoke(revocation)
    return Response(status=204)
