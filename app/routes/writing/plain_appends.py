"""Appends of the plain form, many in one round trip, without Flask's work for each.

Most appends have few headers, no query, and a small body. This module decides about them with the
functions of the view `events.append`. If the view would refuse a request before it appends, the
view gets the request.
"""

import logging
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from flask import Flask
from werkzeug.test import create_environ

from ...auth.identity import Identity
from ...metrics.answers import APPEND_COUNTS, count_response
from ...server.kept_alive import KeptConnection
from ...server.request_head import BoundedRequest
from ...server.request_ids import (
    HEADER,
    given_request_id,
    new_request_id,
    set_request_id,
)
from ...server.response import date_now, head_of
from ...streaming.errors import copy_of
from ...streaming.event import check_run_id, parse_traceparent
from ...streaming.new_event import Append, Appended
from ..access.access import bearer_token
from ..admission import Reservation
from ..gateway import Gateway
from ..problems import WAY, respond
from ..schemas import idempotency_key
from .events import append_response, appended_json, parse_events
from .exact_json import parse_document
from .json_body import BodyKind, body_kind_of

MAX_REMEMBERED_HEADS = 4096

log = logging.getLogger("tailrace.http")

_counts = APPEND_COUNTS["plain"]

_HEAD = re.compile(
    rb"POST (/runs/([A-Za-z0-9_.~-]{1,128})/events) HTTP/1\.1\r\n"
    rb"((?:[A-Za-z-]{1,40}: ?[!-~](?:[ -~]*[!-~])?\r\n){1,16})\r\n"
)
# No header but these says anything to an append, or to gunicorn.
_USUAL_NAMES = frozenset(
    {
        *("host", "content-type", "content-length", "user-agent", "accept", "accept-encoding"),
        *("accept-language", "connection", "authorization", "idempotency-key"),
        *("x-forwarded-for", "x-forwarded-proto", "x-real-ip"),
        *("x-request-id", "traceparent", "tracestate"),
    }
)
_LENGTH = re.compile(r"[1-9][0-9]{0,5}")


class PlainHead(NamedTuple):
    """The head of a plain append."""

    path: str
    run_id: str
    length: int
    host: str
    credential: str | None
    idempotency_key: str | None
    request_id: str | None = None
    traceparent: bytes = b""


