"""The census: it looks now and then whether the index of runs says what the logs say.

It finds runs that other programs have begun, or that a crash has kept from the index. It finds
those that have ended or gone meanwhile. All gateways on one server take turns.
"""

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import compress, islice
from operator import not_
from pathlib import Path
from random import SystemRandom

from ..errors import StoreUnavailable
from ..log.reader import LogReader
from ..log.run import Run
from ..new_event import NewEvent
from ..redis.scripts import Connection, Script
from .changes import change_of, deletion_of
from .run_index import CHUNK, Noted
from .runs import Runs, noted_of

HERE = Path(__file__).parent
TURN = "tailrace:{runs}:turn"

# A turn begins this long after the one before, or a little later.
TURN_SECONDS = 25
LOOK_SECONDS = 5.0

# Of its time the census works one part and rests so many.
REST_SHARE = 10

log = logging.getLogger("tailrace.runs")

_dice = SystemRandom()  # the program's own random numbers stay as they are


class Census:
    """Keeps the index of runs true, in a thread of its own once it is started."""

    def __init__(self, reader: LogReader, runs: Runs, connection: Connection):
        self._reader = reader
        self._runs = runs
        self._turn = Script(connection, HERE / "turn.lua", keys=1)
        self._started = False
        self._may_scan = True

    def start(self) -> None:
        """Take turns from now on; safe to repeat."""
        if not self._started:
            self._started = True
            threading.Thread(target=self._run, name="tailrace-census", daemon=True).start()

    def take(self) -> None:
        """Compare the index with all logs once. Raises StoreUnavailable."""
        self._find_unknown()
        for chunk in _chunks(place.run_id for place in self._runs.index.places("active")):
            with _Rest():
                self._correct(chunk, self._reader.describe(chunk))
        for chunk in _chunks(place.run_id for place in self._runs.index.places("ended")):
            with _Rest():
                there = self._reader.exist(chunk)
                self._remove(_without(chunk, there))

    def _run(self) -> None:
        while True:
            time.sleep(LOOK_SECONDS * _dice.uniform(0.5, 1))
            try:
                if self._turn.run(TURN, TURN_SECONDS):
                    self.take()
            except StoreUnavailable as error:
                log.warning("the census has to wait: %s", error)
            except Exception:
                log.exception("unexpected error in the census")

    def _find_unknown(self) -> None:
        """Find logs that the index does not know."""
        if not self._may_scan:
            return
        try:
            for run_ids in self._reader.scan_run_ids():
                with _Rest():
                    known = self._runs.index.known(run_ids)
                    unknown = _without(run_ids, known)
                    self._correct(unknown, self._reader.describe(unknown))
        except StoreUnavailable as error:
            if "NOPERM" not in str(error) and "ACL" not in str(error):
                raise
            self._may_scan = False
            log.warning("runs of other programs are not found: %s", error)

    def _correct(self, run_ids: Sequence[str], described: Sequence[Run | None]) -> None:
        """Note what the logs of some runs say."""
        found = {run.run_id: run for run in described if run is not None}
        self._remove([run_id for run_id in run_ids if run_id not in found])

        def change(run_id: str) -> NewEvent | None:
            run = found[run_id]
            event = run.last_event if run.log.ended else run.first_event
            return change_of(event) if event is not None else None

        self._runs.note([noted_of(run) for run in found.values()], change)

    def _remove(self, run_ids: Sequence[str]) -> None:
        """Note that some runs have no logs any more."""
        self._runs.note([Noted(run_id, "gone") for run_id in run_ids], deletion_of)


class _Rest:
    """Rests after its block, longer than the block took."""

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *exc_info: object) -> None:
        time.sleep(REST_SHARE * (time.monotonic() - self._began))


def _chunks(run_ids: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(run_ids)
    while chunk := list(islice(iterator, CHUNK)):
        yield chunk


def _without(run_ids: Iterable[str], flags: Iterable[bool]) -> list[str]:
    """Return the runs whose flags are false."""
    return list(compress(run_ids, map(not_, flags)))
