"""A Celery app whose tasks are runs: `celery -A tests.field.producers.celery_app worker`."""

import os
import signal
import threading
from typing import Any

from celery import Celery
from celery.exceptions import Ignore, Reject
from langchain_core.language_models import GenericFakeChatModel

from app.client import Client
from app.producers.celery import TaskRuns
from app.producers.langchain import RunCallbackHandler

app = Celery("tests", broker=os.environ.get("BROKER_URL", "memory://"))
app.conf.update(
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
    worker_max_tasks_per_child=15,  # so some processes end while others go on
)
URL = os.environ.get("TAILRACE_URL", "http://127.0.0.1:1")
runs = TaskRuns(
    Client(URL, retry_seconds=5),
    run_id_of=lambda task_id, name: None if name.endswith("silent") else task_id,
).connect()
runs.connect()


def wait_for(task_id: str, name: str) -> None:
    """Wait until the run of a task has an event of this name."""
    for event in Client(URL).follow(task_id):
        if event.name == name:
            return


@app.task
def add(a: int, b: int) -> int:
    return a + b


@app.task
def silent() -> bool:
    return runs.current is None


@app.task
def fail() -> None:
    raise ValueError("no such file")


@app.task(bind=True)
def retry(self: Any) -> str:
    if not self.request.retries:
        raise self.retry(exc=ValueError("not yet"), countdown=0)
    if not self.request.is_eager:  # the first try ends in another process
        wait_for(self.request.id, "task.retried")
    return "at last"


@app.task(bind=True, max_retries=1)
def retry_in_vain(self: Any) -> None:
    if self.request.retries:
        wait_for(self.request.id, "task.retried")
    raise self.retry(exc=ValueError("not yet"), countdown=0)


@app.task
def talk() -> str:
    model = GenericFakeChatModel(messages=iter(["one two three"]))
    stream = model.stream("hi", config={"callbacks": [RunCallbackHandler(runs.current)]})
    return "".join(each.content for each in stream)


@app.task
def wait() -> None:
    threading.Event().wait()


@app.task(bind=True)
def die(self: Any) -> None:
    runs.current.emit("note", "added", {"text": "last words"})
    wait_for(self.request.id, "note.added")
    os.kill(os.getpid(), signal.SIGKILL)


@app.task
def ignore() -> None:
    raise Ignore


@app.task(acks_late=True)
def reject() -> None:
    raise Reject("no", requeue=False)
