"""The authenticator: from the text that a request brings to the identity of its bearer."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from .api_keys import digest_of
from .identity import Identity, NotAccepted
from .limits import Rate
from .revocation_log import RevocationLog

if TYPE_CHECKING:
    from .tokens import TokenVerifier

# A minute's failures of one address may come at once.
SECONDS_OF_FAILURES = 60


class TooManyFailures(Exception):
    """An address has brought too many tokens or keys that were not accepted."""

    def __init__(self, retry_after: float) -> None:
        super().__init__("too many tokens or keys of this address were not accepted")
        self.retry_after = retry_after


class Authenticator:
    """Accepts API keys, and tokens that were not revoked."""

    def __init__(
        self,
        api_keys: Mapping[bytes, Identity],
        verifier: "TokenVerifier",
        revocation_log: RevocationLog,
        max_failures_per_minute: int,
    ) -> None:
        self._api_keys = api_keys
        self._verifier = verifier
        self.revocation_log = revocation_log
        per_second = max_failures_per_minute / SECONDS_OF_FAILURES
        self._failures = Rate(per_second, max_failures_per_minute)

    def identify(self, credential: str, address: str) -> Identity:
        """Return the identity of a token or an API key.

        Each failure counts for its address. What is good is accepted however often others fail.
        Raises NotAccepted, TooManyFailures and KeysNotKnown, and StoreUnavailable until the
        revocations were read.
        """
        digest = digest_of(credential)
        identity = self._find(digest)
        if identity is None:
            try:
                identity = self._verifier.verify(credential, digest)
            except NotAccepted:
                wait = self._failures.seconds_until(address, 1)
                if wait > 0:
                    raise TooManyFailures(wait) from None
                self._failures.take(address, 1)
                raise
        if identity.expires_at is not None:
            self.revocation_log.wait_until_read()
            self.check(identity)
        return identity

    def remembered(self, credential: str) -> Identity | None:
        """Return the identity of a token or a key that was accepted before, if it still is.

        Waits for nothing, and counts no failure: `identify` does.
        """
        identity = self._find(digest_of(credential))
        if identity is None or identity.expires_at is None:
            return identity
        is_good = self.revocation_log.is_read and not self.refuses(identity)
        return identity if is_good else None

    def check(self, identity: Identity) -> None:
        """Raise NotAccepted if a token that was accepted has expired or was revoked since.

        So does one whose key was dropped. An API key is good until the next reload.
        """
        if identity.expires_at is None:
            return
        if identity.expires_at <= time.time():
            raise NotAccepted("the token has expired")
        if self.revocation_log.revocations.include(identity):
            raise NotAccepted("the token was revoked")
        if not self._verifier.knows(identity.key):
            raise NotAccepted("the token's signature is not that of a known key")

    def refuses(self, identity: Identity) -> bool:
        """Return whether `check` raises."""
        try:
            self.check(identity)
        except NotAccepted:
            return True
        return False

    def _find(self, digest: bytes) -> Identity | None:
        return self._api_keys.get(digest) or self._verifier.remembered(digest)
