"""The open streams of this worker, out of it and into it: admitted up to a limit, logged, and
drained together."""

import logging
import random
import time
from typing import Protocol

from ..wire.formats import StreamFormat
from .subscriber import Services, Start, Subscriber

FINISH_SECONDS = 1.0

log = logging.getLogger("tailrace.stream")


class OpenStream(Protocol):
    """A request that lasts: a subscriber's, or one whose lines are appended."""

    kind: str
    run_id: str
    reason: str | None
    events: int

    def end(self, reason: str) -> None:
        """End it soon, for a reason, with all that belongs before its end."""

    def cut(self) -> None:
        """Wait no longer for the client."""


class OpenStreams:
    """All streams of a worker."""

    def __init__(self, services: Services, limit: int):
        self.draining = False
        self._services = services
        self._limit = limit
        self._open: dict[OpenStream, tuple[str, float]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def subscriber(self, run_id: str, start: Start, view: StreamFormat) -> Subscriber:
        """A subscriber, which is not open until it is admitted."""
        return Subscriber(run_id, start, view, self._services, self.closed)

    def admit(self, stream: OpenStream, client: str, **fields: object) -> bool:
        """Count a stream in, unless there are too many or the worker is about to stop.

        Whoever opened it calls `closed` when it has let go of everything.
        """
        if self.draining or len(self._open) >= self._limit:
            return False
        self._open[stream] = client, time.monotonic()
        _log(f"{stream.kind} opened", run=stream.run_id, client=client, **fields)
        return True

    def closed(self, stream: OpenStream) -> None:
        """Count a stream out, if it was counted in; safe to repeat."""
        client, opened = self._open.pop(stream, ("", 0.0))
        _log(
            f"{stream.kind} ended",
            run=stream.run_id,
            client=client,
            reason=stream.reason,
            seconds=round(time.monotonic() - opened, 3),
            events=stream.events,
        )

    def drain(self, seconds: float) -> None:
        """Admit no more, and end all streams one by one, spread over `seconds`.

        Their clients then reconnect one by one too, and not all at once.
        """
        self.draining = True
        streams = random.sample(list(self._open), len(self._open))
        began = time.monotonic()
        for number, stream in enumerate(streams, 1):
            stream.end("draining")
            due = began + seconds * number / len(streams)  # what ending takes counts too
            time.sleep(max(0.0, due - time.monotonic()))
        # What they still have to write, an end at least, needs a moment.
        until = time.monotonic() + FINISH_SECONDS
        while self._open and time.monotonic() < until:
            time.sleep(0.01)
        for stream in list(self._open):  # whoever reads nothing would hold up the stop
            stream.cut()


def _log(message: str, **fields: object) -> None:
    """One line: on a terminal with its fields behind it, in JSON with each by its name."""
    text = " ".join(f"{name}={value}" for name, value in fields.items())
    log.info("%s %s", message, text, extra=fields)
