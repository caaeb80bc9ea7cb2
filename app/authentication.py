"""The keys that the settings name, and the authenticator that they make.

Loaded by name, and only if a setting asks for it: the libraries that verify tokens, and fetch
their keys, take a fifth of the time in which a gateway loads, and 14 MB of each worker.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from .auth.api_keys import ApiKeysError, read_api_keys
from .auth.authenticator import Authenticator
from .auth.identity import Identity
from .auth.key import Key
from .auth.keys import KeyFileError, keys_of_file, secret_keys
from .auth.revocation_log import RevocationLog
from .auth.tokens import TokenVerifier
from .settings import Settings, SettingsError
from .streaming.redis.server import Server

if TYPE_CHECKING:
    from .auth.jwks import RemoteKeys

# The first requests of a worker wait so long for the issuer's keys.
FIRST_KEYS_SECONDS = 3.0


class Keys:
    """All keys with which tokens may be signed."""

    def __init__(self, settings: Settings, changed: Callable[[], None]) -> None:
        """Raises SettingsError. `changed` is called after the issuer has changed its keys."""
        try:
            self._fixed = secret_keys(settings.auth_secret)
        except ValueError as error:
            raise SettingsError(f"AUTH_SECRET: {error}") from None
        if settings.auth_public_keys:
            try:
                self._fixed += keys_of_file(settings.auth_public_keys)
            except KeyFileError as error:
                raise SettingsError(f"AUTH_PUBLIC_KEYS: {error}") from None
        self._remote: RemoteKeys | None = None
        if settings.auth_jwks_url:
            # By name: nobody else pays for a client of HTTP.
            jwks = import_module(".auth.jwks", __package__)
            try:
                self._remote = jwks.RemoteKeys(settings.auth_jwks_url, on_change=self._replace)
            except ValueError as error:
                raise SettingsError(f"AUTH_JWKS_URL: {error}") from None
        self._changed = changed
        self._all: Sequence[Key] = tuple(self._fixed)

    def __call__(self) -> Sequence[Key]:
        """Return the keys of the moment, the same object until they change."""
        if self._remote is not None:
            self._remote.ensure_started()
            self._remote.wait_first(FIRST_KEYS_SECONDS)
        return self._all

    def expect(self, key_id: str | None) -> bool:
        """Return whether a key that a token names may come from the issuer; ask for it."""
        return self._remote is not None and self._remote.expect(key_id)

    def _replace(self, new: Sequence[Key]) -> None:
        self._all = (*self._fixed, *new)
        self._changed()


def api_keys_of(settings: Settings) -> dict[bytes, Identity]:
    """Return the identities of the file of API keys. Raises SettingsError."""
    if not settings.api_keys_file:
        return {}
    try:
        return read_api_keys(settings.api_keys_file)
    except ApiKeysError as error:
        raise SettingsError(f"API_KEYS_FILE: {error}") from None


def check_keys(settings: Settings) -> None:
    """Read all keys that are on this machine. Raises SettingsError."""
    api_keys_of(settings)
    Keys(settings, lambda: None)


def make_authenticator(
    settings: Settings, engine: Server, end_streams: Callable[[Callable[[Identity], bool]], None]
) -> Authenticator:
    """Make the authenticator. Raises SettingsError.

    `end_streams` is called with a function that says who is refused from now on.
    """

    def end_refused() -> None:
        end_streams(authenticator.refuses)

    def keys_changed() -> None:
        verifier.forget_all()
        end_refused()

    keys = Keys(settings, keys_changed)
    verifier = TokenVerifier(
        keys,
        claim=settings.auth_claim,
        audience=settings.auth_audience,
        issuer=settings.auth_issuer,
        expect=keys.expect,
    )
    revocation_log = RevocationLog(engine, end_refused)
    api_keys = api_keys_of(settings)
    authenticator = Authenticator(api_keys, verifier, revocation_log, settings.max_auth_failures)
    return authenticator
