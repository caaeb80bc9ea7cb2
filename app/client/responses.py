"""What a gateway's answers mean to a client: events, and the errors that problems tell of."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson
import requests
import urllib3

from ..streaming.errors import (
    EventTooLarge,
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

# What is raised when a connection cannot be made, breaks or stays silent.
BROKEN = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    urllib3.exceptions.HTTPError,
)

_BY_FIELD = {400: InvalidInput, 413: EventTooLarge, 422: InvalidEvent}


class Ingested(NamedTuple):
    """What of a stream of events was stored: how many, and where the last of them stands."""

    stored: int
    last_id: str | None
    last_sequence: int | None

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "Ingested":
        return cls(document["stored"], document["last_id"], document["last_sequence"])


def parse_document(response: requests.Response) -> dict[str, Any]:
    """The JSON object of an answer; raises Refused where it is none of a gateway's."""
    try:
        document = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict):
        raise Refused(response.status_code, "the answer is not a gateway's: no JSON object")
    return document


def parse_appended(response: requests.Response) -> Appended:
    """Where the events of an append stand; raises Refused for what is no gateway's answer."""
    document = parse_document(response)
    try:
        events = document.get("events", [document])
        first = EventId.parse(events[0]["id"])
        sequence, count = events[0]["sequence"], len(events)
    except (LookupError, TypeError, InvalidInput):
        raise Refused(response.status_code, "the answer is not a gateway's") from None
    return Appended(first, sequence, count, response.headers.get("Idempotent-Replayed") == "true")


def parse_event(document: Mapping[str, Any]) -> Event:
    """An event out of its JSON; a control event's id and sequence are None."""
    return Event(
        id=document["id"],
        run_id=document["run_id"],
        sequence=document["sequence"],
        timestamp=document["timestamp"],
        category=document["event"]["category"],
        action=document["event"]["action"],
        data_json=_encoded(document["data"]),
        source_json=_encoded(document["source"]),
    )


def parse_error(response: requests.Response) -> StreamingError:
    """The error that an answer tells of, with what of a stream was stored before it."""
    try:
        problem = parse_document(response)
    except Refused:  # a proxy's
        problem = {}
    error = _parse_error(response, problem)
    if "line" in problem:
        error.ingested = Ingested.of(problem)
    return error


def connection_error(error: Exception) -> StoreUnavailable:
    """The error that a broken connection is to a caller."""
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    never_sent = isinstance(reason, urllib3.exceptions.ConnectTimeoutError)
    return StoreUnavailable(f"no answer of the gateway: {error}", False if never_sent else None)


def _parse_error(response: requests.Response, problem: Mapping[str, Any]) -> StreamingError:
    status = response.status_code
    detail = problem.get("detail") or response.reason or "no reason given"
    fields = _fields(problem)
    if status in (408, 429) or status >= 500:
        stored = False if status < 500 or _tells_what_was_stored(problem) else None
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


def _tells_what_was_stored(problem: Mapping[str, Any]) -> bool:
    return problem.get("stored", "unknown") != "unknown" and "unknown" not in problem


def _fields(problem: Mapping[str, Any]) -> list[dict[str, str]]:
    errors = problem.get("errors")
    if not isinstance(errors, list):
        return []
    return [
        each for each in errors if isinstance(each, dict) and each.keys() >= {"field", "detail"}
    ]


def _retry_after(response: requests.Response) -> float:
    """The seconds that an answer asks for; a date, which gateways do not send, is none."""
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdigit() and len(value) < 6 else 0.0


def _encoded(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # deeper than it writes, as what others XADD may be
        return json.dumps(value).encode()
