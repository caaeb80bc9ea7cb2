"""Errors as problem details (RFC 9457), one shape for every status."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import orjson
from flask import Flask, Response, request
from marshmallow import ValidationError
from werkzeug.exceptions import HTTPException
from werkzeug.http import HTTP_STATUS_CODES

from ..streaming.errors import (
    EventTooLarge,
    InvalidEvent,
    InvalidInput,
    KeyReused,
    NotALog,
    RunEnded,
    ServerTooOld,
    StoreUnavailable,
    UnexpectedSequence,
)
from .admission import TooBusy
from .schemas import InvalidQuery

RETRY_AFTER_SECONDS = 1

log = logging.getLogger("tailrace.http")


def problem(
    status: int,
    detail: str,
    errors: list[dict[str, str]] | None = None,
    headers: Mapping[str, str] | None = None,
    **members: Any,
) -> Response:
    """A problem document; `errors` names what is wrong field by field, `members` tell more."""
    document: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTP_STATUS_CODES.get(status, "Error"),
        "status": status,
        "detail": detail,
        **members,
    }
    if errors:
        document["errors"] = errors
    response = Response(orjson.dumps(document), status, mimetype="application/problem+json")
    if status in (429, 503):
        response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    response.headers["Cache-Control"] = "no-store"
    response.headers.update(headers or {})
    if request.endpoint == "events.append":
        level = logging.WARNING if status >= 500 else logging.INFO
        fields = {"path": request.path, "status": status, "detail": detail}
        message = "append refused path=%(path)r status=%(status)d: %(detail)r"
        log.log(level, message, fields, extra=fields)
    return response


def init_app(app: Flask) -> None:
    for kind in _PROBLEMS:
        app.register_error_handler(kind, as_problem)


def as_problem(error: Exception, **members: Any) -> Response:
    """The problem document of whatever a request has raised, with further `members`."""
    kind = next(kind for kind in type(error).__mro__ if kind in _PROBLEMS)
    return _PROBLEMS[kind](error, **members)


def _http_error(error: HTTPException, **members: Any) -> Response:
    response = error.get_response()
    if error.code is None or error.code < 400:
        return response
    headers = {name: response.headers[name] for name in ("Allow",) if name in response.headers}
    errors = getattr(error, "errors", None)
    return problem(error.code, error.description or "", errors, headers, **members)


def _schema_error(error: ValidationError, **members: Any) -> Response:
    errors = [
        {"field": field, "detail": " ".join(map(str, messages))}
        for field, messages in error.messages_dict.items()
    ]
    if isinstance(error, InvalidQuery):
        return problem(400, "the query is not of the form it must have", errors, **members)
    return problem(422, "the event is not of the form it must have", errors, **members)


def _invalid_input(error: InvalidInput, **members: Any) -> Response:
    status = {EventTooLarge: 413, InvalidEvent: 422}.get(type(error), 400)
    errors = [{"field": error.field, "detail": error.message}]
    return problem(status, str(error), errors, **members)


def _run_ended(error: RunEnded, **members: Any) -> Response:
    return problem(409, str(error), **{"ended": True, **members})


def _not_a_log(error: NotALog, **members: Any) -> Response:
    return problem(409, str(error), **members)


def _unexpected_sequence(error: UnexpectedSequence, **members: Any) -> Response:
    # The run's, and not that of what one request has stored of it.
    return problem(409, str(error), **{**members, "last_sequence": error.last_sequence})


def _key_reused(error: KeyReused, **members: Any) -> Response:
    return problem(422, str(error), **members)


def _unavailable(error: StoreUnavailable, **members: Any) -> Response:
    log.warning("Redis cannot serve: %s", error)
    told = str(error) if isinstance(error, ServerTooOld) else "Redis cannot serve now"
    if request.endpoint == "events.append":
        stored = "unknown" if error.stored is None else error.stored
        members = {"stored": stored, **members}
    return problem(503, told, **members)


def _too_busy(error: TooBusy, **members: Any) -> Response:
    return problem(429, str(error), **{"stored": False, **members})


def _unexpected(error: Exception, **members: Any) -> Response:
    log.exception("unexpected error path=%r", request.path)
    return problem(500, "an unexpected error, which the log of the gateway tells", **members)


_PROBLEMS: dict[type[Exception], Callable[..., Response]] = {
    HTTPException: _http_error,
    ValidationError: _schema_error,
    InvalidInput: _invalid_input,
    RunEnded: _run_ended,
    NotALog: _not_a_log,
    KeyReused: _key_reused,
    UnexpectedSequence: _unexpected_sequence,
    StoreUnavailable: _unavailable,
    TooBusy: _too_busy,
    Exception: _unexpected,
}
