"""An archiver is killed or frozen at every step: nothing is lost, doubled, or comes back."""

import random
import signal
import threading
from collections import Counter

import pytest

from app.streaming.log.replies import parse_mark
from tests.archive.logs import append, entries_of
from tests.integration.archive.archivers import (
    archived,
    assert_whole,
    is_archived,
    unnamed,
)
from tests.servers import wait_until

EVENTS = 15  # 4 pages, and several parts

# A copy of so many events has fewer steps than that: the last ones are after its end.
STEPS = range(1, 12)


@pytest.mark.parametrize("step", STEPS)
def test_a_killed_archiver_leaves_all_or_nothing(start_archiver, archive, runs, step):
    append(runs, "a", EVENTS)
    killed = start_archiver("once", BREAK_AT=step, BREAK_SIGNAL=int(signal.SIGKILL))
    if killed.wait() == 0:
        assert_whole(archive, runs, "a")
    else:
        assert archived(archive, "a") is None
    runs.add("a", "lifecycle", "started")
    append(runs, "a", 2)
    killed = start_archiver("once", BREAK_AT=step, BREAK_SIGNAL=int(signal.SIGKILL))
    killed.wait()
    wait_until(lambda: start_archiver("once").wait() == 0, "the claim ends")
    assert_whole(archive, runs, "a")


@pytest.mark.parametrize("step", STEPS)
def test_a_frozen_archiver_that_wakes_up_changes_nothing(
    start_archiver, archive, runs, server, step
):
    """Meanwhile another one has archived more, and the log has expired."""
    append(runs, "a", EVENTS)
    frozen = start_archiver("once", BREAK_AT=step, BREAK_SIGNAL=int(signal.SIGSTOP))
    wait_until(lambda: frozen.has_ended or frozen.is_frozen, "it stops")
    runs.add("a", "lifecycle", "started")
    append(runs, "a", EVENTS)
    wait_until(lambda: start_archiver("once").wait() == 0, "another one has the claim")
    everything = entries_of(runs, "a")
    assert archived(archive, "a") == everything
    with server.client() as client:
        client.delete("run:a:events")
    frozen.thaw()
    frozen.wait()
    assert archived(archive, "a") == everything
    assert unnamed(archive, "a") == set()


@pytest.mark.parametrize("step", STEPS)
def test_a_frozen_archiver_that_wakes_up_brings_no_deleted_run_back(
    start_archiver, archive, runs, step
):
    append(runs, "a", EVENTS)
    frozen = start_archiver("once", BREAK_AT=step, BREAK_SIGNAL=int(signal.SIGSTOP))
    wait_until(lambda: frozen.has_ended or frozen.is_frozen, "it stops")
    archive.delete("a", runs.state("a").epoch)
    runs.delete("a")
    frozen.thaw()
    frozen.wait()
    assert archive.find("a") is None
    assert unnamed(archive, "a") == set()


def test_two_archivers_share_the_runs(start_archiver, archive, runs, tmp_path):
    first, second = start_archiver(), start_archiver()
    for number in range(60):
        append(runs, f"run-{number}", EVENTS)
    for number in range(60):
        run_id = f"run-{number}"
        wait_until(lambda run_id=run_id: is_archived(archive, runs, run_id), "it is archived")
        assert_whole(archive, runs, run_id)
    for archiver in (first, second):
        archiver.process.terminate()
        assert archiver.wait() == 0
    lines = [line for line in (tmp_path / "log").read_text().splitlines() if " archived " in line]
    assert len(lines) == 60
    assert max(Counter(line.split()[6] for line in lines).values()) == 1


class Story(threading.Thread):
    """A run that is ended, reopened, trimmed and deleted, while archivers are killed."""

    def __init__(self, number, runs, archive, seed):
        super().__init__()
        self.run_id = f"Run-{number}"
        self.appended: list = []  # all entries of the log as it is now
        self.is_deleted = False
        self.failure: BaseException | None = None
        self._runs, self._archive = runs, archive
        self._dice = random.Random(seed * 1000 + number)
        self.stopping = threading.Event()

    def run(self):
        try:
            while not self.stopping.wait(self._dice.uniform(0, 0.3)):
                self._step()
            if not self.is_deleted and not self._runs.state(self.run_id).ended:
                self._append(1)
        except BaseException as error:
            self.failure = error

    def _append(self, count):
        if self._runs.state(self.run_id).ended:
            self._runs.add(self.run_id, "lifecycle", "started")
        append(self._runs, self.run_id, count)
        known = {entry[0] for entry in self.appended}
        self.appended += [e for e in entries_of(self._runs, self.run_id) if e[0] not in known]
        self.is_deleted = False

    def _step(self):
        choice = self._dice.random()
        if choice < 0.75:
            self._append(self._dice.randrange(1, 30))
        elif choice < 0.85 and self.appended:
            keep = self._dice.randrange(0, 10)
            self._runs.engine.client.xtrim(f"run:{self.run_id}:events", keep, approximate=False)
        elif choice < 0.95:
            state = self._runs.state(self.run_id)
            self._archive.delete(self.run_id, state.epoch or None)
            self._runs.delete(self.run_id)
            self.appended, self.is_deleted = [], True

    def check(self):
        """Assert that the archive has what Redis has, and nothing that was not appended."""
        if self.failure:
            raise self.failure
        found = archived(self._archive, self.run_id)
        if self.is_deleted:
            assert found is None
            return
        retained = entries_of(self._runs, self.run_id)
        assert [entry for entry in found if entry in retained] == retained
        positions = [self.appended.index(entry) for entry in found]
        assert positions == sorted(set(positions))
        assert [parse_mark(entry).sequence for entry in found] == [p + 1 for p in positions]
        epoch = self._archive.find(self.run_id).log_name.epoch
        assert unnamed(self._archive, self.run_id, epoch) == set()


def log_size(log) -> int:
    return log.stat().st_size if log.exists() else 0


@pytest.mark.parametrize("seed", range(3))
def test_archivers_that_are_killed_all_the_time_lose_and_double_nothing(
    start_archiver, archive, runs, tmp_path, seed
):
    stories = [Story(number, runs, archive, seed) for number in range(8)]
    dice = random.Random(seed)
    for story in stories:
        story.start()
    archivers = [start_archiver(), start_archiver()]
    log = tmp_path / "log"
    for _ in range(15):
        victim, progress = dice.choice(archivers), log_size(log) + dice.randrange(1, 2000)
        wait_until(lambda progress=progress: log_size(log) > progress, "they archive something")
        victim.stop()
        victim.start()
    for story in stories:
        story.stopping.set()
    for story in stories:
        story.join(20)
    for archiver in archivers:
        archiver.stop()
    wait_until(lambda: start_archiver("once").wait() == 0, "all is archived")
    for story in stories:
        story.check()
