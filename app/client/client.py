"""The client: appends to runs, follows them and reads them through a gateway."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any, Self, Unpack

from ..protocol.calls import (
    Pages,
    RunPages,
    add_lease,
    append_request,
    end_of_stream,
    is_no_log,
    is_request,
    note_part_of_stream,
    producer_request,
    state_request,
    stream_request,
    with_key,
)
from ..protocol.exporting import Export
from ..protocol.following import follow_changes, follow_run, follow_several
from ..protocol.responses import parse_appended
from ..protocol.run_state import RunState, parse_run_state
from ..streaming.appender import Appender
from ..streaming.errors import Ingested, Refused, StoreUnavailable, UnexpectedSequence
from ..streaming.event import REQUEST_CATEGORY, Event, check_run_id
from ..streaming.new_event import MAX_EVENT_BYTES, Appended, AppendOptions, NewEvent
from .credentials import Credentials
from .event_lines import EventLines
from .exported_lines import export_lines
from .follower import follow
from .transport import Transport


class Client:
    """Appends to runs, follows them and reads them, through the gateway at `url`.

    Any number of threads and greenlets may share a client, and a forked process may go on with
    it. In a signal handler that interrupted a request, every method but `stream` raises
    ReentrantCall; only `Appender.emit` may be called there.

    A request that gets no response, or 408, 429 or 5xx, is repeated for `retry_seconds`; then
    StoreUnavailable is raised. With 0 there is one attempt. All errors are from
    `app.streaming.errors`: those of the event store, NotAllowed for 401 and 403, and Refused for
    other responses. What a function for the token raises reaches the caller; if that is
    StoreUnavailable, the request is repeated.

    Args:
        url: begins with `http://` or `https://`.
        token: a bearer token or an API key, or a function that returns one. The function is
            called when a token is first needed, and again when the gateway refuses the token or
            says that it expires soon. One thread calls it, for all. It must not use this client.
        headers: are sent with every request. They cannot replace those of the client.
        verify: whether to verify the certificates of https, or the path of a CA bundle.
        retry_seconds: how long a request is repeated.
        max_event_bytes: the largest event, as the JSON of its data and source: the setting
            MAX_EVENT_BYTES of the gateway.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | Callable[[], str] | None = None,
        headers: Mapping[str, str] | None = None,
        verify: bool | str | PathLike[str] = True,
        retry_seconds: float = 30.0,
        max_event_bytes: int = MAX_EVENT_BYTES,
    ):
        self._max_event_bytes = max_event_bytes
        self._transport = Transport(url, retry_seconds, Credentials(token), headers or {}, verify)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that are not in use."""
        self._transport.close()

    # Writing

    def add(
        self,
        run_id: int | str,
        event_category: str,
        event_action: str,
        data: Any = None,
        source: Any = None,
        *,
        traceparent: str | None = None,
        **options: Unpack[AppendOptions],
    ) -> str:
        """Append an event and return its id.

        `data` and `source` are any JSON values. `traceparent` (W3C Trace Context) names the
        producer's trace; one that is not valid is ignored. For the other keywords see
        AppendOptions; without an idempotency key the client makes one, so repeats store the event
        once. Raises as `EventStore.append` does, and Refused.
        """
        new_event = NewEvent.of(
            *(event_category, event_action, data, source, traceparent),
            max_bytes=self._max_event_bytes,
        )
        return self.append_new(run_id, [new_event], **options).last_id

    def add_many(
        self,
        run_id: int | str,
        events: Iterable[Mapping[str, Any]],
        **options: Unpack[AppendOptions],
    ) -> list[str]:
        """Append 1 to 1,000 events, all or none, and return their ids.

        Each event is a mapping with `event_category`, `event_action`, and optionally `data`,
        `source`, `traceparent` and `lease_seconds`; the last lease counts. Raises as `add` does;
        an InvalidInput names a field of one event as `<index>.<key>`.
        """
        new_events = add_lease(events, self._max_event_bytes, options)
        return self.append_new(run_id, new_events, **options).ids()

    def append_new(
        self, run_id: int | str, new_events: list[NewEvent], **options: Unpack[AppendOptions]
    ) -> Appended:
        """Append 1 to 1,000 new events, as `add_many` appends mappings."""
        request = append_request(run_id, new_events, **with_key(options))
        return parse_appended(self._transport.request(request), len(new_events))

    def appender(self, run_id: int | str, *, expected_sequence: int | None = None) -> Appender:
        """Return an Appender, which appends events of the run in the background.

        Use it as a context. The first event must get the `expected_sequence`, if one is given.
        """
        run_id = check_run_id(run_id)

        def append(new_events: list[NewEvent], **options: Unpack[AppendOptions]) -> Appended:
            request = append_request(run_id, new_events, **options)
            return parse_appended(self._transport.send_once(request), len(new_events))

        return Appender(
            append,
            name=f"run {run_id}",
            max_event_bytes=self._max_event_bytes,
            expected_sequence=expected_sequence,
            retry_seconds=self._transport.retry_seconds,
        )

    def stream(
        self,
        run_id: int | str,
        events: Iterable[Mapping[str, Any]],
        *,
        expected_sequence: int | None = None,
    ) -> Ingested:
        """Append events, as `add_many` takes them, each as soon as the iterable yields it.

        This is one long request, which is not repeated. While the iterable yields nothing, blank
        lines keep proxies from closing the connection. `events` may itself use this client.
        The first event must get the `expected_sequence`, if one is given.

        Returns what was stored. An error ends the stream, and so does an exception of `events`;
        the events before it are stored. The `ingested` of a StreamingError says what was
        stored; it is None if the connection broke and nobody knows.
        """
        lines = EventLines(events, self._max_event_bytes)
        try:
            request = stream_request(run_id, expected_sequence)
            answer = self._transport.send_body(request, iter(lines))
        except UnexpectedSequence as error:
            note_part_of_stream(error, expected_sequence)
            raise
        except StoreUnavailable as error:
            raise error from lines.error or error.__cause__
        return end_of_stream(answer, lines.error)

    def request(
        self,
        run_id: int | str,
        action: str,
        data: Any = None,
        source: Any = None,
        *,
        traceparent: str | None = None,
        idempotency_key: str | None = None,
    ) -> str:
        """Request something of the run's producer, such as `cancel`; return the event's id.

        It is the event `request.<action>`, which the producer gets by `requests`. Raises as `add`
        does, RunEnded if the run has ended, and Refused if it has no log.
        """
        new_event = NewEvent.of(
            *(REQUEST_CATEGORY, action, data, source, traceparent),
            max_bytes=self._max_event_bytes,
        )
        answer = self._transport.request(producer_request(run_id, new_event, idempotency_key))
        return parse_appended(answer, 1).last_id

    # Reading

    def requests(self, run_id: int | str, last_event_id: str = "earliest") -> Iterator[Event]:
        """Yield what viewers request of the run's producer, each once, until the run has ended.

        These are the events of the category `request` after `last_event_id`; see `follow`. They
        come when they come: wait for them in a thread of their own.
        """
        followed = self.follow(run_id, last_event_id, categories=[REQUEST_CATEGORY])
        return filter(is_request, followed)

    def follow(
        self,
        run_id: int | str,
        last_event_id: str = "earliest",
        *,
        tail: int | None = None,
        from_sequence: int | None = None,
        categories: Sequence[str] = (),
        actions: Sequence[str] = (),
    ) -> Iterator[Event]:
        """Yield the events after `last_event_id`, an id or `earliest` or `latest`, as they come.

        With `tail` it starts that many events before the end instead, with `from_sequence` at the
        event with that sequence, for which it waits if need be. It resumes after outages
        of any length without losing or repeating an event, and ends when the run has ended.
        `categories` and `actions` filter the events; terminal events always pass. Events of the
        category `gateway` (caught_up, gap, reset) are about the stream itself; their id is None.
        A gateway.progress moves the cursor past events that the filter dropped, and is not shown.

        After a `gateway.expiring`, which is not shown either, the next connection asks for a token.

        Raises InvalidInput for a wrong argument, NotAllowed, and Refused if the URL is not that
        of a gateway.
        """
        following = follow_run(run_id, last_event_id, tail, from_sequence, categories, actions)
        return follow(self._transport, following)

    def follow_many(
        self,
        runs: Mapping[int | str, str],
        *,
        categories: Sequence[str] = (),
        actions: Sequence[str] = (),
    ) -> Iterator[Event]:
        """Yield the events of up to 1,000 runs as they come, over one connection.

        `runs` says where to start in each run: after an id, or `earliest` or `latest`. Each run is
        followed as `follow` does; the events of different runs come in any order. It ends when all
        runs have ended. To go on in another process, keep the id of the last event of each run.

        Raises as `follow` does.
        """
        return follow(self._transport, follow_several(runs, categories, actions))

    def get_events(
        self,
        run_id: int | str,
        *,
        limit: int | None = None,
        descending: bool = False,
        from_sequence: int | None = None,
        categories: Sequence[str] = (),
        actions: Sequence[str] = (),
    ) -> list[Event]:
        """Return the events of a run that pass the filter, at most `limit` of them."""
        return self._read(Pages.of(run_id, limit, descending, from_sequence, categories, actions))

    def get_events_after(
        self, run_id: int | str, last_id: str, *, limit: int | None = None
    ) -> list[Event]:
        """Return the events after the id `last_id`, at most `limit` of them."""
        return self._read(Pages.after(run_id, last_id, limit))

    def export_events(self, run_id: int | str, last_event_id: str | None = None) -> Iterator[bytes]:
        """Yield the JSON of every event that the log holds now, exactly as the gateway sends it.

        With `last_event_id` it begins after that id. A history of any size takes little memory.
        After a break it goes on after the last event. Raises StoreUnavailable if no event came
        for `retry_seconds`, and as `follow` does.
        """
        export = Export(run_id, last_event_id, self._transport.retry_seconds)
        return export_lines(self._transport, export)

    def runs(
        self, state: str | None = None, prefix: str | None = None, limit: int | None = None
    ) -> Iterator[RunState]:
        """Yield the state of each run that the token may read, the latest activity first.

        `state` is `active` or `ended`; `prefix` is how their ids begin; at most `limit` are
        yielded. Each is a mapping as `state` returns it. Raises InvalidInput for a wrong argument.
        """
        pages = RunPages(state, prefix, limit)
        while request := pages.next_request():
            yield from pages.take(self._transport.request(request))

    def follow_runs(
        self, last_event_id: str = "earliest", prefix: str | None = None, tail: int | None = None
    ) -> Iterator[Event]:
        """Yield how runs begin and end, as it happens; this never ends by itself.

        Each is the run's own event: its first one, or one of the category `lifecycle`. The event
        `gateway.deleted` names a run whose log is gone. `last_event_id` is `earliest`, `latest`
        or a cursor of this stream; with `tail` it starts that many changes before the end. It
        resumes as `follow` does, and raises the same errors.
        """
        return follow(self._transport, follow_changes(last_event_id, prefix, tail))

    def state(self, run_id: int | str) -> RunState | None:
        """Return the run's state (`state`, `length`, `last_id` …), None without a log."""
        try:
            answer = self._transport.request(state_request(run_id))
            return parse_run_state(answer.status, answer.document)
        except Refused as error:
            if is_no_log(error):
                return None
            raise

    def _read(self, pages: Pages) -> list[Event]:
        while request := pages.next_request():
            pages.take(self._transport.request(request))
        return pages.events
