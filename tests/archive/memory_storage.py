"""A storage in memory, which counts what is asked of it, and which may be away."""

import threading
from collections.abc import Iterator

from app.archive.storage import ObjectVersion, Stored
from app.streaming.errors import ArchiveUnavailable


class MemoryStorage:
    """Keeps objects in a dictionary.

    Attributes:
        objects: the objects by their names.
        asked: the names of what was read and listed, in order.
        is_away: whether every call raises ArchiveUnavailable.
        open: while it is cleared, calls wait.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.is_away = False
        self.open = threading.Event()
        self.open.set()

    def get(self, name: str) -> Stored | None:
        self._serve(name)
        data = self.objects.get(name)
        return None if data is None else Stored(data, (str(hash(data)), None))

    def put(self, name: str, data: bytes) -> None:
        self._serve()
        self.objects[name] = data

    def replace(self, name: str, data: bytes, version: ObjectVersion | None) -> bool:
        found = self.get(name)
        if (found and found.version) != version:
            return False
        self.put(name, data)
        return True

    def names(self, folder: str) -> Iterator[str]:
        self._serve()
        yield from [name for name in self.objects if name.startswith(f"{folder}/")]

    def folders(self, folder: str) -> list[str]:
        self._serve(folder)
        above = f"{folder}/" if folder else ""
        rest = (name.removeprefix(above) for name in self.objects if name.startswith(above))
        return sorted({each.partition("/")[0] for each in rest if "/" in each})

    def delete(self, name: str) -> None:
        self._serve()
        self.objects.pop(name, None)

    def _serve(self, name: str | None = None) -> None:
        if name is not None:
            self.asked.append(name)
        assert self.open.wait(20)
        if self.is_away:
            raise ArchiveUnavailable("the storage is away")
