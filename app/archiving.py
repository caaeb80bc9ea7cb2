"""The commands `archive` and `restore`: they wire the settings, the event store and the archive."""

import logging.config
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence

from .archive.archive import Archive
from .archive.restoring import CannotRestore, Restorer
from .archive.storage import storage_of
from .archive.writing.archiver import Archiver
from .archive.writing.metrics import Metrics
from .log_format import logging_configuration
from .settings import Settings, SettingsError
from .streaming.errors import DamagedArchive, NotALog, StreamingError
from .streaming.event import check_run_id
from .streaming.event_store import EventStore
from .streaming.redis.redis_url import default_url, without_password

# What a copy has been asked to end has this long to do so. To kill it does no harm.
STOP_SECONDS = 1.0
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

# The exit status if some logs could not be archived.
INCOMPLETE = 1

log = logging.getLogger("tailrace.archive")


def archive_runs(*, once: bool, metrics_port: int | None, metrics_host: str) -> int:
    """Archive runs until a signal comes, or with `once` those that have ended already.

    Returns the exit status. Raises SettingsError, and OSError if nothing can listen on the port.
    """
    settings = Settings.load()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # first: threads inherit it
    try:
        return _archive_runs(settings, once, metrics_port, metrics_host)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _archive_runs(
    settings: Settings, once: bool, metrics_port: int | None, metrics_host: str
) -> int:
    metrics = Metrics()
    store = _event_store(settings)
    archiver = Archiver(
        store,
        _archive(settings),
        hold_seconds=settings.archive_hold_seconds,
        idle_ttl_seconds=settings.stream_idle_ttl_seconds,
        metrics=metrics,
        place=settings.archive_url or "",
    )
    logging.config.dictConfig(logging_configuration(settings.log_format, settings.log_level))
    if metrics_port is not None:
        metrics.serve(metrics_port, metrics_host)
    received = _stop_at_signals(archiver, once)
    if once:
        left = archiver.run_once()
        if left:
            log.warning("%d logs could not be archived", left)
        return _status_after(received[0]) if received else (INCOMPLETE if left else 0)
    url = without_password(settings.redis_url or default_url())
    log.info("archiving the runs of %s to %s", url, settings.archive_url)
    store.census().start()
    for thread in archiver.start():
        thread.join()
    return 0


def archived_runs() -> Iterator[str]:
    """Yield a line for each archived run: id, state, last sequence, events, bytes, and when.

    Raises SettingsError and ArchiveUnavailable. A damaged manifest is a line too.
    """
    archive = _archive(Settings.load())
    for run_id in archive.run_ids():
        try:
            manifest = archive.find(run_id)
        except DamagedArchive as error:
            yield f"{run_id}\tdamaged\t{error.name}: {error.reason}\n"
            continue
        if manifest is not None:
            state, size = manifest.state, sum(part.size for part in manifest.parts)
            yield (
                f"{run_id}\t{manifest.run.state}\t{state.last_sequence}\t{state.length}\t{size}"
                f"\t{manifest.archived_at}\n"
            )


def restored_runs(run_ids: Sequence[str] | None) -> Iterator[tuple[str, StreamingError | None]]:
    """Restore runs, all archived ones for None. Yield what became of each.

    Raises InvalidInput for what is no run id, SettingsError, ArchiveUnavailable and
    StoreUnavailable.
    """
    for run_id in run_ids or ():
        check_run_id(run_id)
    settings = Settings.load()
    archive = _archive(settings)
    restorer = Restorer(
        _event_store(settings),
        archive,
        ended_ttl_seconds=settings.stream_ttl_seconds,
        idle_ttl_seconds=settings.stream_idle_ttl_seconds,
    )
    for run_id in archive.run_ids() if run_ids is None else run_ids:
        try:
            if run_ids is None and archive.find(run_id) is None:
                continue  # it was deleted
            state = restorer.restore(run_id)
        except (CannotRestore, DamagedArchive, NotALog) as error:
            yield str(error), error
        else:
            what = "Redis lacks nothing" if state is None else f"restored {state.length} events"
            yield f"run {run_id}: {what}", None


def _archive(settings: Settings) -> Archive:
    if settings.archive_url is None:
        raise SettingsError("ARCHIVE_URL: Must be set, such as file:///var/lib/tailrace/archive.")
    return Archive(storage_of(settings.archive_url))


def _event_store(settings: Settings) -> EventStore:
    return EventStore(
        settings.redis_url,
        maxlen=settings.stream_maxlen,
        ended_ttl_seconds=settings.stream_ttl_seconds,
        idle_ttl_seconds=settings.stream_idle_ttl_seconds,
    )


def _status_after(number: int) -> int:
    """Return the exit status of what a signal has kept from its end, as a shell gives it."""
    return 128 + number


def _stop_at_signals(archiver: Archiver, once: bool) -> list[int]:
    """Stop an archiver when a signal comes; the list gets its number."""
    received: list[int] = []

    def wait() -> None:
        received.append(signal.sigwait(STOP_SIGNALS))
        archiver.stop()
        time.sleep(STOP_SECONDS)
        # A storage that does not answer keeps its thread.
        logging.shutdown()
        os._exit(_status_after(received[0]) if once else 0)

    threading.Thread(target=wait, name="tailrace-signals", daemon=True).start()
    return received
