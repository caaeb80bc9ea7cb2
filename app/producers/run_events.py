"""The events of a run, from the outermost call of a framework to its end."""

import concurrent.futures
import threading
from collections.abc import Hashable
from types import TracebackType
from typing import Any, Self

from ..streaming.new_event import check_range
from .outbox import Outbox, TakesEvents, Waiting
from .plain import text_of_error

_SEVERITY = {"completed": 0, "cancelled": 1, "failed": 2}


class RunEvents:
    """Begins the run with the first call, and ends it when all calls have ended.

    Of calls side by side, one that fails makes the run fail. If the first call has all others
    inside it, the run ends as that one does. As a context manager, the block is the first call;
    what it leaves half-way cancels the run. Events outside a run are left out, since a run that
    has ended takes none.

    It never waits, and raises no error of the appender: that of a call of `flush` or `close` says
    what is not stored. While the appender is full, events are dropped; the next that is sent says
    how many, as `dropped`. The last event of a run has a place of its own.

    Args:
        run: an Appender or an AsyncAppender.
        name: of the run, if it is used as a context manager.
        lease_seconds: how long the run may be silent before it is lost; None is for ever.
    """

    def __init__(
        self, run: TakesEvents, *, name: str | None = None, lease_seconds: int | None = None
    ):
        """Raises InvalidInput for a wrong lease."""
        if lease_seconds is not None:
            check_range("lease_seconds", lease_seconds)
        self._outbox = Outbox(run)
        self._name = name
        self._lease_seconds = lease_seconds
        self._lock = threading.RLock()  # the collector may end a call inside of another one
        self._open: set[Hashable] = set()
        self._holder: Hashable = None
        self._outcome: Waiting | None = None

    @classmethod
    def of(cls, run: "TakesEvents | RunEvents", lease_seconds: int | None = None) -> "RunEvents":
        """Return what was given, or the events of an appender."""
        return run if isinstance(run, RunEvents) else cls(run, lease_seconds=lease_seconds)

    @property
    def dropped(self) -> int:
        """How many events did not reach the appender."""
        return self._outbox.dropped

    def begin(self, call: Hashable, data: Any = None, *, may_hold_others: bool = True) -> None:
        """Note that an outermost call begins. `data` is that of `lifecycle.started`.

        `may_hold_others` is whether the calls after it may be inside it.
        """
        started = Waiting.of("lifecycle", "started", data, lease_seconds=self._lease_seconds)
        with self._lock:
            is_first = not self._open
            self._open.add(call)
            if is_first:
                self._holder, self._outcome = call if may_hold_others else None, None
                self._outbox.put(started)

    def emit(self, category: str, action: str, data: Any = None, source: Any = None) -> None:
        """Have an event appended, if the run has begun and not ended."""
        event = Waiting.of(category, action, data, source)
        with self._lock:
            if self._open:
                self._outbox.put(event)

    def end(self, call: Hashable, action: str, data: Any = None) -> None:
        """Note that an outermost call has `completed`, `failed` or was `cancelled`."""
        ended = Waiting.of("lifecycle", action, data)
        with self._lock:
            if call not in self._open:
                return
            self._open.discard(call)
            is_whole = call == self._holder and not self._open
            worst = self._outcome
            if is_whole or worst is None or _SEVERITY[action] > _SEVERITY[worst.action]:
                self._outcome = worst = ended
            if not self._open:
                self._outbox.put(worst)

    def fail(self, call: Hashable, error: BaseException) -> None:
        """Note that an outermost call has raised an error, or was interrupted."""
        self.end(call, *outcome_of(error))

    def __enter__(self) -> Self:
        self.begin(self, None if self._name is None else {"name": self._name})
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._lock:
            left, self._open = self._open - {self}, self._open & {self}
            if left and error is None:
                self.end(self, "cancelled", {"reason": "a call was left half-way"})
            else:
                self.end(self, *outcome_of(error))


def outcome_of(error: BaseException | None) -> tuple[str, Any]:
    """Return the lifecycle action with which an error ends a run, and its data.

    What is no `Exception` interrupts a run from outside: a cancellation, Ctrl-C, or a stream whose
    reader has left it.
    """
    if error is None:
        return "completed", None
    if isinstance(error, Exception) and not isinstance(error, concurrent.futures.CancelledError):
        return "failed", {"error": text_of_error(error)}
    return "cancelled", {"reason": text_of_error(error)}
