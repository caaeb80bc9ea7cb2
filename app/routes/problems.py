"""Errors as problem details (RFC 9457), one shape for every status."""

import logging
from collections.abc import Mapping
from typing import Any

import orjson
from flask import Flask, Response, request
from marshmallow import ValidationError
from werkzeug.exceptions import HTTPException
from werkzeug.http import HTTP_STATUS_CODES

from app.routes.schemas import InvalidQuery
from app.streaming.errors import (
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
    if status == 503:
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
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(ValidationError, _schema_error)
    app.register_error_handler(InvalidInput, _invalid_input)
    app.register_error_handler(RunEnded, lambda error: problem(409, str(error)))
    app.register_error_handler(KeyReused, lambda error: problem(422, str(error)))
    app.register_error_handler(UnexpectedSequence, _unexpected_sequence)
    app.register_error_handler(NotALog, lambda error: problem(409, str(error)))
    app.register_error_handler(StoreUnavailable, _unavailable)
    app.register_error_handler(Exception, _unexpected)


def _http_error(error: HTTPException) -> Response:
    response = error.get_response()
    if error.code is None or error.code < 400:
        return response
    headers = {name: response.headers[name] for name in ("Allow",) if name in response.headers}
    return problem(error.code, error.description or "", getattr(error, "errors", None), headers)


def _schema_error(error: ValidationError) -> Response:
    errors = [
        {"field": field, "detail": " ".join(map(str, messages))}
        for field, messages in error.messages_dict.items()
    ]
    if isinstance(error, InvalidQuery):
        return problem(400, "the query is not of the form it must have", errors)
    return problem(422, "the event is not of the form it must have", errors)


def _invalid_input(error: InvalidInput) -> Response:
    status = {EventTooLarge: 413, InvalidEvent: 422}.get(type(error), 400)
    return problem(status, str(error), [{"field": error.field, "detail": error.message}])


def _unavailable(error: StoreUnavailable) -> Response:
    log.warning("Redis cannot serve: %s", error)
    told = str(error) if isinstance(error, ServerTooOld) else "Redis cannot serve now"
    if request.endpoint != "events.append":
        return problem(503, told)
    return problem(503, told, stored="unknown" if error.stored is None else error.stored)


def _unexpected_sequence(error: UnexpectedSequence) -> Response:
    return problem(409, str(error), last_sequence=error.last_sequence)


def _unexpected(error: Exception) -> Response:
    log.exception("unexpected error path=%r", request.path)
    return problem(500, "an unexpected error, which the log of the gateway tells")
