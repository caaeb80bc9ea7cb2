"""Writes an archive of a log that nobody changes, for the tests of reading."""

from app.archive.archive import Archive
from app.archive.manifest import Manifest
from app.archive.names import LogName
from app.archive.parts import PartWriter
from app.streaming.event import timestamp_now
from app.streaming.event_store import EventStore
from tests.archive.logs import entries_of


def archive_log(archive: Archive, store: EventStore, run_id: str, part_size: int = 2) -> Manifest:
    """Archive a log in parts of so many events, and return its manifest."""
    run = store.run(run_id)
    state = store.state(run_id)
    log_name = LogName(run_id, state.epoch)
    entries, parts = entries_of(store, run_id), []
    for first in range(0, len(entries), part_size):
        writer = PartWriter(log_name)
        for entry in entries[first : first + part_size]:
            writer.add(entry)
        part, data = writer.finish()
        archive.put_part(part, data)
        parts.append(part)
    manifest = Manifest(
        log_name, state, tuple(parts), run.first_event, run.last_event, timestamp_now()
    )
    assert archive.commit(manifest, None)
    return manifest
