"""Errors as problem details (RFC 9457), one shape for every status."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from flask import Flask, Response, request
from marshmallow import ValidationError
from werkzeug.exceptions import HTTPException, NotFound
from werkzeug.http import HTTP_STATUS_CODES
from werkzeug.wrappers import Response as BaseResponse

from ..auth.identity import RevocationsNotKnown
from ..metrics.answers import APPEND_COUNTS
from ..metrics.catalog import AUTH_REFUSALS
from ..server.bodies.gunicorn_body import BodyError
from ..server.request_ids import request_id_of
from ..streaming.errors import (
    ArchiveUnavailable,
    EventTooLarge,
    InvalidEvent,
    InvalidInput,
    KeyReused,
    LogFull,
    NotALog,
    NotReplicated,
    ReadOnlyServer,
    RunEnded,
    StoreUnavailable,
    UnexpectedSequence,
    UnsupportedServer,
)
from .admission import TooBusy
from .schemas import InvalidQuery

RETRY_AFTER_SECONDS = 1

# Where the environ of an append says which way it takes, if not that of the ordinary view.
WAY = "tailrace.way"

# A problem names no more errors, and quotes no more of a name or a message.
MAX_ERRORS = 100
MAX_QUOTED_LENGTH = 500

# Of these errors of Redis the client is told the reason. Others may tell it too much.
_TELLING = NotReplicated, ReadOnlyServer, RevocationsNotKnown, UnsupportedServer

log = logging.getLogger("tailrace.http")


class FieldError(HTTPException):
    """A request refused with `status` because of one `field`, which the problem names."""

    def __init__(self, status: int, field: str, detail: str) -> None:
        super().__init__(f"{field}: {detail}")
        self.code = status
        self.field = field
        self.detail = detail


@dataclass(frozen=True)
class Problem:
    """A problem before it is rendered.

    `errors` name what is wrong field by field, as (field, detail). `members` are further
    members of the document.
    """

    status: int
    detail: str
    errors: Sequence[tuple[str, str]] = ()
    members: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


def init_app(app: Flask) -> None:
    for kind in _PROBLEMS:
        app.register_error_handler(kind, respond)


def respond(error: Exception, **members: Any) -> BaseResponse:
    """Return the response to a request that raised `error`, with further `members`."""
    if isinstance(error, HTTPException) and (error.code is None or error.code < 400):
        return error.get_response()  # a redirect
    kind = next(kind for kind in type(error).__mro__ if kind in _PROBLEMS)
    problem = _PROBLEMS[kind](error, members)
    _forget_frames(error)
    return _render(problem)


def _forget_frames(error: BaseException | None) -> None:
    """Free what raised an error: its frames hold the error, and much else, as long as it is."""
    while error is not None:
        error.__traceback__ = None
        error = error.__context__


def _render(problem: Problem) -> Response:
    document: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTP_STATUS_CODES.get(problem.status, "Error"),
        "status": problem.status,
        "detail": _short(problem.detail),
        "request_id": _request_id(),
        **problem.members,
    }
    if problem.errors:
        errors = problem.errors[:MAX_ERRORS]
        document["errors"] = [
            {"field": _short(name), "detail": _short(why)} for name, why in errors
        ]
    response = Response(orjson.dumps(document), problem.status, mimetype="application/problem+json")
    if problem.status in (429, 503):
        response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    response.headers.update(problem.headers)
    if _is_append():
        APPEND_COUNTS[request.environ.get(WAY, "view")].refused(problem.status)
        _log_refusal(problem)
    return response


def _short(text: str) -> str:
    return text if len(text) <= MAX_QUOTED_LENGTH else f"{text[:MAX_QUOTED_LENGTH]}…"


def _request_id() -> str:
    return request_id_of(request.environ)


def _is_append() -> bool:
    return request.endpoint in ("events.append", "requests.add")


def _log_refusal(problem: Problem) -> None:
    level = logging.WARNING if problem.status >= 500 else logging.INFO
    fields = {
        "path": request.path,
        "status": problem.status,
        "request_id": _request_id(),
        "detail": problem.detail,
    }
    message = "append refused path=%(path)r status=%(status)d request_id=%(request_id)s: %(detail)r"
    log.log(level, message, fields, extra=fields)


def _http_error(error: HTTPException, members: dict[str, Any]) -> Problem:
    errors = [(error.field, error.detail)] if isinstance(error, FieldError) else []
    if error.code in (401, 403, 429):
        AUTH_REFUSALS.of(_refusal(error)).add()
    allow = error.get_response().headers.get("Allow")
    headers = {"Allow": allow} if allow else getattr(error, "headers", {})
    detail = error.description or ""
    if detail == NotFound.description:  # werkzeug's is for people who type URLs
        detail = "there is no such path"
    return Problem(error.code or 500, detail, errors, members, headers)


def _refusal(error: HTTPException) -> str:
    if error.code == 401:
        challenge: str = getattr(error, "headers", {}).get("WWW-Authenticate", "")
        return "invalid" if "error=" in challenge else "missing"
    return "forbidden" if error.code == 403 else "too_many"


def _body_error(error: BodyError, members: dict[str, Any]) -> Problem:
    return Problem(400, f"body: {error}", [("body", str(error))], members)


def _schema_error(error: ValidationError, members: dict[str, Any]) -> Problem:
    errors = [
        (name, " ".join(map(str, messages))) for name, messages in error.messages_dict.items()
    ]
    if isinstance(error, InvalidQuery):
        return Problem(400, "the query has wrong parameters", errors, members)
    return Problem(422, "the event has the wrong form", errors, members)


def _invalid_input(error: InvalidInput, members: dict[str, Any]) -> Problem:
    status = {EventTooLarge: 413, InvalidEvent: 422}.get(type(error), 400)
    return Problem(status, str(error), [(error.field, error.message)], members)


def _run_ended(error: RunEnded, members: dict[str, Any]) -> Problem:
    return Problem(409, str(error), members={"ended": True, **members})


def _not_a_log(error: NotALog, members: dict[str, Any]) -> Problem:
    return Problem(409, str(error), members=members)


def _log_full(error: LogFull, members: dict[str, Any]) -> Problem:
    return Problem(409, str(error), members={"full": True, **members})


def _unexpected_sequence(error: UnexpectedSequence, members: dict[str, Any]) -> Problem:
    # The last sequence of the run, not that of what this request has stored.
    return Problem(409, str(error), members={**members, "last_sequence": error.last_sequence})


def _key_reused(error: KeyReused, members: dict[str, Any]) -> Problem:
    return Problem(422, str(error), members=members)


def _unavailable(error: StoreUnavailable, members: dict[str, Any]) -> Problem:
    fields = {"request_id": _request_id(), "detail": str(error)}
    if isinstance(error, ArchiveUnavailable):
        what, detail = "the archive cannot serve", "the archive cannot serve now"
    else:
        may_say = isinstance(error, _TELLING)
        what, detail = "Redis cannot serve", str(error) if may_say else "Redis cannot serve now"
    log.warning(f"{what} request_id=%(request_id)s: %(detail)s", fields, extra=fields)
    if _is_append():
        stored = "unknown" if error.stored is None else error.stored
        members = {"stored": stored, **members}
    return Problem(503, detail, members=members)


def _too_busy(error: TooBusy, members: dict[str, Any]) -> Problem:
    if _is_append():
        members = {"stored": False, **members}
    return Problem(429, str(error), members=members)


def _unexpected(error: Exception, members: dict[str, Any]) -> Problem:
    fields = {"path": request.path, "request_id": _request_id()}
    message = "unexpected error path=%(path)r request_id=%(request_id)s"
    log.error(message, fields, exc_info=error, extra=fields)
    return Problem(500, "an unexpected error; the gateway's log has the details", members=members)


_PROBLEMS: dict[type[Exception], Callable[[Any, dict[str, Any]], Problem]] = {
    HTTPException: _http_error,
    BodyError: _body_error,
    ValidationError: _schema_error,
    InvalidInput: _invalid_input,
    RunEnded: _run_ended,
    NotALog: _not_a_log,
    LogFull: _log_full,
    KeyReused: _key_reused,
    UnexpectedSequence: _unexpected_sequence,
    StoreUnavailable: _unavailable,
    TooBusy: _too_busy,
    Exception: _unexpected,
}
