"""Parses the responses of a gateway: events, and the errors that problem details describe."""

import json
from collections.abc import Mapping
from typing import Any

import orjson
import requests
import urllib3

from ..streaming.errors import (
    EventTooLarge,
    Ingested,
    InvalidEvent,
    InvalidInput,
    KeyReused,
    NotALog,
    Refused,
    RunEnded,
    StoreUnavailable,
    StreamingError,
    UnexpectedSequence,
)
from ..streaming.event import Event
from ..streaming.event_id import EventId
from ..streaming.new_event import Appended
from .connections import is_framed

# `requests` raises these if a connection cannot be made, breaks, or stays silent.
CONNECTION_ERRORS = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    urllib3.exceptions.HTTPError,
)

_BY_FIELD = {400: InvalidInput, 413: EventTooLarge, 422: InvalidEvent}
_NOT_A_GATEWAY = "the response is not from a Tailrace gateway"


def check_whole(response: requests.Response) -> None:
    """Raise StoreUnavailable for JSON that breaks off where only the connection ends it."""
    if is_framed(response) or "json" not in response.headers.get("Content-Type", ""):
        return
    try:
        orjson.loads(response.content)
    except orjson.JSONDecodeError:
        raise StoreUnavailable("the response of the gateway was cut off", None) from None


def parse_document(response: requests.Response) -> dict[str, Any]:
    """Return the JSON object of a response. Raises Refused if there is none."""
    try:
        document = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict):
        raise Refused(response.status_code, f"{_NOT_A_GATEWAY}: it has no JSON object")
    return document


def parse_appended(response: requests.Response) -> Appended:
    """Return what an append stored. Raises Refused if the response does not say that."""
    document = parse_document(response)
    try:
        events = document.get("events", [document])
        first_id = EventId.parse(events[0]["id"])
        sequence, length = events[0]["sequence"], len(events)
    except (LookupError, TypeError, InvalidInput):
        raise Refused(response.status_code, f"{_NOT_A_GATEWAY}: it has no events") from None
    repeated = response.headers.get("Idempotent-Replayed") == "true"
    return Appended(first_id, sequence, length, repeated)


def parse_ingested(document: Mapping[str, Any]) -> Ingested:
    """Return what was stored of a stream of events."""
    return Ingested(document["stored"], document["last_id"], document["last_sequence"])


def parse_event(document: Mapping[str, Any]) -> Event:
    """Return the event of a JSON document. The id and sequence of a control event are None."""
    return Event(
        id=document["id"],
        run_id=document["run_id"],
        sequence=document["sequence"],
        timestamp=document["timestamp"],
        category=document["event"]["category"],
        action=document["event"]["action"],
        data_json=_encode_json(document["data"]),
        source_json=_encode_json(document["source"]),
    )


def parse_error(response: requests.Response) -> StreamingError:
    """Return the error that a response describes, with what was stored of a stream before it."""
    try:
        problem = parse_document(response)
    except Refused:  # the response of a proxy
        problem = {}
    error = _parse_error(response, problem)
    if "line" in problem:
        error.ingested = parse_ingested(problem)
    return error


def connection_error(error: Exception) -> StoreUnavailable:
    """Return the error to raise for one of CONNECTION_ERRORS."""
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    never_sent = isinstance(reason, urllib3.exceptions.ConnectTimeoutError)
    return StoreUnavailable(
        f"no response from the gateway: {error}", stored=False if never_sent else None
    )


def _parse_error(response: requests.Response, problem: Mapping[str, Any]) -> StreamingError:
    status = response.status_code
    detail = problem.get("detail") or response.reason or "no reason given"
    fields = _fields(problem)
    if status in (408, 429) or status >= 500:
        stored = False if status < 500 or _says_what_was_stored(problem) else None
        return StoreUnavailable(f"{status}: {detail}", stored, _retry_after(response))
    if status in _BY_FIELD and fields:
        return _BY_FIELD[status](fields[0]["field"], fields[0]["detail"])
    if status == 413:
        return EventTooLarge("body", detail)
    if status == 422 and problem:
        return KeyReused(detail)
    if status == 409 and problem:
        return _conflict(detail, problem)
    return Refused(status, detail, fields)


def _conflict(detail: str, problem: Mapping[str, Any]) -> StreamingError:
    if problem.get("ended"):
        return RunEnded(detail)
    if isinstance(problem.get("last_sequence"), int):
        return UnexpectedSequence(problem["last_sequence"])
    return NotALog(detail)


def _says_what_was_stored(problem: Mapping[str, Any]) -> bool:
    return problem.get("stored", "unknown") != "unknown" and "unknown" not in problem


def _fields(problem: Mapping[str, Any]) -> list[dict[str, str]]:
    errors = problem.get("errors")
    if not isinstance(errors, list):
        return []
    return [
        each for each in errors if isinstance(each, dict) and each.keys() >= {"field", "detail"}
    ]


def _retry_after(response: requests.Response) -> float:
    """Return the seconds of Retry-After. Gateways send no dates, which count as 0."""
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdigit() and len(value) < 6 else 0.0


def _encode_json(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # deeper than orjson writes: another program can XADD such data
        return json.dumps(value).encode()
