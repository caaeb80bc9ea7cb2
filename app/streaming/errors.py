"""The errors of the event store and of the client: one type for each failure to act on."""

import traceback
from typing import NamedTuple, Self, TypeVar

Kept = TypeVar("Kept", bound=Exception)


class Ingested(NamedTuple):
    """What was stored of a stream of events: how many, and the id and sequence of the last."""

    stored: int
    last_id: str | None
    last_sequence: int | None


class StreamingError(Exception):
    """The base of every error that the event store and the client raise.

    If the error ended a stream of events, `ingested` is what was stored before it, or None if
    nobody knows. `request_id` is that of the refused request, as in the gateway's log.
    """

    ingested: Ingested | None = None
    request_id: str | None = None


class InvalidInput(StreamingError, ValueError):
    """An argument is wrong; `field` names it and `message` says what is allowed."""

    def __init__(self, field: str, message: str):
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message

    def of_item(self, index: int) -> Self:
        """Return the same error for one event of several: its field is `<index>.<field>`."""
        return type(self)(f"{index}.{self.field}", self.message)


class InvalidEvent(InvalidInput):
    """An event cannot be stored: a name is not allowed, or JSON cannot carry its data."""


class EventTooLarge(InvalidInput):
    """An event has more bytes than allowed; `field` is its larger part."""


class RunEnded(StreamingError):
    """An append was refused because the last entry of the run is a terminal event."""


class KeyReused(StreamingError):
    """An idempotency key was used before, for another event."""


class UnexpectedSequence(StreamingError):
    """An append was refused because its event would not get the expected sequence.

    `last_sequence` is the last sequence of the run.
    """

    def __init__(self, last_sequence: int):
        super().__init__(f"the last sequence of the run is {last_sequence}")
        self.last_sequence = last_sequence


class NotALog(StreamingError):
    """A key of the run in Redis holds something else, such as a string instead of a stream."""


class LogFull(StreamingError):
    """The log takes no more events: ids or sequences after its last ones would not be exact.

    Only ids and counts that other programs have set are so large. Nothing was appended.
    """


class StoreUnavailable(StreamingError):
    """Redis or the gateway did not respond, or responded that it cannot serve.

    `stored` is False if nothing was appended. It is None if nobody knows: the command was sent
    and its reply was lost. `retry_after` is how many seconds the gateway asks to wait.
    """

    def __init__(self, message: str, stored: bool | None = False, retry_after: float = 0.0):
        super().__init__(message)
        self.stored = stored
        self.retry_after = retry_after


class TimedOut(StoreUnavailable):
    """Redis did not respond in time."""


class UnsupportedServer(StoreUnavailable):
    """The server is too old, not what the URL says, or forbids this user what Tailrace needs."""


class NotReplicated(StoreUnavailable):
    """Fewer replicas than `ack_replicas` have acknowledged what was written."""

    def __init__(self, message: str, stored: bool | None = None, retry_after: float = 0.0):
        super().__init__(message, stored, retry_after)


class ArchiveUnavailable(StoreUnavailable):
    """The storage of the archive did not respond, or responded that it cannot serve."""


class DamagedArchive(StreamingError):
    """An object of the archive is missing, or is not what was written; `name` is its name."""

    def __init__(self, name: str, reason: str):
        super().__init__(f"the archive is damaged: {name}: {reason}")
        self.name = name
        self.reason = reason


class ReadOnlyServer(StoreUnavailable):
    """The server is a replica, which accepts writes only after it was promoted."""


class ReentrantCall(StreamingError):
    """A signal handler made a call while its own thread was already inside one.

    Only `Appender.emit` may be called then.
    """

    def __init__(self) -> None:
        super().__init__(
            "this thread is already inside a call: in a signal handler, only emit() of an "
            "appender may be called"
        )


class AppenderFull(StreamingError):
    """An appender takes no more events now: 10,000 events or 8 MiB wait to be sent."""

    def __init__(self) -> None:
        super().__init__("the appender is full: too many of its events wait to be sent")


class NotAllowed(StreamingError):
    """The gateway, or a proxy before it, accepts no token or forbids what was asked.

    `status` is 401 if the token is missing or not accepted, and 403 if it does not permit the
    request. `detail` is the reason.
    """

    def __init__(self, status: int, detail: str):
        super().__init__(f"{status}: {detail}")
        self.status = status
        self.detail = detail


class Refused(StreamingError):
    """The gateway refused a request, for a reason that has no other type here.

    `status` is the HTTP status and `detail` the reason. `errors` says what is wrong with each
    field, as mappings with `field` and `detail`.
    """

    def __init__(self, status: int, detail: str, errors: list[dict[str, str]] | None = None):
        super().__init__(f"{status}: {detail}")
        self.status = status
        self.detail = detail
        self.errors = errors or []


def without_variables(error: Kept) -> Kept:
    """Free what the frames hold that an error and its causes have passed, to keep the error."""
    left: list[BaseException | None] = [error]
    seen: set[int] = set()
    while left:
        each = left.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            traceback.clear_frames(each.__traceback__)
            left += (each.__cause__, each.__context__)
    return error


def copy_of(error: Kept) -> Kept:
    """Return a copy of a kept error, to raise in its place; the kept one is its cause.

    Each raise of an object lengthens its traceback, which holds all that its frames hold.
    """
    copy = type(error).__new__(type(error), *error.args)
    copy.__dict__.update(error.__dict__)
    copy.__cause__ = error
    return copy
