"""Archivers as processes that a test kills and freezes, and what an archive says about a run."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

from app.archive.archive import Archive
from app.archive.names import LogName
from app.archive.storage import storage_of
from app.streaming.event_id import LAST, ZERO
from app.streaming.event_store import EventStore
from tests.archive.logs import entries_of
from tests.servers import ROOT, Server

PROGRAM = ROOT / "tests" / "programs" / "impatient_archiver.py"


class ArchiverProcess(Server):
    """An archiver that looks all the time."""

    def __init__(
        self, redis_url: str, archive_url: str, log: Path, *arguments: str, **more: object
    ):
        self.log = log
        self._arguments = arguments
        self._environ = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "REDIS_URL": redis_url,
            "ARCHIVE_URL": archive_url,
            **{name: str(value) for name, value in more.items()},
        }
        self.process: subprocess.Popen | None = None

    def start(self) -> Self:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, PROGRAM, *self._arguments],
                env=self._environ,
                cwd=self.log.parent,
                stderr=log,
            )
        return self

    def wait(self) -> int:
        """Wait for its end, and return the exit status."""
        return self.process.wait(30)

    @property
    def has_ended(self) -> bool:
        return self.process.poll() is not None

    @property
    def is_frozen(self) -> bool:
        """Whether it has stopped itself."""
        status = Path(f"/proc/{self.process.pid}/stat").read_text()
        return status.rpartition(")")[2].split()[0] == "T"

    def thaw(self) -> None:
        if not self.has_ended:
            self.process.send_signal(signal.SIGCONT)


def archive_at(url: str) -> Archive:
    """Return the archive at a URL, which remembers nothing of what it has read."""
    return Archive(storage_of(url), max_cached_bytes=0)


def archived(archive: Archive, run_id: str) -> list[Any] | None:
    """Return all archived entries of a run, None if it is not archived."""
    manifest = archive.find(run_id)
    return None if manifest is None else archive.entries(manifest, ZERO, LAST, 10**9)


def is_archived(archive: Archive, store: EventStore, run_id: str) -> bool:
    """Return whether the archive has a run up to its end."""
    manifest = archive.find(run_id)
    return manifest is not None and manifest.covers(store.state(run_id))


def assert_whole(archive: Archive, store: EventStore, run_id: str) -> None:
    """Assert that a log that was never trimmed is archived once and whole."""
    assert archived(archive, run_id) == entries_of(store, run_id)
    state = archive.find(run_id).state
    assert state == store.state(run_id)
    assert unnamed(archive, run_id) == set()


def unnamed(archive: Archive, run_id: str, epoch: bytes | None = None) -> set[str]:
    """Return the parts of a run that no manifest names; with an epoch only those of that log."""
    names: set[str] = set()
    for each in archive.epochs(run_id) if epoch is None else [epoch]:
        manifest = archive.find(run_id, each)
        names |= set(archive.part_names(LogName(run_id, each)))
        names -= {part.name for part in manifest.parts} if manifest else set()
    return names
