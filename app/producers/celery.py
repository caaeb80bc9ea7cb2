"""Receivers of the signals of Celery, for which each task is a run."""

import weakref
from collections.abc import Callable
from typing import Any, Protocol, Self

try:
    from celery import current_task, signals
except ImportError as error:
    raise ImportError("TaskRuns requires celery: install Tailrace with [celery]") from error

from ..streaming import at_exit
from ..streaming.appender import Appender
from .outbox import Outbox, Waiting, keep_going
from .plain import text_of_error
from .run_events import RunEvents


class HasAppenders(Protocol):
    """A Client or an EventStore."""

    def appender(self, run_id: int | str) -> Appender: ...


class TaskRuns:
    """Connect it in the module that makes the Celery app: `TaskRuns(client).connect()`.

    A task that starts appends `lifecycle.started` to its run, and `completed`, `failed` or
    `cancelled` (revoked, terminated, expired) when it ends. A retry appends `task.retried`, and
    then `lifecycle.started` again. The task's own events go through `current`.

    Receivers never wait in a task, and raise no error into it. A worker's process waits at its
    end until all events are stored.

    Args:
        store: a Client or an EventStore.
        run_id_of: returns the run of a task from the task's id and name, or None for no run. By
            default, it is the id of the task.
        lease_seconds: see RunEvents.
    """

    def __init__(
        self,
        store: HasAppenders,
        *,
        run_id_of: Callable[[str, str], int | str | None] = lambda task_id, name: task_id,
        lease_seconds: int | None = None,
    ):
        self._store = store
        self._run_id_of = run_id_of
        self._lease_seconds = lease_seconds
        # By task and number of the try: the next try may begin before this one has ended.
        self._running: dict[tuple[str, int], RunEvents] = {}
        # By the run: its tries in this process share one, which keeps their events in order.
        self._appenders: weakref.WeakValueDictionary[int | str, Appender] = (
            weakref.WeakValueDictionary()
        )
        self._receivers = (
            (signals.task_prerun, self._start),
            (signals.task_success, self._succeed),
            (signals.task_failure, self._fail),
            (signals.task_retry, self._retry),
            (signals.task_revoked, self._revoke),
            (signals.task_postrun, self._leave),
            (signals.worker_process_shutdown, self._shut_down),
        )

    def connect(self) -> Self:
        """Receive the signals from now on. To do so again changes nothing."""
        for signal, receiver in self._receivers:
            signal.connect(receiver, weak=False, dispatch_uid=(id(self), receiver.__name__))
        return self

    def disconnect(self) -> None:
        """Receive no more signals."""
        for signal, receiver in self._receivers:
            signal.disconnect(dispatch_uid=(id(self), receiver.__name__))

    def flush(self) -> None:
        """Wait until all events are stored. Print what is not on standard error."""
        for appender in [*self._appenders.values()]:
            at_exit.flush(appender)

    @property
    def current(self) -> RunEvents | None:
        """The events of the task that runs here; None outside of tasks that are runs."""
        return self._running.get(_try_of(current_task.request)) if current_task else None

    def _start(self, task_id: str, task: Any, args: Any, kwargs: Any, **_: Any) -> None:
        appender = self._appender(task_id, task.name)
        if appender is None:
            return
        events = RunEvents(appender, lease_seconds=self._lease_seconds)
        self._running[_try_of(task.request)] = events
        call = {"args": args, "kwargs": kwargs, "retries": task.request.retries}
        events.begin(task_id, {"name": task.name, "task_id": task_id, **call})

    def _succeed(self, sender: Any, result: Any, **_: Any) -> None:
        if (events := self._running.get(_try_of(sender.request))) is not None:
            events.end(sender.request.id, "completed", {"output": result})

    def _fail(self, sender: Any, task_id: str, exception: BaseException, **_: Any) -> None:
        data = {"error": text_of_error(exception)}
        if (events := self._running.get((task_id, sender.request.retries))) is not None:
            events.end(task_id, "failed", data)
        else:  # the process of the task has died, and its parent says so
            self._append(task_id, sender.name, "lifecycle", "failed", data)

    def _retry(self, sender: Any, request: Any, reason: Any, **_: Any) -> None:
        data = {"reason": str(reason), "retries": request.retries}
        if (events := self._running.get(_try_of(request))) is not None:
            if not request.is_eager:  # or else the next try has run already
                events.emit("task", "retried", data)
        else:
            self._append(request.id, sender.name, "task", "retried", data)

    def _revoke(self, sender: Any, request: Any, terminated: bool, expired: bool, **_: Any) -> None:
        reason = "expired" if expired else "terminated" if terminated else "revoked"
        self._append(request.id, sender.name, "lifecycle", "cancelled", {"reason": reason})

    def _leave(self, task_id: str, task: Any, state: str | None, **_: Any) -> None:
        if (events := self._running.pop(_try_of(task.request), None)) is None:
            return
        if state == "IGNORED":
            events.end(task_id, "completed", {"state": state})
        elif state == "REJECTED":  # a worker may get it again
            events.emit("task", "rejected")

    def _shut_down(self, **_: Any) -> None:
        self.flush()

    def _append(self, task_id: str, name: str, category: str, action: str, data: Any) -> None:
        """Append to the run of a task that does not run in this process."""
        if (appender := self._appender(task_id, name)) is not None:
            Outbox(appender).put(Waiting.of(category, action, data))

    def _appender(self, task_id: str, name: str) -> Appender | None:
        with keep_going():
            run_id = self._run_id_of(task_id, name)
            if run_id is not None:
                appender = self._appenders.get(run_id)
                if appender is None or appender.has_final_error:
                    appender = self._appenders[run_id] = self._store.appender(run_id)
                return appender
        return None


def _try_of(request: Any) -> tuple[str, int]:
    return request.id, request.retries
