"""Parses the responses of a gateway: what was stored, and the errors of problem details.

Any server may have sent them. A response that does not look like a gateway's raises Refused.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from ..streaming.errors import (
    EventTooLarge,
    Ingested,
    InvalidEvent,
    InvalidInput,
    KeyReused,
    LogFull,
    NotAllowed,
    NotALog,
    Refused,
    RunEnded,
    StoreUnavailable,
    StreamingError,
    UnexpectedSequence,
)
from ..streaming.event_id import EventId
from ..streaming.new_event import Appended

# A shorter token is no secret, and it may be part of any word.
MIN_SECRET_LENGTH = 8

_REQUEST_ID = re.compile(r"[!-~]{1,128}")

_BY_FIELD = {400: InvalidInput, 413: EventTooLarge, 422: InvalidEvent}


@dataclass(frozen=True, slots=True, repr=False)
class Response:
    """A response that was read to its end.

    Args:
        headers: their names in any case.
        body: decoded, or None if it cannot be: its Content-Encoding lies.
        is_framed: whether the response said where its body ends, other than with its connection.
        authorization: the header of the request, whose token no text of an error may show.
    """

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes | None
    is_framed: bool
    authorization: str


class Answer(NamedTuple):
    """The JSON object of a response, with its status and headers."""

    status: int
    headers: Mapping[str, str]
    document: dict[str, Any]

    def value(self, name: str, *kinds: type) -> Any:
        """Return a member of the object. Raises Refused unless it is of one of the kinds."""
        return member(self.status, self.document, name, *kinds)


def member(status: int, document: Any, name: str, *kinds: type) -> Any:
    """Return a member of a JSON object. Raises Refused unless it is of one of the kinds."""
    value = document.get(name) if type(document) is dict else None
    if type(value) not in kinds:
        raise not_a_gateway(status, f"{name!r} is missing or wrong")
    return value


def not_a_gateway(status: int, reason: str) -> Refused:
    """Return the error for a response that no gateway sends."""
    return Refused(status, f"the response is not from a Tailrace gateway: {reason}")


def parse_answer(response: Response) -> Answer:
    """Return the answer of a response. Raises Refused if it is no JSON object.

    Raises StoreUnavailable if the response was cut off.
    """
    document = _read_json(response)
    if type(document) is not dict:
        raise not_a_gateway(response.status, "it has no JSON object")
    return Answer(response.status, response.headers, document)


def parse_appended(answer: Answer, length: int) -> Appended:
    """Return what an append of `length` events stored."""
    status = answer.status
    events = [answer.document]
    if "events" in answer.document:
        events = answer.value("events", list)
    if len(events) != length:
        raise not_a_gateway(status, f"it has {len(events)} events instead of {length}")
    try:
        first_id = EventId.parse(member(status, events[0], "id", str))
    except InvalidInput as error:
        raise not_a_gateway(status, str(error)) from None
    sequence = member(status, events[0], "sequence", int)
    repeated = answer.headers.get("Idempotent-Replayed") == "true"
    return Appended(first_id, sequence, length, repeated)


def parse_ingested(answer: Answer) -> Ingested:
    """Return what was stored of a stream of events."""
    nothing = type(None)
    return Ingested(
        answer.value("stored", int),
        answer.value("last_id", str, nothing),
        answer.value("last_sequence", int, nothing),
    )


def parse_error(response: Response) -> StreamingError:
    """Return the error that a response describes, with what was stored of a stream before it.

    Raises as `parse_answer` does if the response was cut off.
    """
    try:
        answer = parse_answer(response)
    except Refused:  # the response of a proxy
        answer = Answer(response.status, response.headers, {})
    answer = answer._replace(document=_without_token(response, answer.document))
    error = _parse_error(response, answer.document)
    error.request_id = _request_id(response)
    if "line" in answer.document:
        error.ingested = parse_ingested(answer)
    return error


def _read_json(response: Response) -> Any:
    """Return the JSON of a response, None if it has none.

    Raises StoreUnavailable for JSON that breaks off where only the connection ends it.
    """
    if response.body is None:
        return None
    try:
        return orjson.loads(response.body)
    except orjson.JSONDecodeError:
        if response.is_framed or "json" not in response.headers.get("Content-Type", ""):
            return None
        raise StoreUnavailable("the response of the gateway was cut off", None) from None


def _parse_error(response: Response, problem: Mapping[str, Any]) -> StreamingError:
    status = response.status
    reason = _without_token(response, response.reason)
    detail = str(problem.get("detail") or reason or "no reason given")
    fields = _fields(problem)
    if status in (408, 429) or status >= 500:
        stored = False if status < 500 or _says_what_was_stored(problem) else None
        return StoreUnavailable(f"{status}: {detail}", stored, _retry_after(response))
    if status in (401, 403):
        return NotAllowed(status, detail)
    if status in _BY_FIELD and fields:
        return _BY_FIELD[status](fields[0]["field"], fields[0]["detail"])
    if status == 413:
        return EventTooLarge("body", detail)
    if status == 422 and problem:
        return KeyReused(detail)
    if status == 409 and problem:
        return _conflict(detail, problem)
    return Refused(status, detail, fields)


def _without_token(response: Response, value: Any) -> Any:
    """Return a JSON value in whose texts the token of the request, if it came back, is "…"."""
    token = response.authorization.removeprefix("Bearer ")
    if len(token) < MIN_SECRET_LENGTH:
        return value
    if isinstance(value, str):
        return value.replace(token, "…")
    if isinstance(value, list):
        return [_without_token(response, each) for each in value]
    if isinstance(value, dict):
        return {name: _without_token(response, each) for name, each in value.items()}
    return value


def _conflict(detail: str, problem: Mapping[str, Any]) -> StreamingError:
    if problem.get("ended"):
        return RunEnded(detail)
    if type(problem.get("last_sequence")) is int:
        return UnexpectedSequence(problem["last_sequence"])
    return LogFull(detail) if problem.get("full") else NotALog(detail)


def _says_what_was_stored(problem: Mapping[str, Any]) -> bool:
    return problem.get("stored", "unknown") != "unknown" and "unknown" not in problem


def _request_id(response: Response) -> str | None:
    request_id = _without_token(response, response.headers.get("X-Request-Id", ""))
    return request_id if _REQUEST_ID.fullmatch(request_id) else None


def _fields(problem: Mapping[str, Any]) -> list[dict[str, str]]:
    errors = problem.get("errors")
    if not isinstance(errors, list):
        return []
    return [
        each
        for each in errors
        if isinstance(each, dict)
        and isinstance(each.get("field"), str)
        and isinstance(each.get("detail"), str)
    ]


def _retry_after(response: Response) -> float:
    """Return the seconds of Retry-After. Gateways send no dates, which count as 0."""
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdigit() and len(value) < 6 else 0.0
