"""What a worker notes of itself now and then: how late its loop is, and what it holds."""

import logging
import os
import resource
import threading
import time
from collections.abc import Callable, Iterable, Sequence

from . import shared_rows
from .catalog import (
    CPU_SECONDS,
    FILES_LIMIT,
    HUB_LAG,
    OPEN_FILES,
    REDIS_PROBE_SECONDS,
    REDIS_UP,
    RESIDENT_BYTES,
    WORKERS,
)
from .values import Gauge, Place

BEAT_SECONDS = 0.25
BEATS_PER_SAMPLE = 4
PROBE_SECONDS = 5.0

Reading = tuple[Gauge | Place, Callable[[], float]]

_CPU_USER, _CPU_SYSTEM = CPU_SECONDS.of("user"), CPU_SECONDS.of("system")
_PAGE_BYTES = resource.getpagesize()

log = logging.getLogger("tailrace.metrics")


class Sampler:
    """Notes the gauges of one worker, in two threads of its own once it is started.

    Args:
        readings: what to note once a second, and how to find it out without waiting.
        ask_redis: returns what else to note, or raises an error if Redis cannot serve.
    """

    def __init__(
        self,
        readings: Sequence[Reading],
        ask_redis: Callable[[], Iterable[tuple[Gauge | Place, float]]],
    ) -> None:
        self._readings = list(readings)
        self._ask_redis = ask_redis
        self._cpu = os.times_result((0.0, 0.0, 0.0, 0.0, 0.0))

    def start(self, readings: Sequence[Reading] = ()) -> None:
        """Note all that from now on, and more readings."""
        self._readings += readings
        WORKERS.set(1)
        # The first beat, before Redis is asked: a worker that hangs from its start is seen too.
        self.sample()
        for run, name in ((self._beat, "beat"), (self._probe, "probe")):
            threading.Thread(target=run, name=f"tailrace-{name}", daemon=True).start()

    def sample(self) -> None:
        """Note everything that needs no answer of Redis."""
        shared_rows.beat()
        for gauge, read in self._readings:
            gauge.set(read())
        before, self._cpu = self._cpu, os.times()
        _CPU_USER.add(self._cpu.user - before.user)
        _CPU_SYSTEM.add(self._cpu.system - before.system)
        RESIDENT_BYTES.set(_resident_bytes())
        OPEN_FILES.set(_open_files())
        FILES_LIMIT.set(resource.getrlimit(resource.RLIMIT_NOFILE)[0])

    def probe(self) -> None:
        """Ask Redis whether it serves, and note what it says."""
        began = time.monotonic()
        try:
            answers = self._ask_redis()
        except Exception:  # it is counted and logged where it concerns somebody
            REDIS_UP.set(0)
            return
        finally:
            REDIS_PROBE_SECONDS.set(time.monotonic() - began)
        REDIS_UP.set(1)
        for gauge, value in answers:
            gauge.set(value)

    def _beat(self) -> None:
        number = 0
        while True:
            due = time.monotonic() + BEAT_SECONDS
            time.sleep(BEAT_SECONDS)
            HUB_LAG.observe(max(0.0, time.monotonic() - due))
            shared_rows.beat()
            number += 1
            if number % BEATS_PER_SAMPLE == 0:
                _logged(self.sample)

    def _probe(self) -> None:
        while True:
            _logged(self.probe)
            time.sleep(PROBE_SECONDS)


def _logged(step: Callable[[], None]) -> None:
    try:
        step()
    except Exception:
        log.exception("a metric cannot be measured")


def _resident_bytes() -> int:
    """Return the resident memory of this process; without /proc, its highest so far."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE_BYTES
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _open_files() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0
