"""Storage in a directory. What was stored is on the disk, whole, when a method has returned."""

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from ..streaming.errors import ArchiveUnavailable
from .storage import ObjectVersion, Stored

# Each folder has a file that is locked while something is written there, and one that is written
# before it gets its name. A process that was killed leaves both.
_LOCK, _UNFINISHED = ".lock", ".unfinished"

# A process that is stopped while it writes keeps its lock.
MAX_LOCK_SECONDS = 5.0
_LOOK_SECONDS = 0.01


class FileStorage:
    """Keeps objects as files below a directory, which is made when it is needed."""

    def __init__(self, directory: Path):
        self._directory = directory

    def get(self, name: str) -> Stored | None:
        """Return a file."""
        with _translated(name):
            try:
                data = self._path(name).read_bytes()
            except FileNotFoundError:
                return None
            return Stored(data, _version_of(data))

    def put(self, name: str, data: bytes) -> None:
        """Write a file."""
        with _translated(name), self._locked(name) as path:
            _write(path, data)

    def replace(self, name: str, data: bytes, version: ObjectVersion | None) -> bool:
        """Write a file if the one that is there has the version."""
        with _translated(name), self._locked(name) as path:
            try:
                found: ObjectVersion | None = _version_of(path.read_bytes())
            except FileNotFoundError:
                found = None
            if found != version:
                return False
            _write(path, data)
            return True

    def names(self, folder: str) -> Iterator[str]:
        """Yield the names of the files."""
        with _translated(folder):
            for parent, _, files in os.walk(self._path(folder)):
                where = Path(parent).relative_to(self._directory)
                yield from (str(where / file) for file in files if not file.startswith("."))

    def folders(self, folder: str) -> list[str]:
        """Return the names of the directories."""
        with _translated(folder), contextlib.suppress(FileNotFoundError):
            return [each.name for each in os.scandir(self._path(folder)) if each.is_dir()]
        return []

    def delete(self, name: str) -> None:
        """Delete a file."""
        with _translated(name):
            self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._directory / name

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[Path]:
        """Make the folder of a file, and let no other process write there meanwhile."""
        path = self._path(name)
        _make_folder(path.parent)
        lock = os.open(path.parent / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            _lock(lock, name)
            yield path
        finally:
            os.close(lock)


def open_storage(path: str) -> FileStorage:
    """Return the storage in a directory."""
    return FileStorage(Path(path))


def _version_of(data: bytes) -> ObjectVersion:
    return hashlib.sha256(data).hexdigest(), None


def _lock(descriptor: int, name: str) -> None:
    until = time.monotonic() + MAX_LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > until:
                raise ArchiveUnavailable(f"{name}: another process has it locked") from None
        time.sleep(_LOOK_SECONDS)


def _write(path: Path, data: bytes) -> None:
    unfinished = path.parent / _UNFINISHED
    with unfinished.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    _sync_folder(path.parent)


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it, so that they outlive a loss of power."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _translated(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise ArchiveUnavailable(f"the archive cannot serve {name}: {reason}") from error
