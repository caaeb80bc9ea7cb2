"""One loop reads all requests of lines, and appends what has arrived in one round trip.

A hundred producers of fifty lines a second send one line every 200 µs. A turn and a round trip
for each line would cost as much as a request. So the loop rests after a round, as the readers do,
and the longer the busier the worker is.
"""

import logging
import selectors
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import gevent
from gevent.event import Event
from gevent.monkey import get_original
from werkzeug.exceptions import HTTPException

from ...server.bodies.nonblocking_body import NonBlockingBody
from ...streaming.backoff import Pace
from ...streaming.errors import StoreUnavailable
from ...streaming.event_store import EventStore
from ...streaming.follow.client_socket import READABLE
from .ingest import Ingest, append_together, error_of_end
from .progress_timer import ProgressTimer

# About what one round takes from all connections, so that the worker's other greenlets get their
# turn; and the least that it takes from each, so that a large producer delays no small one.
ROUND_BYTES = 64 * 1024
MIN_SHARE_BYTES = 2 * 1024

# How often the loop looks for incomplete lines that take too long.
SWEEP_SECONDS = 1.0

log = logging.getLogger("tailrace.stream")


class IngestLoops:
    """Reads the requests of lines of one worker: a loop for each server that has logs.

    So a server that hangs holds up no request for another one.
    """

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._loops: dict[str, IngestLoop] = {}

    def read(self, ingest: Ingest, body: NonBlockingBody) -> None:
        """Read a request until it is over; raises BodyError if its trailers are malformed."""
        self._loop_of(ingest.run_id).read(ingest, body)

    def _loop_of(self, run_id: str) -> "IngestLoop":
        """Return the loop of the server that has a log now. Loops without requests end."""
        lane = self._store.lane_of(run_id)
        if lane not in self._loops:
            for each in [each for each, loop in self._loops.items() if loop.is_empty]:
                self._loops.pop(each).end()
            self._loops[lane] = IngestLoop(self._store, self._loop_of)
        return self._loops[lane]


