"""TaskRuns in an app of Celery, with a worker and without."""

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.streaming.event_store import EventStore
from tests.field.producers.recorded import (
    PYTHON,
    Recorded,
    check_lifecycle,
    needs_frameworks,
    run_scenarios,
    scenarios_of,
)
from tests.processes import running
from tests.servers import ROOT, GatewayServer, RedisServer

pytestmark = needs_frameworks

MODULE = "celery_scenarios"
APP = "tests.field.producers.celery_app"
WHOLE = ["lifecycle.started", "lifecycle.completed"]
# These have no run of their own, or one with other events.
OTHERS = {
    *("many_tasks", "a_task_that_is_retried", "a_task_that_is_retried_in_vain"),
    *("a_task_that_has_expired", "a_task_that_is_no_run", "tailrace_is_away"),
    "a_task_whose_id_no_run_can_have",
}


# Those that a pool of threads can run.
THREADED = (
    *("a_task", "many_tasks", "a_task_that_fails", "a_task_that_is_retried"),
    *("a_task_that_is_retried_in_vain", "a_task_that_runs_a_model", "a_task_that_is_rejected"),
)


@contextlib.contextmanager
def recording(
    redis_server: RedisServer,
    gateway: GatewayServer,
    store: EventStore,
    directory: Path,
    pool: str,
    *only: str,
) -> Iterator[Recorded]:
    """Run scenarios beside a worker with a pool of two, which then stops by itself."""
    broker = f"{redis_server.url.removesuffix('/0')}/{1 + (pool == 'threads')}"
    variables = {"BROKER_URL": broker, "TAILRACE_URL": gateway.url, "PYTHONPATH": str(ROOT)}
    worker = [PYTHON, "-m", "celery", "-A", APP, "worker", "--pool", pool, "--concurrency", "2"]
    with running(worker, directory / "worker.log", cwd=ROOT, env=variables) as process:
        yield run_scenarios(MODULE, gateway, store, directory, *only, **variables)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, (directory / "worker.log").read_text()


@pytest.fixture(scope="module")
def recorded(
    redis_server: RedisServer,
    gateway: GatewayServer,
    store: EventStore,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Recorded]:
    directory = tmp_path_factory.mktemp("processes")
    with recording(redis_server, gateway, store, directory, "prefork") as recorded:
        yield recorded


@pytest.fixture(scope="module")
def in_threads(
    redis_server: RedisServer,
    gateway: GatewayServer,
    store: EventStore,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Recorded]:
    directory = tmp_path_factory.mktemp("threads")
    with recording(redis_server, gateway, store, directory, "threads", *THREADED) as recorded:
        yield recorded


@pytest.mark.parametrize("scenario", THREADED)
def test_a_worker_of_threads_tells_the_same(in_threads, scenario):
    """Except that a try may tell of its retry after the next one has begun."""
    if scenario == "many_tasks":
        assert in_threads.returned(scenario) == [WHOLE] * 40
        return
    assert in_threads.returned(scenario) == [each.name for each in in_threads.events(scenario)]
    if "retried" in scenario:
        started = in_threads.all(scenario, "lifecycle.started")
        assert [data["retries"] for data in started] == [0, 1]
        assert in_threads.one(scenario, "task.retried")["retries"] == 0
    else:
        check_lifecycle(in_threads.events(scenario))


@pytest.mark.parametrize("scenario", [each for each in scenarios_of(MODULE) if each not in OTHERS])
def test_a_run_begins_and_ends_once(recorded, scenario):
    check_lifecycle(recorded.events(scenario))


@pytest.mark.parametrize(
    "scenario",
    [each for each in scenarios_of(MODULE) if each.startswith("a_task") and "no_run" not in each],
)
def test_a_follower_sees_all_events_of_a_task(recorded, scenario):
    assert recorded.returned(scenario) == [each.name for each in recorded.events(scenario)]


