"""The identity: who a request comes from, and what that bearer may do."""

from dataclasses import dataclass

from ..streaming.errors import StoreUnavailable
from .grants import Grants
from .key import Key

# Of a subject, and of a token's id.
MAX_NAME_LENGTH = 256

# In seconds; NaN and Infinity, which Python's JSON has, are not below it.
MAX_TIME = 1e12


class RevocationsNotKnown(StoreUnavailable):
    """Redis has not told yet which tokens are revoked, so none is accepted."""


class KeysNotKnown(Exception):
    """Nobody can say yet whether a token is good: the key that it names may still come."""


class NotAccepted(Exception):
    """A token or key is not accepted. The message says why, and holds no part of it."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The bearer of a token or an API key.

    Attributes:
        account: whose the limits are that count: all tokens of one `sub` have the same, and a
            token without one has its own.
        grants: what the bearer may do.
        subject: the token's `sub`.
        expires_at: the Unix time at which the token expires; None for an API key.
        token_id: the token's `jti`.
        issued_at: the Unix time of the token's `iat`.
        key: the key that has verified the token.
    """

    account: str
    grants: Grants
    subject: str | None = None
    expires_at: float | None = None
    token_id: str | None = None
    issued_at: float | None = None
    key: Key | None = None
