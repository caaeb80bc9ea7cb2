"""Revocations: tokens that are refused though they have not expired."""

import json
import math
from typing import Any

from .identity import MAX_NAME_LENGTH, MAX_TIME, Identity


class Revocations:
    """What was revoked: single tokens by their `jti`, and all older tokens of a subject."""

    def __init__(self) -> None:
        self._token_ids: set[str] = set()
        self._before: dict[str, float] = {}

    def add(self, revocation: dict[str, Any]) -> None:
        """Take in a revocation as `parse_revocation` returns it."""
        if "jti" in revocation:
            self._token_ids.add(revocation["jti"])
        else:
            subject, before = revocation["sub"], revocation["before"]
            self._before[subject] = max(before, self._before.get(subject, -math.inf))

    def include(self, identity: Identity) -> bool:
        """Return whether a token was revoked. An API key cannot be; its file is its list."""
        if identity.expires_at is None:
            return False
        if identity.token_id in self._token_ids:
            return True
        before = self._before.get(identity.subject or "")
        # A token without `iat` may be as old as any.
        return before is not None and (identity.issued_at is None or identity.issued_at < before)


def parse_revocation(value: Any, now: float) -> dict[str, Any]:
    """Return a revocation from its JSON: `{"jti"}`, or `{"sub"}` with or without `before`.

    `before` is a Unix time, by default `now`: the tokens of the subject that were issued earlier
    are revoked. Raises ValueError, whose message names the field.
    """
    if not isinstance(value, dict) or not value.keys() <= {"jti", "sub", "before"}:
        raise ValueError("body: must be an object with jti, or with sub and before")
    if ("jti" in value) == ("sub" in value) or ("jti" in value and "before" in value):
        raise ValueError("body: must have either jti or sub; before goes with sub")
    name = "jti" if "jti" in value else "sub"
    text = value[name]
    if not isinstance(text, str) or not 0 < len(text) <= MAX_NAME_LENGTH:
        raise ValueError(f"{name}: must be a text of 1 to {MAX_NAME_LENGTH} characters")
    if name == "jti":
        return {"jti": text}
    before = value.get("before", now)
    if isinstance(before, bool) or not isinstance(before, int | float):
        raise ValueError("before: must be a Unix time in seconds")
    if not 0 <= before < MAX_TIME:
        raise ValueError("before: must be a Unix time in seconds")
    return {"sub": text, "before": before}


def read_revocation(text: bytes) -> dict[str, Any] | None:
    """Return a revocation as it is stored, or None for what another program wrote."""
    try:
        return parse_revocation(json.loads(text), math.inf)
    except (ValueError, RecursionError):
        return None
