"""The runs that the examples are about: what their logs hold, and how requests about them end.

Tests write these runs before they send an example.
"""

from typing import Any

import orjson

from .operation import Json
from .shared_answers import of_field, problem_document

ACTIVE, ENDED, WITH_KEYS, NO_RUN = (
    {"run_id": run_id} for run_id in ("build-7", "build-6", "build-5", "build-8")
)
TRIMMED, LONG, DELETED = ({"run_id": run_id} for run_id in ("build-4", "build-3", "build-2"))
WITH_TEXT, WITH_GREATEST_ID, WRONG_RUN = (
    {"run_id": run_id} for run_id in ("text-1", "full-1", "build 7")
)

# Of the long run, all alike.
LONG_LENGTH = 1000

GREATEST_ID = f"{2**64 - 1}-{2**64 - 1}"

# Of what an example appends.
NEW_ID, NEW_TIME = "1795703287999-0", "2026-11-26T14:28:07.999Z"

# The trace of a producer.
TRACED = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

# The bytes with which a stream begins.
OPENING = "retry: 2931\n: open\n"


def event(
    run: Json, sequence: int, name: str, data: Any = None, *, event_id: str, time: str
) -> Json:
    """Return an event as the gateway answers it."""
    category, _, action = name.partition(".")
    return {
        "id": event_id,
        **run,
        "sequence": sequence,
        "timestamp": time,
        "event": {"category": category, "action": action},
        "data": data,
        "source": None,
    }


def new_event(run: Json, sequence: int, name: str, data: Any = None) -> Json:
    """Return an event that an example appends."""
    return event(run, sequence, name, data, event_id=NEW_ID, time=NEW_TIME)


def _past(run: Json, milliseconds: int, sequence: int, name: str, data: Any = None) -> Json:
    event_id, time = f"1795703286{milliseconds}-0", f"2026-11-26T14:28:06.{milliseconds}Z"
    return event(run, sequence, name, data, event_id=event_id, time=time)


EVENTS = [
    _past(ACTIVE, 342, 1, "lifecycle.started", {"task": "build"}),
    _past(ACTIVE, 353, 2, "llm.stream", "Hello"),
    _past(ACTIVE, 461, 3, "tool.called", {"tool": "search"}),
]
FIRST_ID, SECOND_ID, LAST_ID = (each["id"] for each in EVENTS)

ENDED_EVENTS = [
    _past(ENDED, 242, 1, "lifecycle.started"),
    _past(ENDED, 253, 2, "lifecycle.completed"),
]
ENDED_ID = ENDED_EVENTS[-1]["id"]

# The first two are gone.
TRIMMED_EVENT = _past(TRIMMED, 142, 3, "llm.stream", "Hello")

# An id that no log has reached.
FUTURE_ID = "4102444800000-0"

HAS_ENDED = problem_document(409, f"run build-6 ended with event {ENDED_ID}", ended=True)
HAS_NO_LOG = problem_document(404, "run build-8 has no log")
IS_NO_LOG = problem_document(409, "a key of the run in Redis is of another type")
IS_NO_RUN_ID = of_field(400, "run_id", "must be 1 to 128 of A-Z a-z 0-9 _ . - and not . or ..")


def control_event(run: Json, action: str, data: Json | list[Json] | None = None) -> Json:
    """Return a control event of a stream."""
    return {
        "id": None,
        **run,
        "sequence": None,
        "timestamp": NEW_TIME,
        "event": {"category": "gateway", "action": action},
        "data": data,
        "source": None,
    }


def position(
    action: str, run: Json, requested: str, earliest: str | None, latest: str | None
) -> Json:
    """Return a control event that says where a stream begins, or goes on."""
    data = {"requested": requested, "earliest": earliest, "latest": latest}
    return control_event(run, action, data)


def caught_up(run: Json, requested: str, earliest: str | None, latest: str | None) -> Json:
    """Return the control event that ends a history."""
    return position("caught_up", run, requested, earliest, latest)


def lines(*events: Json) -> str:
    """Return events as lines."""
    return "".join(f"{orjson.dumps(each).decode()}\n" for each in events)


def frame(shown: Json, cursor: str | None = None, *, typed: bool = True) -> str:
    """Return an event as a frame of Server-Sent Events, with another `cursor` than its id."""
    cursor = cursor or shown["id"]
    head = f"id: {cursor}\n" if cursor else ""
    name = "event: {category}.{action}\n".format(**shown["event"]) if typed else ""
    return f"{head}{name}data: {orjson.dumps(shown).decode()}\n\n"
