"""What producers send and what others write: contents, their JSON, and raw entries."""

import json
from typing import Any, NamedTuple

from tests.contract.model import Content

STARTED = Content("lifecycle", "started")
COMPLETED = Content("lifecycle", "completed", {"ok": True})

# Pairs that differ in one thing only are there for the comparison of idempotency keys.
CONTENTS = [
    Content("llm", "stream", 1),
    Content("llm", "stream", 1.0),
    Content("llm", "stream", True),
    Content("llm", "stream"),
    Content("llm", "stream", None, "me"),
    Content("tool", "called", {"a": 1, "b": [None, {}]}),
    Content("tool", "called", {"b": [None, {}], "a": 1}),
    Content("tool", "answered", "a\u2028\u0085b\r\n\0 \U0001f600 <&>"),
    Content("a" * 64, "B_-9", [2**64 - 1, -(2**63), 1e308, -0.0, 0.1], {"": ["\ufeff"]}),
    Content("lifecycle", "Completed", 5),
    Content("llm", "stream", 1, traceparent=f"00-{'1' * 32}-{'2' * 16}-01"),
    Content("tool", "called", traceparent=f"00-{'1' * 32}-{'3' * 16}-ff"),
    STARTED,
]
ENDINGS = [COMPLETED, Content("lifecycle", "failed"), Content("lifecycle", "cancelled", [], 1)]


class Style(NamedTuple):
    """One of the ways to write the same event as JSON."""

    nested: bool = False
    as_read: bool = False
    spaced: bool = False
    escaped: bool = False
    explicit: bool = False


def text_of(content: Content, style: Style, lease: int | None = None) -> str:
    """Return an event as JSON."""
    document: dict[str, Any] = {}
    if style.as_read:
        document |= {"id": "1-1", "run_id": None, "sequence": 2**70, "timestamp": [{}]}
    if style.nested:
        document["event"] = {"action": content.action, "category": content.category}
    else:
        document |= {"event_category": content.category, "event_action": content.action}
    for name in ("source", "data"):
        value = getattr(content, name)
        if value is not None or style.explicit:
            document[name] = value
    if content.traceparent is not None:
        document["traceparent"] = content.traceparent
    if lease is not None or style.explicit:
        document["lease_seconds"] = lease
    separators = (" ,\t", " :\n") if style.spaced else (",", ":")
    return json.dumps(document, separators=separators, ensure_ascii=style.escaped)


class Foreign(NamedTuple):
    """The fields of an entry that another program writes, and what readers get of it."""

    fields: dict[str, str | bytes]
    category: str | None = None
    action: str | None = None
    data: Any = None
    source: Any = None
    sequence: int | None = None
    timestamp: str | None = None
    lease: int | None = None

    def __repr__(self) -> str:
        return repr(self.fields)


def _named(category: str, action: str | bytes, **fields: str | bytes) -> dict[str, str | bytes]:
    return {"event_category": category, "event_action": action, **fields}


FOREIGN = [
    Foreign({"anything": "at all"}),
    Foreign(_named("llm", "stream", data='"Hello"'), "llm", "stream", "Hello"),
    Foreign({"event_category": "llm"}, "llm"),
    Foreign({"event_action": "stream", "timestamp": "then"}, None, "stream", timestamp="then"),
    Foreign(_named("", b"\xff", data=b"\xfe"), "", "\ufffd", "\ufffd"),
    Foreign(_named("gateway", "reset", source="[1,\n2]"), "gateway", "reset", None, [1, 2]),
    Foreign(_named("a b", "c\nd", data="{bro"), "a b", "c\nd", "{bro"),
    Foreign(_named("llm", "x", sequence="7th", data="NaN"), "llm", "x", "NaN"),
    Foreign(_named("llm", "x", sequence="9" * 19, data=""), "llm", "x", ""),
    Foreign(_named("llm", "x", sequence="4000"), "llm", "x", sequence=4000),
    Foreign(_named("lifecycle", "completed"), "lifecycle", "completed"),
    Foreign(_named("lifecycle", "lost", timestamp=""), "lifecycle", "lost", timestamp=""),
    Foreign(_named("lifecycle", "started"), "lifecycle", "started"),
    Foreign(_named("llm", "x", lease_seconds="100000"), "llm", "x", lease=100_000),
    Foreign(_named("llm", "x", lease_seconds="soon"), "llm", "x"),
    Foreign(_named("llm", "x", traceparent="none"), "llm", "x"),
]

# Its lease has run out where its id is an old one.
SHORT_LEASE = Foreign(_named("job", "began", lease_seconds="1"), "job", "began", lease=1)
