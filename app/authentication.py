"""The keys that the settings name: of tokens, and of those who have none."""

from collections.abc import Callable, Sequence

from .auth.api_keys import ApiKeysError, read_api_keys
from .auth.identity import Identity
from .auth.jwks import RemoteKeys
from .auth.keys import Key, KeyFileError, keys_of_file, secret_keys
from .settings import Settings, SettingsError

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
            try:
                self._remote = RemoteKeys(settings.auth_jwks_url, on_change=self._replace)
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
