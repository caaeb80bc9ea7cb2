"""The census: it looks now and then whether the index of runs says what the logs say.

It finds runs that other programs have begun, or that a crash has kept from the index. It finds
those that have ended or gone meanwhile. All gateways on one server take turns.
"""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import compress, islice
from operator import not_
from pathlib import Path
from random import SystemRandom
from typing import TypeVar

from ..errors import StoreUnavailable
from ..log.reader import LogReader
from ..log.run import Run
from ..new_event import NewEvent
from ..redis.scripts import Connection, Script
from .changes import change_of, deletion_of
from .run_index import Noted, Place
from .runs import Runs, noted_of

HERE = Path(__file__).parent
TURN = "tailrace:{runs}:turn"

# A turn begins this long after the end of the one before, or a little later.
TURN_SECONDS = 25
LOOK_SECONDS = 5.0

# The log of changes gets no event of an unknown run that has been silent for longer than this.
TOLD_SECONDS = 600

# So many runs are looked at together.
CHUNK = 100

# Of its time the census works one part and rests so many.
REST_SHARE = 10

# Nor does it rest for longer: a part that waited for a node took long, and meant no work.
MAX_REST_SECONDS = 5.0

log = logging.getLogger("tailrace.runs")

T = TypeVar("T")

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
        for places in self._in_turns(_chunks(self._runs.index.places("active"))):
            self._correct(places, self._reader.describe([each.run_id for each in places]))
        for places in self._in_turns(_chunks(self._runs.index.places("ended"))):
            last_ids = self._reader.last_ids([each.run_id for each in places])
            moved = [
                place
                for place, last_id in zip(places, last_ids, strict=True)
                if last_id is None
                or (not isinstance(last_id, StoreUnavailable) and last_id.ms != place.ms)
            ]
            self._correct(moved, self._reader.describe([each.run_id for each in moved]))

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
            for run_ids in self._in_turns(self._reader.scan_run_ids()):
                known = self._runs.index.known(run_ids)
                unknown = [Place(0, each) for each in compress(run_ids, map(not_, known))]
                self._correct(unknown, self._reader.describe([each.run_id for each in unknown]))
        except StoreUnavailable as error:
            if "NOPERM" not in str(error) and "ACL" not in str(error):
                raise
            self._may_scan = False
            log.warning("runs of other programs are not found: %s", error)

    def _correct(
        self, places: Sequence[Place], described: Sequence[Run | StoreUnavailable | None]
    ) -> None:
        """Note what the logs of some runs say; tell of what is recent.

        Nothing is known of those whose node does not answer.
        """
        found = {run.run_id: run for run in described if isinstance(run, Run)}
        without_log = [place for place, run in zip(places, described, strict=True) if run is None]
        since = 1000 * (time.time() - TOLD_SECONDS)

        def change(run_id: str) -> NewEvent | None:
            run = found.get(run_id)
            if run is None:
                return deletion_of(run_id)
            event = run.last_event if run.log.ended else run.first_event
            is_recent = run.log.last_id.ms >= since
            return change_of(event) if event is not None and is_recent else None

        gone = [Noted(each.run_id, "gone", each.ms) for each in without_log]
        self._runs.note([*map(noted_of, found.values()), *gone], change)

    def _in_turns(self, parts: Iterator[T]) -> Iterator[T]:
        """Yield parts of the work; rest after each, and keep the turn."""
        while True:
            began = time.monotonic()
            part = next(parts, None)
            if part is None:
                return
            yield part
            self._turn.run(TURN, 0)
            time.sleep(min(REST_SHARE * (time.monotonic() - began), MAX_REST_SECONDS))


def _chunks(places: Iterator[Place]) -> Iterator[list[Place]]:
    while chunk := list(islice(places, CHUNK)):
        yield chunk
