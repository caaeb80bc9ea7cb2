"""The identity: who a request comes from, and what that bearer may do."""

from dataclasses import dataclass

from .grants import Grants
from .keys import Key


class NotAccepted(Exception):
    """A token or key is not accepted. The message says why, and holds no part of it."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The bearer of a token or an API key.

    Attributes:
        subject: the token's `sub`, or the name of the API key; empty if a token has none.
        grants: what the bearer may do.
        expires_at: the Unix time at which the token expires; None for an API key.
        token_id: the token's `jti`.
        issued_at: the Unix time of the token's `iat`.
        key: the key that has verified the token.
    """

    subject: str
    grants: Grants
    expires_at: float | None = None
    token_id: str | None = None
    issued_at: float | None = None
    key: Key | None = None
