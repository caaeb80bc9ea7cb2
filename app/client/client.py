"""The client over HTTP, for a process that has no access to Redis."""

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Self

import orjson
import requests

from ..streaming.appender import Appender
from ..streaming.errors import (
    InvalidInput,
    Refused,
    StoreUnavailable,
    StreamingError,
    UnexpectedSequence,
)
from ..streaming.event import Event, check_run_id
from ..streaming.event_id import EventId
from ..streaming.new_event import (
    MAX_EVENT_BYTES,
    Appended,
    NewEvent,
    check_append,
    new_events_from,
)
from .bodies import Lines, encode_event
from .follower import Follower
from .responses import Ingested, parse_appended, parse_document, parse_event
from .transport import Transport

__all__ = ["Client", "Ingested"]

MAX_PAGE = 1000


class Client:
    """Appends to runs, follows them and reads them, through the gateway at `url`.

    One client serves any number of threads, greenlets and signal handlers, and a forked process
    goes on with it. A request that gets no answer, or one that asks to come again (408, 429,
    5xx), is repeated until `retry_seconds` have gone by, and is StoreUnavailable then; with 0
    there is one attempt. All errors are of `app.streaming.errors`: those of the event store,
    and Refused for what has no type of its own there. `max_event_bytes` is the largest event
    that is sent, as the JSON of its data and source: MAX_EVENT_BYTES of the gateway's settings.
    """

    def __init__(
        self, url: str, *, retry_seconds: float = 30.0, max_event_bytes: int = MAX_EVENT_BYTES
    ):
        self._max_event_bytes = max_event_bytes
        self._transport = Transport(url, retry_seconds)
        # A signal handler may wait for appenders, while the request that it has interrupted
        # holds the connections of the others and cannot go on.
        self._appenders_transport = Transport(url, retry_seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that are not in use."""
        self._transport.close()
        self._appenders_transport.close()

    # Writing

    def add(
        self,
        run_id: int | str,
        event_category: str,
        event_action: str,
        data: Any = None,
        source: Any = None,
        *,
        idempotency_key: str | None = None,
        expected_sequence: int | None = None,
        lease_seconds: int | None = None,
    ) -> str:
        """Append an event and give its id, with the arguments and errors of the event store.

        It is never appended twice: it has a key of its own, where none is given.
        """
        new_event = NewEvent.of(
            event_category, event_action, data, source, max_bytes=self._max_event_bytes
        )
        return self.append_new(
            run_id,
            [new_event],
            idempotency_key=idempotency_key,
            expected_sequence=expected_sequence,
            lease_seconds=lease_seconds,
        ).last_id

    def add_many(
        self,
        run_id: int | str,
        events: Iterable[Mapping[str, Any]],
        *,
        idempotency_key: str | None = None,
        expected_sequence: int | None = None,
        lease_seconds: int | None = None,
    ) -> list[str]:
        """Append 1 to 1,000 events, all or none, and give their ids.

        Each is a mapping with `event_category`, `event_action`, and perhaps `data`, `source`
        and `lease_seconds`. An InvalidInput names a field of one as `<index>.<field>`.
        """
        new_events, lease = new_events_from(events, self._max_event_bytes)
        return self.append_new(
            run_id,
            new_events,
            idempotency_key=idempotency_key,
            expected_sequence=expected_sequence,
            lease_seconds=lease or lease_seconds,
        ).ids()

    def append_new(
        self,
        run_id: int | str,
        new_events: Sequence[NewEvent],
        *,
        idempotency_key: str | None = None,
        expected_sequence: int | None = None,
        lease_seconds: int | None = None,
    ) -> Appended:
        """Append 1 to 1,000 new_events as `add_many` does events."""
        return self._append(
            self._transport.request,
            run_id,
            new_events,
            idempotency_key=uuid.uuid4().hex if idempotency_key is None else idempotency_key,
            expected_sequence=expected_sequence,
            lease_seconds=lease_seconds,
        )

    def appender(self, run_id: int | str, *, expected_sequence: int | None = None) -> Appender:
        """What appends a run's events in the background, as a context; see `Appender`.

        The first event is appended only as the `expected_sequence`, the others after it.
        """
        return Appender(
            partial(self._append, self._appenders_transport.send_once, check_run_id(run_id)),
            max_event_bytes=self._max_event_bytes,
            expected_sequence=expected_sequence,
            retry_seconds=self._appenders_transport.retry_seconds,
        )

    def stream(
        self,
        run_id: int | str,
        events: Iterable[Mapping[str, Any]],
        *,
        expected_sequence: int | None = None,
    ) -> Ingested:
        """Append events, as `add_many` takes them, each as soon as it is yielded.

        It is one long request, which is not repeated; while no event comes for long, blank
        lines keep proxies from cutting it off. What goes wrong ends it, an exception that
        `events` raises too, and what came before that stays: a StreamingError tells it as its
        `ingested`, which is None where the connection broke and nobody knows.
        """
        lines = Lines(events, self._max_event_bytes)
        try:
            answer = self._transport.send(
                _events_path(run_id),
                iter(lines),
                params={"expected_sequence": expected_sequence},
                headers={"Content-Type": "application/x-ndjson"},
            )
        except UnexpectedSequence as error:
            if error.ingested is not None:  # whose sequence is the run's, and not ours
                stored = error.ingested.stored
                last = expected_sequence + stored - 1 if stored else None
                error.ingested = error.ingested._replace(last_sequence=last)
            raise
        except StoreUnavailable as error:
            raise error from lines.error or error.__cause__
        ingested = Ingested.of(parse_document(answer))
        if isinstance(lines.error, StreamingError):
            lines.error.ingested = ingested
        if lines.error is not None:
            raise lines.error
        return ingested

    # Reading

    def follow(
        self,
        run_id: int | str,
        last_event_id: str = "earliest",
        *,
        tail: int | None = None,
        categories: Sequence[str] = (),
        actions: Sequence[str] = (),
    ) -> Iterator[Event]:
        """The events after `last_event_id`, or after `earliest` or `latest`, as they come.

        Instead of that it may begin `tail` events before the end. It goes on over outages of
        any length, without losing or doubling an event, and ends when the run has. Events of
        the category `gateway` tell what happened to the stream itself (caught_up, gap, reset);
        their id is None. Events that end the run pass the filter.
        """
        if last_event_id not in ("earliest", "latest"):
            EventId.parse(last_event_id, "last_event_id")
        path = f"{_events_path(run_id)}/stream"
        return Follower(self._transport, path, last_event_id, tail, categories, actions).events()

    def get_events(
        self,
        run_id: int | str,
        *,
        limit: int | None = None,
        descending: bool = False,
        categories: Sequence[str] = (),
        actions: Sequence[str] = (),
    ) -> list[Event]:
        """The events of a run that pass the filter, all of them unless limited."""
        query = {"category": list(categories), "action": list(actions)}
        return self._pages(run_id, limit, descending, query)

    def get_events_after(
        self, run_id: int | str, last_id: str, *, limit: int | None = None
    ) -> list[Event]:
        """The events after the id `last_id`, all of them unless limited."""
        after = EventId.parse(last_id, "last_id")
        return self._pages(run_id, limit, False, {"after": str(after)})

    def state(self, run_id: int | str) -> dict[str, Any] | None:
        """The run's log as of now: `length`, `last_id`, `ended` …; None without a log."""
        try:
            return parse_document(self._transport.request("GET", f"/runs/{check_run_id(run_id)}"))
        except Refused as error:
            if error.status == 404:
                return None
            raise

    def _append(
        self,
        ask: Callable[..., requests.Response],
        run_id: int | str,
        new_events: Sequence[NewEvent],
        *,
        idempotency_key: str,
        expected_sequence: int | None,
        lease_seconds: int | None,
    ) -> Appended:
        check_append(len(new_events), idempotency_key, expected_sequence, lease_seconds)
        # The lease holds for all of them, whichever bears it.
        events = [encode_event(new_event, lease_seconds) for new_event in new_events]
        answer = ask(
            "POST",
            _events_path(run_id),
            params={"expected_sequence": expected_sequence},
            data=orjson.dumps(events[0] if len(events) == 1 else events),
            headers={"Content-Type": "application/json", "Idempotency-Key": f'"{idempotency_key}"'},
        )
        return parse_appended(answer)

    def _pages(
        self, run_id: int | str, limit: int | None, descending: bool, query: dict[str, Any]
    ) -> list[Event]:
        if limit is not None and limit < 0:
            raise InvalidInput("limit", "must not be negative")
        path, events = _events_path(run_id), []
        query["order"] = "desc" if descending else "asc"
        while limit is None or len(events) < limit:
            query["limit"] = MAX_PAGE if limit is None else min(MAX_PAGE, limit - len(events))
            page = parse_document(self._transport.request("GET", path, params=query))
            events += map(parse_event, page["events"])
            if page["next"] is None:
                break
            query["before" if descending else "after"] = page["next"]
        return events


def _events_path(run_id: int | str) -> str:
    return f"/runs/{check_run_id(run_id)}/events"
