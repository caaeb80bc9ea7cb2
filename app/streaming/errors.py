"""What can go wrong between a caller and a run's log, one type per failure to act on."""


class StreamingError(Exception):
    """The base of every error that leaves the streaming package."""


class InvalidInput(StreamingError, ValueError):
    """What the caller gave is not of the form it must have; `field` names it."""

    def __init__(self, field: str, message: str):
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


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
    was sent, and its answer was lost.
    """

    def __init__(self, message: str, stored: bool | None = False):
        super().__init__(message)
        self.stored = stored


class ServerTooOld(StoreUnavailable):
    """The server is older than Redis 7.0 and cannot number events."""
