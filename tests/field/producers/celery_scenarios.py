"""What the tasks of celery_app become, in a worker beside this process, and in itself."""

from datetime import UTC, datetime, timedelta
from typing import Any

from app.client import Client
from app.producers.celery import TaskRuns
from tests.field.producers import celery_app as tasks
from tests.field.producers.scenarios import AWAY, Place, Scenarios, raised

scenario = Scenarios()


def names_of(place: Place) -> list[str]:
    """Follow a run to its end."""
    return [event.name for event in Client(place.url).follow(place.run_id) if event.id]


def send(place: Place, task: Any, *args: Any, **options: Any) -> list[str]:
    task.apply_async(args, task_id=place.run_id, **options)
    return names_of(place)


def send_and_interrupt(place: Place, **options: Any) -> list[str]:
    """Revoke a task when it has started."""
    tasks.wait.apply_async(task_id=place.run_id)
    for event in Client(place.url).follow(place.run_id):
        if event.name == "lifecycle.started":
            tasks.app.control.revoke(place.run_id, terminate=True, **options)
            break
    return names_of(place)


@scenario
def a_task(place: Place) -> list[str]:
    return send(place, tasks.add, 1, 2)


@scenario
def many_tasks(place: Place) -> list[list[str]]:
    places = [place._replace(run_id=f"{place.run_id}-{number}") for number in range(40)]
    for each in places:
        tasks.add.apply_async((1, 2), task_id=each.run_id)
    return [names_of(each) for each in places]


@scenario
def a_task_that_fails(place: Place) -> list[str]:
    return send(place, tasks.fail)


@scenario
def a_task_that_is_retried(place: Place) -> list[str]:
    return send(place, tasks.retry)


@scenario
def a_task_that_is_retried_in_vain(place: Place) -> list[str]:
    return send(place, tasks.retry_in_vain)


@scenario
def a_task_that_runs_a_model(place: Place) -> list[str]:
    return send(place, tasks.talk)


@scenario
def a_task_that_is_ignored(place: Place) -> list[str]:
    return send(place, tasks.ignore)


@scenario
def a_task_that_has_expired(place: Place) -> list[str]:
    return send(place, tasks.add, 1, 2, expires=datetime.now(UTC) - timedelta(hours=1))


@scenario
def a_task_that_is_rejected(place: Place) -> list[str]:
    return send(place, tasks.reject)


@scenario
def a_task_that_is_terminated(place: Place) -> list[str]:
    return send_and_interrupt(place)


@scenario
def a_task_whose_process_dies(place: Place) -> list[str]:
    return send(place, tasks.die)


@scenario
def tasks_in_this_process(place: Place) -> list[Any]:
    tasks.runs.disconnect()
    runs = TaskRuns(Client(place.url), lease_seconds=60).connect()
    try:
        done = tasks.add.apply((1, 2), task_id=place.run_id).get()
        failed = tasks.fail.apply(task_id=f"{place.run_id}-failed").state
        lost = tasks.runs.current
        again = tasks.retry.apply(task_id=f"{place.run_id}-retried").get()
    finally:
        runs.disconnect()
        runs.flush()
        tasks.runs.connect()
    return [done, failed, again, lost]


@scenario
def a_task_that_is_no_run(place: Place) -> bool:
    return tasks.silent.apply(task_id=place.run_id).get()


@scenario
def a_task_whose_id_no_run_can_have(place: Place) -> int:
    return tasks.add.apply((1, 2), task_id="a task / of 1").get()


@scenario
def tailrace_is_away(place: Place) -> list[Any]:
    tasks.runs.disconnect()
    runs = TaskRuns(Client(AWAY, retry_seconds=0.2)).connect()
    try:
        done = [tasks.add.apply((1, 2), task_id=place.run_id).get() for _ in range(2)]
        error = raised(lambda: tasks.fail.apply(throw=True))
    finally:
        runs.disconnect()
        runs.flush()
        tasks.runs.connect()
    return [*done, error]


if __name__ == "__main__":
    scenario.run()
