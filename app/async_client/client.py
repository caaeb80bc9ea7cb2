"""The client for asyncio: appends to runs, follows them and reads them through a gateway."""

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
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
from ..streaming.errors import Ingested, Refused, StoreUnavailable, UnexpectedSequence
from ..streaming.event import REQUEST_CATEGORY, Event, check_run_id
from ..streaming.new_event import MAX_EVENT_BYTES, Appended, AppendOptions, NewEvent
from .appender import AsyncAppender
from .credentials import AsyncCredentials, Token
from .exported_lines import export_lines
from .follower import follow
from .long_body import Events, LongBody
from .transport import AsyncTransport


class AsyncClient:
    """Appends to runs, follows them and reads them, through the gateway at `url`.

    Its methods are those of `Client`, with the same repeats and errors. Any number of tasks of
    one event loop may share it. In another loop it raises RuntimeError while the first one is
    open; after that, and in a forked child, it makes new connections. It is for asyncio only.

    A call that is cancelled closes its connection; the client can be used further. An append
    that is cancelled may have been stored.

    The methods that follow return async generators. One that is not read to its end keeps its
    connection until its `aclose`, or until nobody holds it.

    Args:
        url: begins with `http://` or `https://`.
        token: a bearer token or an API key, or a function that returns one, which may be async.
            The function is called when a token is first needed, and again when the gateway
            refuses the token or says that it expires soon. One task calls it, for all. It must
            neither block nor use this client.
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
        token: Token | None = None,
        headers: Mapping[str, str] | None = None,
        verify: bool | str | PathLike[str] = True,
        retry_seconds: float = 30.0,
        max_event_bytes: int = MAX_EVENT_BYTES,
    ):
        self._max_event_bytes = max_event_bytes
        credentials = AsyncCredentials(token)
        self._transport = AsyncTransport(url, retry_seconds, credentials, headers or {}, verify)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections that are not in use."""
        await self._transport.close()

    async def close(self) -> None:
        """Close the connections that are not in use, as `aclose` does."""
        await self.aclose()

    # Writing

    async def add(
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
        return (await self.append_new(run_id, [new_event], **options)).last_id

    async def add_many(
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
        return (await self.append_new(run_id, new_events, **options)).ids()

    async def append_new(
        self, run_id: int | str, new_events: list[NewEvent], **options: Unpack[AppendOptions]
    ) -> Appended:
        """Append 1 to 1,000 new events, as `add_many` appends mappings."""
        request = append_request(run_id, new_events, **with_key(options))
        return parse_appended(await self._transport.request(request), len(new_events))

    def appender(self, run_id: int | str, *, expected_sequence: int | None = None) -> AsyncAppender:
        """Return an AsyncAppender, which appends events of the run in the background.

        Use it as an async context. The first event must get the `expected_sequence`, if one is
        given.
        """
        run_id = check_run_id(run_id)

        async def append(new_events: list[NewEvent], **options: Unpack[AppendOptions]) -> Appended:
            request = append_request(run_id, new_events, **options)
            return parse_appended(await self._transport.send_once(request), len(new_events))

        return AsyncAppender(
            append,
            name=f"run {run_id}",
            max_event_bytes=self._max_event_bytes,
            expected_sequence=expected_sequence,
            retry_seconds=self._transport.retry_seconds,
        )

    async def stream(
        self,
        run_id: int | str,
        events: Events,
        *,
        expected_sequence: int | None = None,
    ) -> Ingested:
        """Append events, as `add_many` takes them, each as soon as `events` yields it.

        `events` is an async iterable, or an iterable that does not block. This is one long
        request, which is not repeated. While nothing is yielded, blank lines keep proxies from
        closing the connection. `events` may itself use this client. The first event must get
        the `expected_sequence`, if one is given.

        Returns what was stored. An error ends the stream, and so does an exception of `events`;
        the events before it are stored. The `ingested` of a StreamingError says what was
        stored; it is None if the connection broke and nobody knows.
        """
        request = stream_request(run_id, expected_sequence)
        body = LongBody(events, self._max_event_bytes)
        try:
            answer = await self._transport.send_body(request, body)
        except UnexpectedSequence as error:
            note_part_of_stream(error, expected_sequence)
            raise
        except StoreUnavailable as error:
            raise error from body.error or error.__cause__
        finally:
            await body.close()
        return end_of_stream(answer, body.error)

    async def request(
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
        request = producer_request(run_id, new_event, idempotency_key)
        return parse_appended(await self._transport.request(request), 1).last_id

    # Reading

    def requests(
        self, run_id: int | str, last_event_id: str = "earliest"
    ) -> AsyncGenerator[Event, None]:
        """Yield what viewers request of the run's producer, each once, until the run has ended.

        These are the events of the category `request` after `last_event_id`; see `follow`. They
        come when they come: wait for them in a task of their own.
        """
        return _requests(self.follow(run_id, last_event_id, categories=[REQUEST_CATEGORY]))

    def follow(
        self,
        run_id: int | str,
        last_event_id: str = "earliest",
        *,
        tail: int | None = None,
        from_sequence: int | None = None,
        categories: Sequence[str] = (),
        actions: Sequence[str] = (),
    ) -> AsyncGenerator[Event, None]:
        """Yield the events after `last_event_id`, an id or `earliest` or `latest`, as they come.

        See `Client.follow` for the arguments, the control events, and how it resumes and ends.
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
    ) -> AsyncGenerator[Event, None]:
        """Yield the events of up to 1,000 runs as they come, over one connection.

        `runs` says where to start in each run: after an id, or `earliest` or `latest`. See
        `Client.follow_many`. Raises as `follow` does.
        """
        return follow(self._transport, follow_several(runs, categories, actions))

    def follow_runs(
        self,
        last_event_id: str = "earliest",
        prefix: str | None = None,
        tail: int | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Yield how runs begin and end: the first event of each, and its lifecycle events.

        It starts after the cursor `last_event_id`, or at `earliest` or `latest`, or with `tail`
        that many changes before the end. `prefix` is how the ids of the runs begin. It has no
        end. A `gateway.deleted` names a run whose log is gone. Raises as `follow` does.
        """
        return follow(self._transport, follow_changes(last_event_id, prefix, tail))

    def export_events(
        self, run_id: int | str, last_event_id: str | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Yield the JSON of every event that the log holds now, exactly as the gateway sends it.

        With `last_event_id` it begins after that id. A history of any size takes little memory.
        After a break it goes on after the last event. Raises StoreUnavailable if no event came
        for `retry_seconds`, and as `follow` does.
        """
        export = Export(run_id, last_event_id, self._transport.retry_seconds)
        return export_lines(self._transport, export)

    def runs(
        self, state: str | None = None, prefix: str | None = None, limit: int | None = None
    ) -> AsyncGenerator[RunState, None]:
        """Yield the runs, the latest activity first, page by page, at most `limit` of them.

        Each is the state of a run. `state` is `active` or `ended`; `prefix` is how their ids
        begin. Raises InvalidInput for a wrong argument.
        """
        return self._runs(RunPages(state, prefix, limit))

    async def get_events(
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
        return await self._read(
            Pages.of(run_id, limit, descending, from_sequence, categories, actions)
        )

    async def get_events_after(
        self, run_id: int | str, last_id: str, *, limit: int | None = None
    ) -> list[Event]:
        """Return the events after the id `last_id`, at most `limit` of them."""
        return await self._read(Pages.after(run_id, last_id, limit))

    async def state(self, run_id: int | str) -> RunState | None:
        """Return the run's state (`state`, `length`, `last_id` …), None without a log."""
        try:
            answer = await self._transport.request(state_request(run_id))
            return parse_run_state(answer.status, answer.document)
        except Refused as error:
            if is_no_log(error):
                return None
            raise

    async def _runs(self, pages: RunPages) -> AsyncGenerator[RunState, None]:
        while request := pages.next_request():
            for run in pages.take(await self._transport.request(request)):
                yield run

    async def _read(self, pages: Pages) -> list[Event]:
        while request := pages.next_request():
            pages.take(await self._transport.request(request))
        return pages.events


async def _requests(followed: AsyncGenerator[Event, None]) -> AsyncGenerator[Event, None]:
    async with aclosing(followed):
        async for event in followed:
            if is_request(event):
                yield event
