"""Tokens: JSON Web Tokens (RFC 7519), verified as RFC 8725 says, and remembered."""

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import jwt

from .grants import parse_claim
from .identity import MAX_NAME_LENGTH, MAX_TIME, Identity, KeysNotKnown, NotAccepted
from .key import Key

# RFC 7519 sets no limit. gunicorn's for a header is a little less.
MAX_TOKEN_BYTES = 8192

# A token without a key id may be tried with so many keys.
MAX_TRIED_KEYS = 10

# An issuer's clock may be ahead by so much. No token is accepted later than its `exp` says.
MAX_CLOCK_SKEW_SECONDS = 60

# What the remembered tokens may take: about 10,000 with two patterns each.
MAX_REMEMBERED_BYTES = 9_500_000
# What a token takes beside its texts, and a text beside its characters.
TOKEN_BYTES, TEXT_BYTES = 650, 60

_ALGORITHMS = ("HS256", "RS256", "ES256", "EdDSA")
_OPTIONS: Any = {
    "require": ["exp"],
    "verify_exp": False,  # these are checked here, with their types
    "verify_nbf": False,
    "verify_iat": False,
    "verify_aud": False,
    "verify_iss": False,
    "verify_sub": False,
    "verify_jti": False,
}


class TokenVerifier:
    """Verifies tokens with the keys that `keys` returns at the moment."""

    def __init__(
        self,
        keys: Callable[[], Sequence[Key]],
        *,
        claim: str,
        audience: str,
        issuer: str | None = None,
        expect: Callable[[str | None], bool] = lambda key_id: False,
    ) -> None:
        """`expect` says of a key id that no key has whether such a key may still come."""
        self._keys = keys
        self._claim = claim
        self._audience = audience
        self._issuer = issuer
        self._expect = expect
        self._known: OrderedDict[bytes, Identity] = OrderedDict()
        self._known_bytes = 0
        self._lock = threading.Lock()

    def remembered(self, digest: bytes) -> Identity | None:
        """Return the identity of a token that was verified before, by its digest."""
        identity = self._known.get(digest)
        if identity is None or time.time() < (identity.expires_at or 0):
            return identity
        with self._lock:
            self._forget(self._known.pop(digest, None))
        return None

    def knows(self, key: Key | None) -> bool:
        """Return whether a key is still one with which tokens are verified."""
        return key in self._keys()

    def forget_all(self) -> None:
        """Verify every token anew: the keys have changed."""
        with self._lock:
            self._known.clear()
            self._known_bytes = 0

    def verify(self, token: str, digest: bytes) -> Identity:
        """Return the identity of a token, and remember it. Raises NotAccepted and KeysNotKnown."""
        if len(token) > MAX_TOKEN_BYTES or not token.isascii():
            raise NotAccepted("the token is malformed")
        keys = self._keys()
        identity = self._identity(*self._decode(token, keys), digest)
        with self._lock:
            if keys is self._keys() and digest not in self._known:
                self._known[digest] = identity
                self._known_bytes += _bytes_of(identity)
                while self._known_bytes > MAX_REMEMBERED_BYTES:
                    self._forget(self._known.popitem(last=False)[1])
        return identity

    def _forget(self, identity: Identity | None) -> None:
        if identity is not None:
            self._known_bytes -= _bytes_of(identity)

    def _decode(self, token: str, keys: Sequence[Key]) -> tuple[dict[str, Any], Key]:
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise NotAccepted("the token is malformed") from None
        algorithm, key_id = header.get("alg"), header.get("kid")
        if algorithm not in _ALGORITHMS or "crit" in header:
            raise NotAccepted("the token's algorithm or critical headers are not supported")
        usable = [
            key
            for key in keys
            if algorithm in key.algorithms and (key_id is None or key.id in (None, key_id))
        ]
        for key in usable[:MAX_TRIED_KEYS]:
            try:
                return jwt.decode(token, key.key, [algorithm], _OPTIONS), key
            except jwt.InvalidSignatureError:
                continue
            except (jwt.PyJWTError, ValueError, RecursionError):
                raise NotAccepted("the token is malformed") from None
        # PyJWT has seen that a key id is a text.
        is_named = key_id is not None and any(key.id == key_id for key in keys)
        if not is_named and self._expect(key_id):
            raise KeysNotKnown("the issuer's keys could not be read yet")
        raise NotAccepted("the token's signature is not that of a known key")

    def _identity(self, payload: dict[str, Any], key: Key, digest: bytes) -> Identity:
        now = time.time()
        expires_at = _number(payload, "exp")
        if expires_at is None or expires_at <= now:
            raise NotAccepted("the token has expired")
        not_before = _number(payload, "nbf")
        if not_before is not None and not_before > now + MAX_CLOCK_SKEW_SECONDS:
            raise NotAccepted("the token is not valid yet")
        if self._issuer is not None and payload.get("iss") != self._issuer:
            raise NotAccepted("the token is of another issuer")
        audience = payload.get("aud")
        if self._audience not in (audience if isinstance(audience, list) else [audience]):
            raise NotAccepted("the token is for another audience")
        try:
            grants = parse_claim(payload.get(self._claim))
        except ValueError as error:
            raise NotAccepted(f"the claim {self._claim}: {error}") from None
        subject, token_id = _name(payload, "sub"), _name(payload, "jti")
        issued_at = _number(payload, "iat")
        if issued_at is not None and issued_at > now + MAX_CLOCK_SKEW_SECONDS:
            raise NotAccepted("the token was issued in the future")
        return Identity(
            account=f"sub:{subject}" if subject else f"token:{token_id or digest.hex()}",
            grants=grants,
            subject=subject,
            expires_at=expires_at,
            token_id=token_id,
            issued_at=issued_at,
            key=key,
        )


def _bytes_of(identity: Identity) -> int:
    """Return about how many bytes an identity takes."""
    texts = [identity.account, identity.subject or "", identity.token_id or ""]
    texts += identity.grants.texts()
    return TOKEN_BYTES + sum(TEXT_BYTES + len(text) for text in texts)


def _number(payload: dict[str, Any], name: str) -> float | None:
    """Return a NumericDate (RFC 7519, section 2), or None. Raises NotAccepted."""
    value = payload.get(name)
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not -MAX_TIME < value < MAX_TIME:
        raise NotAccepted(f"the token's {name} is not a time")
    return float(value)


def _name(payload: dict[str, Any], name: str) -> str | None:
    value = payload.get(name)
    if value is not None and not (isinstance(value, str) and len(value) <= MAX_NAME_LENGTH):
        raise NotAccepted(f"the token's {name} is not a text of up to {MAX_NAME_LENGTH} characters")
    return value


def make_token(
    secret: str, claim: str, grants: dict[str, list[str]], ttl_seconds: float, **more: str
) -> str:
    """Return a token that is signed with a secret (HS256); `more` are further claims."""
    parse_claim(grants)
    now = int(time.time())
    payload = {**more, claim: grants, "iat": now, "exp": now + math.ceil(ttl_seconds)}
    return jwt.encode(payload, secret, "HS256")