def test_a_task_is_a_run(recorded):
    assert recorded.names("a_task") == WHOLE
    assert recorded.one("a_task", "lifecycle.started") == {
        "name": f"{APP}.add", "task_id": f"{recorded.prefix}-a_task", "args": [1, 2], "kwargs": {},
        "retries": 0,
    }  # fmt: skip
    assert recorded.one("a_task", "lifecycle.completed") == {"output": 3}


def test_the_events_of_processes_that_end_are_stored(recorded):
    """A process of this worker ends after fifteen tasks."""
    assert recorded.returned("many_tasks") == [WHOLE] * 40


def test_a_task_that_fails_fails_its_run(recorded):
    failed = recorded.one("a_task_that_fails", "lifecycle.failed")
    assert failed == {"error": "ValueError: no such file"}


def test_a_retry_begins_the_run_again(recorded):
    """Another process may begin it before the first one has told of the retry."""
    scenario = "a_task_that_is_retried"
    started = recorded.all(scenario, "lifecycle.started")
    assert [data["retries"] for data in started] == [0, 1]
    retried = recorded.one(scenario, "task.retried")
    assert retried == {"reason": "Retry in 0s: ValueError('not yet')", "retries": 0}
    assert recorded.events(scenario)[-1].data == {"output": "at last"}
    assert recorded.names("a_task_that_is_retried_in_vain")[-1] == "lifecycle.failed"


def test_a_model_in_a_task_is_inside_its_run(recorded):
    scenario = "a_task_that_runs_a_model"
    assert recorded.names(scenario) == [
        "lifecycle.started", "llm.called", "llm.stream", "llm.answered", "lifecycle.completed",
    ]  # fmt: skip
    assert recorded.text(scenario) == "one two three"
    assert recorded.one(scenario, "lifecycle.started")["name"] == f"{APP}.talk"


@pytest.mark.parametrize(
    ("scenario", "reason"),
    [("a_task_that_has_expired", "expired"), ("a_task_that_is_terminated", "terminated")],
)
def test_a_task_that_is_revoked_is_cancelled(recorded, scenario, reason):
    assert recorded.one(scenario, "lifecycle.cancelled") == {"reason": reason}


def test_a_task_whose_process_dies_has_failed(recorded):
    scenario = "a_task_whose_process_dies"
    assert recorded.names(scenario) == ["lifecycle.started", "note.added", "lifecycle.failed"]
    assert "WorkerLostError" in recorded.one(scenario, "lifecycle.failed")["error"]


def test_a_task_that_is_ignored_or_rejected_has_ended(recorded):
    ignored = recorded.one("a_task_that_is_ignored", "lifecycle.completed")
    assert ignored == {"state": "IGNORED"}
    # The parent may say so before its child has told of the rejection, which is then too late.
    names = [name for name in recorded.names("a_task_that_is_rejected") if name != "task.rejected"]
    assert names == ["lifecycle.started", "lifecycle.failed"]


def test_tasks_without_a_worker_are_runs_too(recorded, store):
    assert recorded.returned("tasks_in_this_process") == [3, "FAILURE", "at last", None]
    assert recorded.names("tasks_in_this_process") == WHOLE
    names = [
        each.name for each in store.get_events(f"{recorded.prefix}-tasks_in_this_process-failed")
    ]
    assert names == ["lifecycle.started", "lifecycle.failed"]
    names = [
        each.name for each in store.get_events(f"{recorded.prefix}-tasks_in_this_process-retried")
    ]
    assert names == ["lifecycle.started", *WHOLE]


def test_a_task_may_be_no_run(recorded):
    assert recorded.returned("a_task_that_is_no_run") is True
    assert recorded.events("a_task_that_is_no_run") == []


def test_a_task_runs_though_no_run_can_have_its_id(recorded):
    assert recorded.returned("a_task_whose_id_no_run_can_have") == 3
    assert "InvalidInput: run_id" in recorded.printed


def test_a_task_does_not_notice_that_tailrace_is_away(recorded):
    assert recorded.returned("tailrace_is_away") == [3, 3, "ValueError"]
    assert "is not stored: StoreUnavailable" in recorded.printed
