"""The archive, as readers and the archiver see it: manifests, and the entries of their parts."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

from ..streaming.errors import DamagedArchive
from ..streaming.event import timestamp_now
from ..streaming.event_id import EventId
from ..streaming.redis.connection import Reply
from .manifest import BEGUN, DELETED, Manifest, Part, parse_manifest, placeholder
from .names import MANIFEST, LogName, folder_of, is_epoch, run_id_of_folder
from .parts import PartEntries, read_part
from .storage import ObjectVersion, Storage

# How many bytes of parts that were read are kept, about.
MAX_CACHED_BYTES = 32 * 1024 * 1024
# What an entry takes in memory beside its bytes.
_ENTRY_BYTES = 50

# So many parts are read at once.
_READERS = 8

T = TypeVar("T")


class InThread(Protocol):
    """Calls a function in a thread, and returns what it returns or raises what it raises."""

    def __call__(self, function: Callable[[], T], /) -> T: ...


def call(function: Callable[[], T]) -> T:
    """Call a function here."""
    return function()


class Version(NamedTuple):
    """A manifest as it was read, and the version of its object, to replace it.

    The manifest is None if there is none, if an archiver has only begun, or if the run was deleted:
    then it must not be archived again. The version is None if there is no object.
    """

    manifest: Manifest | None
    version: ObjectVersion | None
    is_deleted: bool = False


class Archive:
    """The archive in a storage.

    Every method raises ArchiveUnavailable if the storage cannot serve, and DamagedArchive, which
    names the object, if it holds something else than was written.

    Args:
        storage: where the objects are.
        in_thread: runs what blocks. Under gevent it must use a thread of its own pool.
        max_cached_bytes: how much of the parts that were read is kept.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        in_thread: InThread = call,
        max_cached_bytes: int = MAX_CACHED_BYTES,
    ):
        self.storage = storage
        self._in_thread = in_thread
        self._cache = _Cache(max_cached_bytes)
        self._turns = [threading.Lock() for _ in range(_READERS)]

    # Reading

    def find(self, run_id: str, epoch: bytes | None = None) -> Manifest | None:
        """Return the manifest of a run's newest archived log, or of the one with an epoch.

        None if there is none, or if the run was deleted.
        """
        for each in [epoch] if epoch is not None else self.epochs(run_id):
            if (manifest := self.version(LogName(run_id, each)).manifest) is not None:
                return manifest
        return None

    def epochs(self, run_id: str) -> list[bytes]:
        """Return the epochs of a run of which there are objects, the newest first."""
        folders = self._in_thread(lambda: self.storage.folders(folder_of(run_id)))
        return sorted((each.encode() for each in folders if is_epoch(each)), key=int, reverse=True)

    def version(self, log_name: LogName) -> Version:
        """Return the manifest of a log, and what is needed to replace it."""
        return self._in_thread(lambda: self._load_version(log_name))

    def _load_version(self, log_name: LogName) -> Version:
        found = self.storage.get(log_name.manifest)
        if found is None:
            return Version(None, None)
        try:
            content = parse_manifest(found.data)
        except ValueError as error:
            raise DamagedArchive(log_name.manifest, str(error)) from None
        if isinstance(content, Manifest):
            if content.log_name != log_name:
                raise DamagedArchive(log_name.manifest, "it is the manifest of another log")
            return Version(content, found.version)
        return Version(None, found.version, content == DELETED)

    def entries(
        self,
        manifest: Manifest,
        after: EventId,
        upto: EventId,
        count: int,
        *,
        descending: bool = False,
    ) -> list[Reply]:
        """Return up to `count` raw entries of `after` < id <= `upto`, as Redis replies them.

        They are the first ones, or the last ones in reverse order if `descending`. An archiver may
        have replaced parts since the manifest was read: then the newer manifest is read.
        """
        while True:
            try:
                return self._entries(manifest, after, upto, count, descending)
            except _MissingPart as error:
                newer = self.version(manifest.log_name).manifest
                if newer is None or newer.parts == manifest.parts:
                    raise DamagedArchive(error.name, "the object is missing") from None
                manifest = newer

    def _entries(
        self, manifest: Manifest, after: EventId, upto: EventId, count: int, descending: bool
    ) -> list[Reply]:
        found: list[Reply] = []
        parts = [each for each in manifest.parts if each.last_id > after and each.first_id <= upto]
        for part in reversed(parts) if descending else parts:
            entries, left = self._read(manifest.log_name.epoch, part), count - len(found)
            try:
                first, last = entries.before(after), entries.before(upto)
                if descending:
                    found += reversed(entries.between(max(first, last - left), last))
                else:
                    found += entries.between(first, min(last, first + left))
            except ValueError as error:
                raise DamagedArchive(part.name, str(error)) from None
            if len(found) >= count:
                break
        return found

    def run_ids(self) -> Iterator[str]:
        """Yield the ids of all runs of which there are objects."""
        for folder in self._in_thread(lambda: self.storage.folders("")):
            if (run_id := run_id_of_folder(folder)) is not None:
                yield run_id

    def _read(self, epoch: bytes, part: Part) -> PartEntries:
        """Return the entries of a part. Several callers who want it read it once."""
        if (kept := self._cache.get(part.name)) is not None:
            return kept
        with self._turns[hash(part.name) % _READERS]:
            if (kept := self._cache.get(part.name)) is not None:
                return kept
            read = self._in_thread(lambda: self._load(epoch, part))
            self._cache.keep(part.name, read, part.unpacked_size + part.count * _ENTRY_BYTES)
            return read

    def _load(self, epoch: bytes, part: Part) -> PartEntries:
        found = self.storage.get(part.name)
        if found is None:
            raise _MissingPart(part.name)
        try:
            return read_part(part, epoch, found.data)
        except ValueError as error:
            raise DamagedArchive(part.name, str(error)) from None

    # Writing

    def put_part(self, part: Part, data: bytes) -> None:
        """Store a part. Nobody sees it before a manifest names it."""
        self._in_thread(lambda: self.storage.put(part.name, data))

    def commit(self, manifest: Manifest, version: ObjectVersion | None) -> bool:
        """Store a manifest if the one that is there has the version. Return whether it is there."""
        return self._replace(manifest.log_name, manifest.to_json(), version)

    def fence(self, log_name: LogName, before: Version) -> Version | None:
        """Give a manifest another version.

        A process that knew the former one can then not replace it.

        Parts that were there before, and that it does not name, are then left over. Returns what
        this has written, None if another archiver was faster.
        """
        manifest = before.manifest
        data = manifest.to_json() if manifest else placeholder(log_name, BEGUN, timestamp_now())
        if not self._replace(log_name, data, before.version):
            return None
        found = self._in_thread(lambda: self.storage.get(log_name.manifest))
        if found is None or found.data != data:
            return None
        return Version(manifest, found.version)

    def _replace(self, log_name: LogName, data: bytes, version: ObjectVersion | None) -> bool:
        name = log_name.manifest
        if self._in_thread(lambda: self.storage.replace(name, data, version)):
            return True
        # The reply to a first attempt may have been lost.
        found = self._in_thread(lambda: self.storage.get(name))
        return found is not None and found.data == data

    def part_names(self, log_name: LogName) -> list[str]:
        """Return the names of all parts of a log, also of those that the manifest does not name."""
        names = self._in_thread(lambda: list(self.storage.names(log_name.folder)))
        return [name for name in names if not name.endswith(f"/{MANIFEST}")]

    def delete_objects(self, names: Sequence[str]) -> None:
        """Delete objects that the manifest does not name."""
        for name in names:
            self._in_thread(partial(self.storage.delete, name))

    def delete(self, run_id: str, epoch: bytes | None = None) -> bool:
        """Delete all archived logs of a run. Return whether there was one.

        `epoch` is that of the run's log in Redis, if there is one: an archiver may be reading it.
        What is left in the place of each manifest keeps archivers from writing one again. So
        delete the archive before the log: then a repeat can finish what was interrupted.
        """
        existed = False
        for each in {*self.epochs(run_id), *([epoch] if epoch else [])}:
            log_name = LogName(run_id, each)
            try:
                existed |= self.version(log_name).manifest is not None
            except DamagedArchive:
                existed = True
            data = placeholder(log_name, DELETED, timestamp_now())
            self._in_thread(partial(self.storage.put, log_name.manifest, data))
            self.delete_objects(self.part_names(log_name))
        return existed


class _MissingPart(Exception):
    def __init__(self, name: str):
        super().__init__(name)
        self.name = name


class _Cache:
    """Keeps what was read last, up to a number of bytes."""

    def __init__(self, max_bytes: int):
        self._left = max_bytes
        self._kept: OrderedDict[str, tuple[PartEntries, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str) -> PartEntries | None:
        with self._lock:
            if name not in self._kept:
                return None
            self._kept.move_to_end(name)
            return self._kept[name][0]

    def keep(self, name: str, part: PartEntries, size: int) -> None:
        with self._lock:
            self._kept[name] = part, size
            self._left -= size
            while self._left < 0 and len(self._kept) > 1:
                _, (_, freed) = self._kept.popitem(last=False)
                self._left += freed
