"""The calls of models and tools inside one another, as events of a run."""

from collections.abc import Hashable
from typing import Any, NamedTuple

from .plain import text_of_error
from .run_events import RunEvents, outcome_of

# What has no events of its own, and only holds other calls.
CHAIN = "chain"


class Call(NamedTuple):
    """A call that goes on. `data` begins that of each of its events."""

    kind: str
    outermost: Hashable
    data: dict[str, Any]
    source: dict[str, Any]


class CallTree:
    """Knows which calls go on. A call whose parent is unknown is an outermost one."""

    def __init__(self, events: RunEvents):
        self._events = events
        self._calls: dict[Hashable, Call] = {}
        self._streamed: dict[Hashable, str] = {}

    def begin(
        self,
        key: Hashable,
        parent: Hashable,
        kind: str,
        name: str,
        given: Any,
        *,
        call_id: str,
        source: dict[str, Any],
    ) -> None:
        """Note that a call begins; `given` is what it was called with."""
        above = self._calls.get(parent)
        outermost = key if above is None else above.outermost
        data = {"call_id": call_id, "tool" if kind == "tool" else "name": name}
        self._calls[key] = Call(kind, outermost, data, source)
        if above is None:
            started = {"name": name} if given is None else {"name": name, "input": given}
            self._events.begin(key, started, may_hold_others=False)
        if kind == "tool":
            self._events.emit(kind, "called", {**data, "arguments": given}, source)
        elif kind != CHAIN:
            self._events.emit(kind, "called", data, source)

    def add_text(self, key: Hashable, category: str, text: str, way: str) -> None:
        """Have a piece of a model's text appended.

        The same text may come in two ways. Only the way of the first piece counts.
        """
        call = self._calls.get(key)
        if call is not None and self._streamed.setdefault(key, way) == way:
            self._events.emit(category, "stream", {"content": text}, call.source)

    def has_streamed(self, key: Hashable) -> bool:
        """Return whether a model's text came in pieces."""
        return key in self._streamed

    def end(self, key: Hashable, action: str, more: dict[str, Any], output: Any) -> None:
        """Note that a call has ended. `output` is what the run has led to, if it is outermost."""
        call = self._take(key)
        if call is None:
            return
        if call.kind != CHAIN:
            self._events.emit(call.kind, action, {**call.data, **more}, call.source)
        if call.outermost != key:
            return
        # A chain whose stream is closed says that it has ended, and then closes what is inside.
        if self._forget_inside(key):
            self._events.end(key, "cancelled", {"reason": "the stream was closed"})
        else:
            self._events.end(key, "completed", {"output": output})

    def fail(self, key: Hashable, error: BaseException, *, is_pause: bool = False) -> None:
        """Note that a call was ended by an error, which may only pause it."""
        call = self._take(key)
        if call is None:
            return
        if call.kind != CHAIN:
            is_stopped = is_pause or outcome_of(error)[0] == "cancelled"
            action, member = ("stopped", "reason") if is_stopped else ("failed", "error")
            data = {**call.data, member: text_of_error(error)}
            self._events.emit(call.kind, action, data, call.source)
        if call.outermost == key:
            self._forget_inside(key)
            self._events.fail(key, error)

    def _take(self, key: Hashable) -> Call | None:
        self._streamed.pop(key, None)
        return self._calls.pop(key, None)

    def _forget_inside(self, outermost: Hashable) -> bool:
        """Forget the calls inside one that has ended, and return whether there were any."""
        inside = [each for each, call in [*self._calls.items()] if call.outermost == outermost]
        for each in inside:
            self._take(each)
        return bool(inside)
