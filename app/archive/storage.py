"""Storage: where the objects of an archive are kept, and which one a URL names."""

import importlib
import importlib.util
from collections.abc import Iterator
from typing import NamedTuple, Protocol
from urllib.parse import unquote, urlsplit

from ..streaming.errors import InvalidInput

FILE = "file"
OBJECT_STORES = ("s3", "gs", "az")


# Changes when an object is replaced: its ETag, and a generation where the storage goes by that.
ObjectVersion = tuple[str | None, str | None]


class Stored(NamedTuple):
    """An object: its bytes and its version."""

    data: bytes
    version: ObjectVersion


class Storage(Protocol):
    """Keeps objects, each whole or not at all. Names are paths with `/`.

    Every method raises ArchiveUnavailable if the storage cannot serve.
    """

    def get(self, name: str) -> Stored | None:
        """Return an object, None if there is none with this name."""

    def put(self, name: str, data: bytes) -> None:
        """Store an object, in place of any other one with this name."""

    def replace(self, name: str, data: bytes, version: ObjectVersion | None) -> bool:
        """Store an object only if the one with this name has a version; None: if there is none.

        Returns whether it was stored. If a reply was lost, that may be False all the same.
        """

    def names(self, folder: str) -> Iterator[str]:
        """Yield the names of all objects in a folder and in its folders."""

    def folders(self, folder: str) -> list[str]:
        """Return the names of the folders in a folder, without a path; `` is the top."""

    def delete(self, name: str) -> None:
        """Delete an object, if there is one with this name."""


def check_url(url: str) -> None:
    """Raise InvalidInput unless a URL names a storage that can be used here."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InvalidInput("ARCHIVE_URL", str(error)) from None
    if parts.scheme not in (FILE, *OBJECT_STORES):
        raise InvalidInput("ARCHIVE_URL", "it must begin with file:///, s3://, gs:// or az://")
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise InvalidInput("ARCHIVE_URL", "it holds no keys, ? or #; see docs/archive.md")
    if parts.scheme == FILE:
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise InvalidInput("ARCHIVE_URL", "behind file:// must stand a path from / on")
        return
    if not parts.netloc:
        raise InvalidInput("ARCHIVE_URL", f"behind {parts.scheme}:// must stand a bucket")
    if importlib.util.find_spec("obstore") is None:
        raise InvalidInput(
            "ARCHIVE_URL",
            f"{parts.scheme}:// needs the package obstore; install Tailrace with [archive]",
        )


def storage_of(url: str) -> Storage:
    """Return the storage that a URL names; connects nowhere. Raises InvalidInput."""
    check_url(url)
    parts = urlsplit(url)
    # obstore is an extra, and takes time to load.
    name = "file_storage" if parts.scheme == FILE else "object_storage"
    module = importlib.import_module(f".{name}", __package__)
    storage: Storage = module.open_storage(unquote(parts.path) if parts.scheme == FILE else url)
    return storage
