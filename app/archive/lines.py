"""A line of an archive: an event as `GET /runs/{id}/events` gives it, and what its entry has more.

A line may have two members that the API does not give: `lease_seconds`, and `stored`. The second
one is there if the entry could not be made again from the rest: another program wrote it, or its
JSON is broken, or has characters that the API escapes. It holds the names and values of the
entry's fields in turn, in Base64.
"""

import re
from base64 import b64encode
from dataclasses import replace

import msgspec
import orjson

from ..streaming.errors import InvalidEvent
from ..streaming.event import Event, pairs
from ..streaming.event_json import MAX_DEPTH, check_depth
from ..streaming.log.replies import parse_event
from ..streaming.redis.connection import Reply

_LEASE = re.compile(rb"[1-9][0-9]{0,11}")


class _Names(msgspec.Struct):
    category: str | None
    action: str | None


class Line(msgspec.Struct):
    """A line, parsed as far as needed: the JSON of the data and the source stays as it is."""

    id: str
    sequence: int | None
    timestamp: str | None
    event: _Names
    data: msgspec.Raw
    source: msgspec.Raw
    lease_seconds: int | None = None
    stored: list[bytes] | None = None
    traceparent: str | None = None

    def to_event(self, run_id: str) -> Event:
        """Return the event of the line."""
        return Event(
            id=self.id,
            run_id=run_id,
            sequence=self.sequence,
            timestamp=self.timestamp,
            category=self.event.category,
            action=self.event.action,
            data_json=bytes(self.data),
            source_json=bytes(self.source),
            traceparent=self.traceparent,
        )

    def to_entry(self, epoch: bytes) -> Reply:
        """Return the entry as Redis replies it, of the log with this epoch."""
        if self.stored is not None:
            return [self.id.encode(), self.stored]
        fields = [
            *(b"timestamp", (self.timestamp or "").encode()),
            *(b"sequence", b"%d" % (self.sequence or 0)),
            *(b"epoch", epoch),
            *(b"event_category", (self.event.category or "").encode()),
            *(b"event_action", (self.event.action or "").encode()),
            *(b"data", bytes(self.data)),
        ]
        source = bytes(self.source)
        if source != b"null":
            fields += (b"source", source)
        if self.lease_seconds is not None:
            fields += (b"lease_seconds", b"%d" % self.lease_seconds)
        if self.traceparent is not None:
            fields += (b"traceparent", self.traceparent.encode())
        return [self.id.encode(), fields]


_decode = msgspec.json.Decoder(Line).decode


def parse_line(line: bytes) -> Line:
    """Parse a line. Raises ValueError."""
    try:
        return _decode(line)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(str(error)) from None


def line_of(run_id: str, entry: Reply, epoch: bytes) -> bytes:
    """Return the line of an entry of the log with this epoch, without a line break."""
    event = parse_event(run_id, entry)
    lease = pairs(entry[1]).get(b"lease_seconds", b"")
    line = event.to_json()
    if _LEASE.fullmatch(lease):
        line = b'%b,"lease_seconds":%b}' % (line[:-1], lease)
    is_flat = _is_flat(event)
    if is_flat and parse_line(line).to_entry(epoch) == entry:
        return line
    if not is_flat:  # else no reader could parse the line
        line = replace(event, data_json=b"null", source_json=b"null").to_json()
    stored = orjson.dumps([b64encode(part).decode() for part in entry[1]])
    return b'%b,"stored":%b}' % (line[:-1], stored)


def _is_flat(event: Event) -> bool:
    """Return whether the JSON of an event is not nested deeper than Tailrace allows."""
    for text in (event.data_json, event.source_json):
        if text.count(b"[") + text.count(b"{") > MAX_DEPTH:
            try:
                check_depth("data", orjson.loads(text))
            except InvalidEvent:
                return False
    return True
