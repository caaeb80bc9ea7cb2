"""What can go wrong between a caller and a run's log, one type per failure to act on."""

from typing import Any, Self


class StreamingError(Exception):
    """The base of every error that leaves the streaming package.

    Where it broke a stream of events off, `ingested` tells what of them was stored before.
    """

    ingested: Any = None


class InvalidInput(StreamingError, ValueError):
    """What the caller gave is not of the form it must have; `field` names it."""

    def __init__(self, field: str, message: str):
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message

    def of_item(self, index: int) -> Self:
        """The same of one among several, whose field is named `<index>.<field>`."""
        return type(self)(f"{index}.{self.field}", self.message)


class InvalidEvent(InvalidInput):
    """An event that cannot be stored: a bad name, or data that JSON cannot carry."""


class EventTooLarge(InvalidInput):
    """An event over the limit of bytes; `field` is its largest part."""


class RunEnded(StreamingError):
    """An append was refused because the run's last entry is terminal."""


class KeyReused(StreamingError):
    """An idempotency key came again with another event than its first."""


class UnexpectedSequence(StreamingError):
    """The event would not get the sequence that its producer expects."""

    def __init__(self, last_sequence: int):
        super().__init__(f"the last sequence of the run is {last_sequence}")
        self.last_sequence = last_sequence


class NotALog(StreamingError):
    """The run's key in Redis holds something that is not a stream."""


class StoreUnavailable(StreamingError):
    """Redis did not answer, or answered that it cannot serve.

    `stored` is False where nothing was appended, None where that is not known: the command
    was sent, and its answer was lost. `retry_after` is for how many seconds a gateway asks to
    be left alone.
    """

    def __init__(self, message: str, stored: bool | None = False, retry_after: float = 0.0):
        super().__init__(message)
        self.stored = stored
        self.retry_after = retry_after


class ServerTooOld(StoreUnavailable):
    """The server is older than Redis 7.0 and cannot number events."""


class ReentrantCall(StreamingError):
    """A signal handler made a call while its own thread was already inside one.

    Only `Appender.emit` may be called then.
    """

    def __init__(self) -> None:
        super().__init__(
            "this thread is already inside a call: in a signal handler, only emit() of an "
            "appender may be called"
        )


class Refused(StreamingError):
    """A gateway refused a request for a reason that has no type of its own here.

    `status` is that of its answer, `detail` what it says, and `errors` names what is wrong
    field by field, as mappings with `field` and `detail`.
    """

    def __init__(self, status: int, detail: str, errors: list[dict[str, str]] | None = None):
        super().__init__(f"{status}: {detail}")
        self.status = status
        self.detail = detail
        self.errors = errors or []
