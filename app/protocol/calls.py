"""The requests of a client, as values, and what their answers mean."""

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Unpack

import orjson

from ..streaming.errors import Ingested, InvalidInput, Refused, StreamingError, UnexpectedSequence
from ..streaming.event import REQUEST_CATEGORY, Event, check_run_id
from ..streaming.event_id import EventId
from ..streaming.new_event import (
    Append,
    AppendOptions,
    NewEvent,
    check_append,
    check_idempotency_key,
    new_events_from,
)
from .received_event import parse_event
from .request_body import encode_event, encode_request
from .responses import Answer, not_a_gateway, parse_ingested
from .run_state import RunState, parse_run_state

MAX_PAGE_EVENTS = 1000
MAX_PAGE_RUNS = 100


class Request(NamedTuple):
    """A request to a gateway. A query value that is None is left out; a list is repeated."""

    method: str
    path: str
    query: Mapping[str, Any] = {}
    headers: Mapping[str, str] = {}
    body: bytes | None = None


# Writing


def with_key(options: AppendOptions) -> AppendOptions:
    """Return the options of an append with an idempotency key, so that it may be repeated."""
    if options.get("idempotency_key") is None:
        options["idempotency_key"] = uuid.uuid4().hex
    return options


def add_lease(
    events: Iterable[Mapping[str, Any]], max_event_bytes: int, options: AppendOptions
) -> list[NewEvent]:
    """Return the new events that mappings describe; add the last lease among them to `options`."""
    new_events, lease_seconds = new_events_from(events, max_event_bytes)
    if lease_seconds is not None:
        options["lease_seconds"] = lease_seconds
    return new_events


def append_request(
    run_id: int | str, new_events: list[NewEvent], **options: Unpack[AppendOptions]
) -> Request:
    """Return the request that appends 1 to 1,000 events. Raises InvalidInput."""
    append = Append(check_run_id(run_id), new_events, **options)
    check_append(len(new_events), *append[2:])
    traced = {each.traceparent for each in new_events}
    # The gateway gives the lease to all events of the request.
    events = [encode_event(new_event, append.lease_seconds) for new_event in new_events]
    return Request(
        "POST",
        events_path(run_id),
        {"expected_sequence": append.expected_sequence},
        {
            "Content-Type": "application/json",
            "Idempotency-Key": f'"{append.idempotency_key}"',
            **(_traced(*traced) if len(traced) == 1 else {}),
        },
        orjson.dumps(events[0] if len(events) == 1 else events),
    )


def _traced(traceparent: bytes) -> dict[str, str]:
    """Return the header that names the trace of a request, if there is one."""
    return {"traceparent": traceparent.decode()} if traceparent else {}


def stream_request(run_id: int | str, expected_sequence: int | None) -> Request:
    """Return the request whose body is a stream of events, without that body."""
    return Request(
        "POST",
        events_path(run_id),
        {"expected_sequence": expected_sequence},
        {"Content-Type": "application/x-ndjson"},
    )


def note_part_of_stream(error: UnexpectedSequence, expected_sequence: int | None) -> None:
    """Replace the last sequence of the run by that of the last event stored of the stream."""
    if error.ingested is not None:
        last = None
        if expected_sequence is not None and error.ingested.stored:
            last = expected_sequence + error.ingested.stored - 1
        error.ingested = error.ingested._replace(last_sequence=last)


def end_of_stream(answer: Answer, failure: Exception | None) -> Ingested:
    """Return what was stored of a stream. Raises the failure that ended its events, if any."""
    ingested = parse_ingested(answer)
    if isinstance(failure, StreamingError):
        failure.ingested = ingested
    if failure is not None:
        raise failure
    return ingested


def producer_request(
    run_id: int | str, new_event: NewEvent, idempotency_key: str | None
) -> Request:
    """Return the request that asks something of a run's producer. Raises InvalidInput."""
    key = uuid.uuid4().hex if idempotency_key is None else idempotency_key
    check_idempotency_key("idempotency_key", key)
    return Request(
        "POST",
        f"/runs/{check_run_id(run_id)}/requests",
        headers={
            "Content-Type": "application/json",
            "Idempotency-Key": f'"{key}"',
            **_traced(new_event.traceparent),
        },
        body=orjson.dumps(encode_request(new_event)),
    )


