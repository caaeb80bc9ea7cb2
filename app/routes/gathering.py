"""The gathering: one loop reads all requests of lines, and appends what has come in one round trip.

A hundred producers of fifty lines a second give one every 200 µs. A turn and a round trip for
each line would cost what a request does, so the loop rests a little after a round, as readers do
after a burst. A line that comes after silence is read at once.
"""

import logging
import time
from functools import partial
from selectors import EVENT_READ
from typing import Any

import gevent
from gevent.event import Event
from gevent.monkey import get_original

from app.routes.ingest import Ingest, about_to_stop, append_together
from app.routes.inlet import Inlet
from app.streaming.event_store import EventStore
from app.streaming.outlet import READABLE

# What one round takes in, about, so that what else the worker does has its turn.
ROUND_BYTES = 64 * 1024

# So often the lines are looked at that have begun and not come to their end.
SWEEP_SECONDS = 1.0

log = logging.getLogger("tailrace.stream")


class Gathering:
    """The requests of lines that this worker reads.

    `rest_seconds` is how long it rests after a round that has read what there was.
    """

    def __init__(self, store: EventStore, rest_seconds: float):
        self._store = store
        self._rest_seconds = rest_seconds
        self._open: dict[_Request, None] = {}
        self._due: dict[_Request, None] = {}  # those to see to, in the order of their turns
        self._halfway: set[_Request] = set()
        self._swept = 0.0
        self._awake = Event()
        self._selector = None

    def read(self, ingest: Ingest, inlet: Inlet) -> None:
        """Read a request until it is over; raises 400 where what stands behind it is malformed."""
        if self._selector is None:
            # gevent's own is for waiting. This one is asked without, for all that are ready.
            self._selector = get_original("selectors", "DefaultSelector")()
            gevent.spawn(self._run)
        request = _Request(ingest, inlet)
        ingest.wake = partial(self._see_to, request)
        self._open[request] = None
        self._selector.register(inlet, EVENT_READ, request)
        self._see_to(request)  # something may have come with its head
        try:
            request.done.wait()
        finally:  # unless it is over, the worker does not wait any longer
            ingest.break_off(about_to_stop())
            self._leave(request)
        inlet.give_back()

    def _see_to(self, request: "_Request") -> None:
        self._due[request] = None
        self._awake.set()

    def _leave(self, request: "_Request") -> None:
        """Read nothing more of a request; safe to repeat."""
        if request in self._open:
            del self._open[request]
            self._selector.unregister(request.inlet)
            self._due.pop(request, None)
            self._halfway.discard(request)

    def _run(self) -> None:
        watcher = gevent.get_hub().loop.io(self._selector.fileno(), READABLE)
        while True:
            self._sweep()
            if not self._find_ready() and not self._due:
                self._wait(watcher)
                continue
            try:
                size = self._round()
            except Exception as error:
                log.exception("unexpected error in streaming ingest")
                self._give_up(error)
                continue
            has_more = self._due or size >= ROUND_BYTES
            gevent.sleep(self._rest_seconds if size and not has_more else 0)

    def _wait(self, watcher: Any) -> None:
        self._awake.clear()
        watcher.start(self._awake.set)
        self._awake.wait(SWEEP_SECONDS if self._halfway else None)
        watcher.stop()

    def _find_ready(self) -> bool:
        ready = self._selector.select(0)
        self._due.update([(key.data, None) for key, _ in ready])
        return bool(ready)

    def _round(self) -> int:
        """See to those who are due, up to some bytes; how many these were."""
        requests, size = [], 0
        while self._due and size < ROUND_BYTES:
            request = next(iter(self._due))
            del self._due[request]
            request.take_in()
            size += request.ingest.size
            requests.append(request)
        append_together([request.ingest for request in requests], self._store)
        for request in requests:
            self._look_after(request)
        return size

    def _look_after(self, request: "_Request") -> None:
        if request.ingest.over:
            self._end(request)
            return
        if request not in self._open:
            return  # killed meanwhile
        if request.ingest.has_lines or request.ingest.reason is not None:
            self._due[request] = None
        if request.ingest.is_halfway:
            self._halfway.add(request)
        else:
            self._halfway.discard(request)

    def _end(self, request: "_Request") -> None:
        self._leave(request)
        request.done.set()

    def _sweep(self) -> None:
        """Have those break off whose lines do not come to their end."""
        now = time.monotonic()
        if now < self._swept + SWEEP_SECONDS:
            return
        self._swept = now
        for request in self._halfway:
            request.ingest.check_pace()
            if request.ingest.closed:
                self._due[request] = None

    def _give_up(self, error: Exception) -> None:
        for request in list(self._open):
            request.ingest.refuse(error)
            self._end(request)


class _Request:
    """A request of lines that is open, and who waits for its end."""

    __slots__ = ("done", "ingest", "inlet")

    def __init__(self, ingest: Ingest, inlet: Inlet):
        self.ingest = ingest
        self.inlet = inlet
        self.done = Event()

    def take_in(self) -> None:
        """Take in what has come, where earlier lines do not wait any more."""
        ingest, inlet = self.ingest, self.inlet
        if ingest.closed or ingest.has_lines:
            return
        if piece := inlet.receive():
            ingest.take_in(piece)
        if inlet.broken is not None:
            ingest.break_off(inlet.broken)
        elif inlet.ended:
            ingest.finish()
        elif ingest.reason is not None:
            ingest.break_off(about_to_stop())