class PlainAppends:
    """Appends what plain requests bring, and answers them."""

    begins = b"POST /runs/"

    def __init__(self, app: Flask, here: Gateway) -> None:
        self._app = app
        self._here = here
        self._max_event_bytes = here.store.max_event_bytes
        self._remembered = lru_cache(MAX_REMEMBERED_HEADS)(_plain_head)
        self._heads = lru_cache(8)(self._make_head)
        self._own = _around(app)

    @property
    def may_handle(self) -> bool:
        """Whether nobody has put anything around the view, which must then see every request."""
        return "wsgi_app" not in vars(self._app) and _around(self._app) == self._own

    def head_of(self, head: bytes) -> PlainHead | None:
        """Return the head of a plain append, None for any other."""
        # Each of these stands in one request only.
        is_new = b"dempotency-" in head or b"equest-I" in head or b"raceparent" in head
        return (_plain_head if is_new else self._remembered)(head)

    def lane_of(self, head: PlainHead) -> str:
        """Return the node that has the log, so that one that hangs holds up no other."""
        return self._here.store.lane_of(head.run_id)

    def handle(self, requests: Sequence[KeptConnection]) -> None:
        """Append what the requests bring in one round trip, and answer each."""
        admitted = [each for request in requests if (each := self._admit(request)) is not None]
        if not admitted:
            return
        outcomes: Sequence[Appended | Exception]
        try:
            outcomes = self._here.store.append_each([each.append for each in admitted])
        except Exception as error:
            outcomes = [copy_of(error) for _ in admitted]
        for each in admitted:
            each.reservation.release()
        for each, outcome in zip(admitted, outcomes, strict=True):
            try:
                self._answer(each, outcome)
            except Exception:
                log.exception("an append cannot be answered")
                each.request.drop()

    def _admit(self, request: KeptConnection) -> "_Admitted | None":
        """Return the append of a request, or None if it is left to the view."""
        head: PlainHead = request.head
        reservation = Reservation(self._here.admission, self.lane_of(head))
        try:
            identity = self._identify(head)
            reservation.hold(head.length)
            body = parse_document(request.body, self._max_event_bytes)
            is_batch, new_events, lease = parse_events(
                body, self._max_event_bytes, head.traceparent
            )
            reservation.begin_append()
            self._here.access.count_events(identity, len(new_events))
        except Exception:  # the view finds it again, and says what it is
            reservation.release()
            request.give_up()
            return None
        append = Append(head.run_id, new_events, head.idempotency_key, None, lease)
        return _Admitted(request, reservation, is_batch, append)

    def _identify(self, head: PlainHead) -> Identity | None:
        """Return the bearer; raises _LeftToView for what only the view can decide."""
        here = self._here
        if head.length > here.settings.max_body_bytes or not here.hosts.answers(head.host):
            raise _LeftToView
        if not here.access.is_on:
            return None
        identity = here.access.remembered_producer(head.credential, head.run_id)
        if identity is None:
            raise _LeftToView
        return identity

    def _answer(self, admitted: "_Admitted", outcome: Appended | Exception) -> None:
        request, append = admitted.request, admitted.append
        closes = BoundedRequest.closes
        request_id = request.head.request_id or new_request_id()
        if isinstance(outcome, Appended):
            body = appended_json(append.run_id, admitted.is_batch, append.new_events, outcome)
            head = self._heads(outcome.repeated, closes)
            _counts.stored(len(append.new_events), repeated=outcome.repeated)
            count_response(200 if outcome.repeated else 201)
            places = date_now().encode(), len(body), request_id.encode(), body
            request.answer(head % places, closes)
        else:
            response = self._rendered(request.head.path, request_id, respond, outcome)
            count_response(response.status_code)
            request.answer(head_of(response, closes) + response.get_data(), closes)

    def _make_head(self, repeated: bool, closes: bool) -> bytes:
        """Return the response to an append, with places for what each has of its own.

        These are its date, its length, the id of its request, and its body.
        """
        response = self._rendered("/runs/x/events", "", append_response, b"", repeated)
        head = head_of(response, closes).decode("latin-1").replace("%", "%%")
        head = re.sub(r"(?m)^Date: [^\r]*", "Date: %b", head)
        head = head.replace(f"{HEADER}: \r\n", f"{HEADER}: %b\r\n")
        return head.replace("Content-Length: 0\r\n", "Content-Length: %d\r\n").encode() + b"%b"

    def _rendered(self, path: str, request_id: str, make: Any, *args: Any) -> Any:
        """Return the response that the app makes of what `make` returns."""
        environ = create_environ(path, method="POST") | {WAY: "plain"}
        set_request_id(environ, request_id)
        with self._app.request_context(environ):
            return self._app.process_response(make(*args))


def _around(app: Flask) -> list[object]:
    """Return all that stands between an append and its view."""
    hooks = (
        *(app.before_request_funcs, app.after_request_funcs, app.teardown_request_funcs),
        *(app.url_value_preprocessors, app.url_default_functions),
    )
    named = [{name: list(each[name]) for name in each} for each in hooks]
    handlers = [
        (blueprint, code, kind, handler)
        for blueprint, codes in app.error_handler_spec.items()
        for code, kinds in codes.items()
        for kind, handler in kinds.items()
    ]
    once = list(app.teardown_appcontext_funcs)
    return [*named, handlers, once, app.view_functions["events.append"]]


class _Admitted(NamedTuple):
    request: KeptConnection
    reservation: Reservation
    is_batch: bool
    append: Append


class _LeftToView(Exception):
    """The view decides about the request."""


def _plain_head(head: bytes) -> PlainHead | None:
    """Return the head of a plain append, None for any other."""
    match = _HEAD.fullmatch(head)
    if match is None:
        return None
    fields: dict[str, str] = {}
    for line in match[3].decode().splitlines():
        name, _, value = line.partition(":")
        if (name := name.lower()) not in _USUAL_NAMES or name in fields:
            return None
        fields[name] = value.strip()
    if "host" not in fields or not _LENGTH.fullmatch(fields.get("content-length", "")):
        return None
    if fields.get("connection", "keep-alive").lower() != "keep-alive":
        return None
    authorization = fields.get("authorization")
    credential = None if authorization is None else bearer_token(authorization)
    if authorization is not None and credential is None:
        return None
    try:
        run_id = check_run_id(match[2].decode())
        key = idempotency_key(fields.get("idempotency-key"))
        if body_kind_of(fields.get("content-type", "")) is not BodyKind.JSON:
            return None
    except Exception:  # the view finds it again, and says what it is
        return None
    length = int(fields["content-length"])
    return PlainHead(
        match[1].decode(),
        run_id,
        length,
        fields["host"],
        credential,
        key,
        given_request_id(fields.get("x-request-id")),
        parse_traceparent(fields.get("traceparent", "")),
    )
