"""The open streams of a worker: admitted up to a limit, logged, and drained together."""

import logging
import random
import time
from typing import Protocol

from ..wire.formats import StreamFormat
from .start import Start
from .subscriber import Services, Subscriber

# How long a drain waits for streams to write what belongs before their end.
FINISH_SECONDS = 1.0
# How often a drain looks whether a stream is left.
POLL_SECONDS = 0.05

log = logging.getLogger("tailrace.stream")


class OpenStream(Protocol):
    """A request that lasts: a subscriber, or an ingest of lines."""

    kind: str
    reason: str | None
    events: int

    @property
    def run_id(self) -> str:
        """The run that is read or written."""

    def end(self, reason: str) -> None:
        """End the stream soon, with what belongs before its end."""

    def cut(self) -> None:
        """Stop waiting for the client."""


class OpenStreams:
    """The open streams of a worker."""

    def __init__(self, services: Services, limit: int):
        self.draining = False
        self._services = services
        self._limit = limit
        self._open: dict[OpenStream, tuple[str, float]] = {}
        self._on_closed = self.closed  # made once: a bound method takes 64 bytes

    def __len__(self) -> int:
        return len(self._open)

    def subscriber(self, run_id: str, start: Start, stream_format: StreamFormat) -> Subscriber:
        """Make a subscriber, which counts as open once it is admitted."""
        return Subscriber(run_id, start, stream_format, self._services, self._on_closed)

    def admit(self, stream: OpenStream, client: str, **fields: object) -> bool:
        """Count a stream as open, and log it; return False if it must be refused.

        It must be refused if too many are open, or the worker is about to stop. The owner of an
        admitted stream calls `closed` when the stream has released everything.
        """
        if self.draining or len(self._open) >= self._limit:
            return False
        self._open[stream] = client, time.monotonic()
        _log(f"{stream.kind} opened", run=stream.run_id, client=client, **fields)
        return True

    def closed(self, stream: OpenStream) -> None:
        """Count a stream as closed if it was admitted, and log it; safe to repeat."""
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
        """Admit no more streams, and end the open ones one by one, spread over `seconds`.

        Their clients then reconnect one by one too. Returns once no stream is open.
        """
        self.draining = True
        streams = random.sample(list(self._open), len(self._open))
        began = time.monotonic()
        for number, stream in enumerate(streams):
            self._wait_for_end_of_all(began + seconds * number / len(streams))
            stream.end("draining")
        self._wait_for_end_of_all(time.monotonic() + FINISH_SECONDS)
        for stream in list(self._open):  # a client that does not read would delay the stop
            stream.cut()

    def _wait_for_end_of_all(self, until: float) -> None:
        """Wait until no stream is open, or until a monotonic time; give way at least once."""
        time.sleep(0)
        while self._open and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, POLL_SECONDS))


def _log(message: str, **fields: object) -> None:
    """Log one line: as text with its fields behind the message, as JSON with named fields."""
    text = " ".join(f"{name}={value}" for name, value in fields.items())
    log.info("%s %s", message, text, extra=fields)