# Reading


def state_request(run_id: int | str) -> Request:
    """Return the request for the state of a run. Raises InvalidInput."""
    return Request("GET", f"/runs/{check_run_id(run_id)}")


def is_no_log(error: Refused) -> bool:
    """Return whether the state was refused because the run has no log."""
    return error.status == 404


class Pages:
    """The pages of a run's history: what to ask for next, and the events so far.

    Raises InvalidInput for a wrong argument.
    """

    def __init__(self, run_id: int | str, limit: int | None, descending: bool = False):
        if limit is not None and limit < 0:
            raise InvalidInput("limit", "must not be negative")
        self.events: list[Event] = []
        self._path = events_path(run_id)
        self._cursor = "before" if descending else "after"
        self._limit = limit
        self._query: dict[str, Any] = {"order": "desc" if descending else "asc"}
        self._is_last = False

    @classmethod
    def of(
        cls,
        run_id: int | str,
        limit: int | None,
        descending: bool,
        from_sequence: int | None,
        categories: Sequence[str],
        actions: Sequence[str],
    ) -> "Pages":
        """Return the pages of the events that pass a filter."""
        pages = cls(run_id, limit, descending)
        pages._query |= {"category": list(categories), "action": list(actions)}
        if from_sequence is not None:
            pages._query["from_sequence"] = from_sequence
        return pages

    @classmethod
    def after(cls, run_id: int | str, last_id: str, limit: int | None) -> "Pages":
        """Return the pages of the events after an id."""
        pages = cls(run_id, limit)
        pages._query["after"] = str(EventId.parse(last_id, "last_id"))
        return pages

    def next_request(self) -> Request | None:
        """Return the request for the next page, None if there is none."""
        left = MAX_PAGE_EVENTS if self._limit is None else self._limit - len(self.events)
        if self._is_last or left <= 0:
            return None
        query = {**self._query, "limit": min(left, MAX_PAGE_EVENTS)}
        return Request("GET", self._path, query)

    def take(self, answer: Answer) -> None:
        """Add the events of a page. Raises Refused if it is not from a gateway."""
        status = answer.status
        self.events += [parse_event(status, each) for each in answer.value("events", list)]
        following = answer.value("next", str, type(None))
        self._is_last = following is None
        if not self._is_last and following == self._query.get(self._cursor):
            raise not_a_gateway(status, f"{following!r} follows itself")
        self._query[self._cursor] = following
        if self._cursor == "after":  # all that follows has higher sequences
            self._query.pop("from_sequence", None)


class RunPages:
    """The pages of the list of runs: what to ask for next, and what a page has."""

    def __init__(self, state: str | None, prefix: str | None, limit: int | None):
        """Raises InvalidInput for a wrong limit."""
        if limit is not None and limit < 0:
            raise InvalidInput("limit", "must not be negative")
        self._query: dict[str, Any] = {"state": state, "prefix": prefix}
        self._left = limit
        self._is_last = False

    def next_request(self) -> Request | None:
        """Return the request for the next page, None if there is none."""
        left = MAX_PAGE_RUNS if self._left is None else self._left
        if self._is_last or left <= 0:
            return None
        return Request("GET", "/runs", {**self._query, "limit": min(left, MAX_PAGE_RUNS)})

    def take(self, answer: Answer) -> Iterator[RunState]:
        """Return the runs of a page. Raises Refused if it is not from a gateway."""
        runs = [parse_run_state(answer.status, run) for run in answer.value("runs", list)]
        following = answer.value("next", str, type(None))
        self._is_last = following is None
        if not self._is_last and following == self._query.get("after"):
            raise not_a_gateway(answer.status, f"{following!r} follows itself")
        self._query["after"] = following
        if self._left is not None:
            runs = runs[: self._left]
            self._left -= len(runs)
        return iter(runs)


def is_request(event: Event) -> bool:
    """Return whether an event is a request to the producer, and not about the stream."""
    return event.category == REQUEST_CATEGORY


def events_path(run_id: int | str) -> str:
    """Return the path of a run's events. Raises InvalidInput."""
    return f"/runs/{check_run_id(run_id)}/events"
