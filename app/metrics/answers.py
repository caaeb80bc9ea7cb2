"""What is counted of each answer to a request, and of each append."""

from .catalog import APPENDED_EVENTS, APPENDS, RESPONSES, STATUSES, WAYS

_RESPONSES = {int(status): RESPONSES.of(status) for status in STATUSES if status.isdigit()}
_OTHER = RESPONSES.of("other")


class AppendCounts:
    """Counts the appends that took one way: `plain`, `view` or `lines`."""

    def __init__(self, way: str) -> None:
        self._events = APPENDED_EVENTS.of(way)
        self._stored = APPENDS.of(way, "stored")
        self._repeated = APPENDS.of(way, "repeated")
        self._refused = APPENDS.of(way, "refused")
        self._unavailable = APPENDS.of(way, "unavailable")
        self._failed = APPENDS.of(way, "failed")

    def stored(self, events: int, *, repeated: bool) -> None:
        """Count an append that was stored, or was found stored."""
        if repeated:
            self._repeated.add()
        else:
            self._stored.add()
            self._events.add(events)

    def refused(self, status: int) -> None:
        """Count one that was answered with an error status."""
        if status < 500:
            self._refused.add()
        elif status == 503:
            self._unavailable.add()
        else:
            self._failed.add()


APPEND_COUNTS = {way: AppendCounts(way) for way in WAYS}


def count_response(status: int | None) -> None:
    """Count an answer by its status."""
    _RESPONSES.get(status or 0, _OTHER).add()
