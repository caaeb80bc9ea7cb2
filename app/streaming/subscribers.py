"""The open streams of this worker: admitted up to a limit, logged, and drained together."""

import logging
import random
import resource
import time

from app.streaming.sse import View
from app.streaming.subscriber import Start, Subscriber, Surroundings

LAST_WORDS_SECONDS = 1.0

# Open files that are not for streams: Redis, and requests that come and go.
OTHER_FILES = 100

log = logging.getLogger("tailrace.stream")


def most_streams(wanted: int) -> int:
    """As many streams as are wanted, or as this process may have files open."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return wanted
    return max(1, min(wanted, files - OTHER_FILES))


class Subscribers:
    """All subscribers of a worker."""

    def __init__(self, around: Surroundings, limit: int):
        self.draining = False
        self._around = around
        self._limit = limit
        self._open: dict[Subscriber, tuple[str, float]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def make(self, run_id: str, start: Start, view: View) -> Subscriber:
        """A subscriber, which is not open until it is admitted."""
        return Subscriber(run_id, start, view, self._around, self._closed)

    def admit(self, subscriber: Subscriber, client: str) -> bool:
        """Count a stream in, unless there are too many or the worker is about to stop."""
        if self.draining or len(self._open) >= self._limit:
            return False
        self._open[subscriber] = client, time.monotonic()
        _log("stream opened", run=subscriber.run_id, client=client, start=str(subscriber.start))
        return True

    def drain(self, seconds: float) -> None:
        """Admit no more, and end all streams one by one, spread over `seconds`.

        Their clients then reconnect one by one too, and not all at once.
        """
        self.draining = True
        subscribers = random.sample(list(self._open), len(self._open))
        began = time.monotonic()
        for number, subscriber in enumerate(subscribers, 1):
            subscriber.end("draining")
            due = began + seconds * number / len(subscribers)  # what ending takes counts too
            time.sleep(max(0.0, due - time.monotonic()))
        # What they still have to write, an end at least, needs a moment.
        until = time.monotonic() + LAST_WORDS_SECONDS
        while self._open and time.monotonic() < until:
            time.sleep(0.01)
        for subscriber in list(self._open):  # whoever reads nothing would hold up the stop
            subscriber.cut()

    def _closed(self, subscriber: Subscriber) -> None:
        client, opened = self._open.pop(subscriber, ("", 0.0))
        _log(
            "stream ended",
            run=subscriber.run_id,
            client=client,
            reason=subscriber.reason,
            seconds=round(time.monotonic() - opened, 3),
            events=subscriber.events_sent,
        )


def _log(message: str, **fields: object) -> None:
    """One line: on a terminal with its fields behind it, in JSON with each by its name."""
    text = " ".join(f"{name}={value}" for name, value in fields.items())
    log.info("%s %s", message, text, extra=fields)
