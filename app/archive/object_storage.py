"""Storage in a bucket of S3, Google Cloud Storage or Azure, by obstore."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import from_url

from ..streaming.errors import ArchiveUnavailable, InvalidInput
from .storage import ObjectVersion, Stored

if TYPE_CHECKING:
    from obstore import PutMode, UpdateVersion
    from obstore.store import ClientConfig, RetryConfig

CONNECT_SECONDS = 5
REQUEST_SECONDS = 20

# An object is stored by one request, so it is whole or not there, and a repeat does no harm.
MAX_RETRIES = 2
MAX_RETRY_SECONDS = 10

_CLIENT: ClientConfig = {
    "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
    "timeout": timedelta(seconds=REQUEST_SECONDS),
}
_RETRIES: RetryConfig = {
    "max_retries": MAX_RETRIES,
    "retry_timeout": timedelta(seconds=MAX_RETRY_SECONDS),
    "backoff": {
        "init_backoff": timedelta(milliseconds=100),
        "max_backoff": timedelta(seconds=2),
        "base": 2,
    },
}


_SERVICES = ("AWS", "AZURE", "GOOGLE")


class ObjectStorage:
    """Keeps objects in a bucket, below the path of the URL.

    The calls block their thread. Keys and the address of the service come from the environment.
    """

    def __init__(self, url: str):
        try:
            # obstore reads everything else of the environment, but not this beside other options.
            is_plain = any(os.environ.get(f"{each}_ALLOW_HTTP") == "true" for each in _SERVICES)
            options: ClientConfig = {**_CLIENT, "allow_http": is_plain}
            self._store: Any = from_url(url, client_options=options, retry_config=_RETRIES)
        except (BaseError, ValueError) as error:
            raise InvalidInput("ARCHIVE_URL", _reason(error)) from None

    def get(self, name: str) -> Stored | None:
        """Return an object."""
        with _translated(name):
            try:
                result = obstore.get(self._store, name)
                return Stored(bytes(result.bytes()), (result.meta["e_tag"], result.meta["version"]))
            except FileNotFoundError:
                return None

    def put(self, name: str, data: bytes) -> None:
        """Store an object by one request."""
        with _translated(name):
            obstore.put(self._store, name, data, use_multipart=False)

    def replace(self, name: str, data: bytes, version: ObjectVersion | None) -> bool:
        """Store an object if the one that is there has the version: If-Match, If-None-Match."""
        with _translated(name):
            try:
                obstore.put(self._store, name, data, mode=_mode(version), use_multipart=False)
            except (AlreadyExistsError, PreconditionError):
                return False
            return True

    def names(self, folder: str) -> Iterator[str]:
        """Yield the names of the objects."""
        with _translated(folder):
            for objects in obstore.list(self._store, folder, chunk_size=1000):
                yield from (each["path"] for each in objects)

    def folders(self, folder: str) -> list[str]:
        """Return the names that stand between the folder and the next `/`."""
        with _translated(folder):
            found = obstore.list_with_delimiter(self._store, folder or None)
            return [each.rpartition("/")[2] for each in found["common_prefixes"]]

    def delete(self, name: str) -> None:
        """Delete an object."""
        with _translated(name), contextlib.suppress(FileNotFoundError):
            obstore.delete(self._store, name)


def open_storage(url: str) -> ObjectStorage:
    """Return the storage in a bucket. Raises InvalidInput."""
    return ObjectStorage(url)


def _mode(version: ObjectVersion | None) -> PutMode:
    if version is None:
        return "create"
    known: UpdateVersion = {}
    e_tag, generation = version
    if e_tag is not None:
        known["e_tag"] = e_tag
    if generation is not None:
        known["version"] = generation
    return known


def _reason(error: Exception) -> str:
    """Return the first line of what obstore says: the next ones are its insides."""
    return str(error).strip().partition("\n")[0]


@contextlib.contextmanager
def _translated(name: str) -> Iterator[None]:
    try:
        yield
    except (BaseError, OSError, ValueError) as error:
        raise ArchiveUnavailable(f"the archive cannot serve {name}: {_reason(error)}") from error