class IngestLoop:
    """Reads requests of lines, whose runs are on one server as far as is known.

    A request goes to another loop when its log is on another server.
    """

    def __init__(
        self, store: EventStore, loop_of: "Callable[[str], IngestLoop] | None" = None
    ) -> None:
        """`loop_of` returns the loop of a run; without it, that is always this one."""
        self._store = store
        self._loop_of = loop_of or (lambda _: self)
        self._ended = False
        self._open: dict[_Request, None] = {}
        self._due: dict[_Request, None] = {}  # the requests to attend to, in order
        self._partial: set[_Request] = set()  # those with something incomplete
        self._swept = 0.0
        self._awake = Event()
        self._pace = Pace()
        self._selector: selectors.DefaultSelector | None = None

    @property
    def is_empty(self) -> bool:
        """Whether no request is read."""
        return not self._open

    def end(self) -> None:
        """End the loop, which is empty, for good."""
        self._ended = True
        self._awake.set()

    def read(self, ingest: Ingest, body: NonBlockingBody) -> None:
        """Read a request until it is over; raises BodyError if its trailers are malformed."""
        request = _Request(ingest, body)
        try:
            self._enter(request)
            request.done.wait()
        finally:  # if the request is not over, its greenlet was killed
            ingest.abort(error_of_end(ingest.reason or ""))
            ingest.wake = None
            if request.loop is not None:
                request.loop._leave(request)
        body.give_back()

    def _enter(self, request: "_Request") -> None:
        """Read a request from now on."""
        self._start().register(request.body, selectors.EVENT_READ, request)
        request.loop = self
        request.ingest.use_lane(self._store.lane_of(request.ingest.run_id))
        self._open[request] = None
        request.ingest.wake = partial(self._attend, request)
        self._attend(request)  # something may have arrived already

    def _start(self) -> selectors.DefaultSelector:
        """Start the loop, if it does not run yet."""
        if self._selector is None:
            # gevent's own selector can only wait. This one is polled for all that are ready.
            selector: selectors.DefaultSelector = get_original("selectors", "DefaultSelector")()
            self._selector = selector
            gevent.spawn(self._run, selector)
        return self._selector

    def _attend(self, request: "_Request") -> None:
        self._due[request] = None
        self._awake.set()

    def _leave(self, request: "_Request") -> None:
        """Stop reading a request; safe to repeat."""
        if request in self._open and self._selector is not None:
            del self._open[request]
            self._selector.unregister(request.body)
            self._due.pop(request, None)
            self._partial.discard(request)

    def _run(self, selector: selectors.DefaultSelector) -> None:
        watcher = gevent.get_hub().loop.io(selector.fileno(), READABLE)
        while not self._ended:
            try:
                self._turn(selector, watcher)
            except Exception as error:
                log.exception("unexpected error in streaming ingest")
                self._fail_all(error)
                gevent.sleep(1.0)  # the error may come back at once, and must not use the CPU
        watcher.close()
        selector.close()

    def _turn(self, selector: selectors.DefaultSelector, watcher: Any) -> None:
        """Wait until a request is due, attend to all that are, and rest."""
        self._sweep()
        self._find_ready(selector)
        if self._due:
            began = time.monotonic()
            if self._round(selector):
                self._pace.rest(began)
            else:
                gevent.sleep(0)
            return
        self._awake.clear()
        watcher.start(self._awake.set)
        self._awake.wait(SWEEP_SECONDS if self._partial else None)
        watcher.stop()

    def _find_ready(self, selector: selectors.DefaultSelector) -> None:
        self._due.update([(key.data, None) for key, _ in selector.select(0)])

    def _round(self, selector: selectors.DefaultSelector) -> bool:
        """Attend to the requests that are due; return whether everything was read."""
        share = max(MIN_SHARE_BYTES, ROUND_BYTES // len(self._due))
        requests, size, all_read = [], 0, True
        while self._due and size < ROUND_BYTES:
            request = next(iter(self._due))
            del self._due[request]
            if (loop := self._loop_of(request.ingest.run_id)) is not self:
                self._leave(request)
                loop._enter(request)
                continue
            request.receive(share)
            size += max(request.body.taken, request.ingest.size)
            all_read = all_read and not request.body.has_more
            requests.append(request)
        unavailable = append_together([request.ingest for request in requests], self._store)
        if unavailable is not None:
            self._fail_due(selector, unavailable)
        for request in requests:
            self._finish_turn(request)
        return size > 0 and all_read and not self._due

    def _fail_due(self, selector: selectors.DefaultSelector, error: StoreUnavailable) -> None:
        """Fail all requests that are due: they must not wait for Redis one after the other.

        Those whose logs are on another server by now have nothing to wait for.
        """
        self._find_ready(selector)
        for request in self._due:
            if self._loop_of(request.ingest.run_id) is self:
                request.ingest.fail(StoreUnavailable(str(error)))

    def _finish_turn(self, request: "_Request") -> None:
        """End a request that is over; else attend to it again, at once or when bytes arrive."""
        if request.ingest.over:
            self._end(request)
        elif request in self._open:  # its greenlet may have been killed meanwhile
            if request.ingest.has_lines or request.ingest.reason is not None:
                self._due[request] = None
            if request.timer.begun is not None:
                self._partial.add(request)
            else:
                self._partial.discard(request)

    def _end(self, request: "_Request") -> None:
        self._leave(request)
        request.done.set()

    def _sweep(self) -> None:
        """Attend to requests whose incomplete line took too long; it may be complete by now."""
        now = time.monotonic()
        if now >= self._swept + SWEEP_SECONDS:
            self._swept = now
            self._due.update([(each, None) for each in self._partial if each.timer.too_slow])

    def _fail_all(self, error: Exception) -> None:
        for request in list(self._open):
            request.ingest.fail(error)
            self._end(request)


class _Request:
    """An open request of lines, and the event that its greenlet waits for."""

    __slots__ = ("body", "done", "ingest", "loop", "timer")

    def __init__(self, ingest: Ingest, body: NonBlockingBody) -> None:
        self.ingest = ingest
        self.body = body
        self.timer = ProgressTimer()
        self.done = Event()
        self.loop: IngestLoop | None = None  # the one that reads it

    def receive(self, size: int) -> None:
        """Take up to `size` bytes that have arrived, if no earlier line waits to be stored."""
        ingest, body = self.ingest, self.body
        if ingest.closed or ingest.has_lines:
            return
        if piece := body.receive(size):
            ingest.receive(piece)
        if body.error is not None:
            ingest.abort(body.error)
        elif body.ended:
            ingest.end_body()
        elif ingest.reason is not None:
            ingest.abort(error_of_end(ingest.reason))
        else:
            self._check_progress()

    def _check_progress(self) -> None:
        """Abort if a line, or the trailers after the body, took too long to arrive."""
        ingest, body = self.ingest, self.body
        incomplete = ingest.has_partial_line or body.is_ending
        try:
            self.timer.check(incomplete, progress=ingest.has_lines or body.has_more)
        except HTTPException as error:
            ingest.abort(error)
