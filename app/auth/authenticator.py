"""The authenticator: from the text that a request brings to the identity of its bearer."""

from collections.abc import Mapping

from .api_keys import digest_of
from .identity import Identity, NotAccepted
from .limits import Rate
from .revocations import Revocations
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
        verifier: TokenVerifier,
        revocations: Revocations,
        max_failures_per_minute: int,
    ) -> None:
        self._api_keys = api_keys
        self._verifier = verifier
        self._revocations = revocations
        per_second = max_failures_per_minute / SECONDS_OF_FAILURES
        self._failures = Rate(per_second, max_failures_per_minute)

    def identify(self, credential: str, address: str) -> Identity:
        """Return the identity of a token or an API key.

        What was accepted before is found without a limit. Anything else counts as a failure of
        its address if it is not accepted. Raises NotAccepted and TooManyFailures.
        """
        digest = digest_of(credential)
        identity = self._api_keys.get(digest) or self._verifier.remembered(digest)
        if identity is None:
            wait = self._failures.seconds_until(address, 1)
            if wait > 0:
                raise TooManyFailures(wait)
            try:
                identity = self._verifier.verify(credential, digest)
            except NotAccepted:
                self._failures.take(address, 1)
                raise
        if self._revocations.include(identity):
            raise NotAccepted("the token was revoked")
        return identity
