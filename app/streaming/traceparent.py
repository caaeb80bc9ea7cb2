"""The trace that an event belongs to: the header `traceparent` of W3C Trace Context."""

import re

# Section 3.2 (level 2): version, trace-id, parent-id, trace-flags; a later version may have more.
_FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?\Z", re.DOTALL)
_NOTHING = re.compile(r"0+\Z")
_KNOWN_FLAGS = 0x03  # sampled, and random trace-id

# A longer header is not looked at.
MAX_LENGTH = 512


def parse_traceparent(text: str) -> bytes:
    """Return a traceparent of version 00, or nothing if the text is none.

    Of a later version, the parts are taken that version 00 has (section 4.3). What is not valid
    must be ignored (section 3.2.2), so nothing raises.
    """
    match = _FORM.match(text) if len(text) <= MAX_LENGTH else None
    if match is None:
        return b""
    version, trace_id, parent_id, flags, rest = match.groups()
    if version == "ff" or _NOTHING.match(trace_id) or _NOTHING.match(parent_id):
        return b""
    if version == "00":
        return b"" if rest is not None else text.encode()
    return f"00-{trace_id}-{parent_id}-{int(flags, 16) & _KNOWN_FLAGS:02x}".encode()


def stored_traceparent(raw: bytes | None) -> str | None:
    """Return the traceparent of a stored field, which any program may have written."""
    if raw is None:
        return None
    return parse_traceparent(raw.decode("latin-1")).decode() or None
