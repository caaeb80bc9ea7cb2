"""The schemas of what streams send: events, and the control events of the gateway."""

from typing import Any

from ..schemas import EVENT_ID
from .documents import array, event_id, number, text, time, whole
from .example_runs import ACTIVE, EVENTS, FIRST_ID, LAST_ID, SECOND_ID, control_event
from .operation import Json, schema

_NULL: Json = {"type": "null"}

_MERGED_CURSOR = r"^m1\.[A-Za-z0-9_-]+$"
_EVENT_ID = event_id("The cursor from which a client resumes.")
_MERGED_ID = text("The cursor from which a client resumes in all runs.", pattern=_MERGED_CURSOR)

_POSITION = whole(
    requested=text("From where the client asked: a cursor, or `from_sequence=` or `tail=`."),
    earliest=event_id("The id of the first event that the log keeps.", null=True),
    latest=event_id("The id of the last event that was appended.", null=True),
)

_FOUND = {"requested": SECOND_ID, "earliest": FIRST_ID, "latest": LAST_ID}

_BATCH = control_event({"run_id": None}, "batch", [EVENTS[-1]]) | {"cursor": "m1.qB2ElmXqh1Yf3pXW"}

# What each control event says, its data, and an example of that.
_CONTROL_EVENTS: dict[str, tuple[str, Json, Json | None]] = {
    "caught_up": (
        "The history up to now is sent. The frame has an `id:` line.",
        _POSITION,
        _FOUND,
    ),
    "gap": ("Events are missing here: they were trimmed or deleted.", _POSITION, _FOUND),
    "reset": (
        "What the client has is not of this log. The stream continues from its beginning.",
        _POSITION,
        _FOUND,
    ),
    "progress": (
        "A filter has dropped events, up to `cursor`. The frame has an `id:` line.",
        whole(
            cursor=text(
                "From where to resume: an event id, or the cursor of a stream of several runs.",
                pattern=rf"{EVENT_ID}|{_MERGED_CURSOR}",
            )
        ),
        {"cursor": LAST_ID},
    ),
    "expiring": (
        "The stream ends after so many seconds, unless the client comes back with a new token.",
        whole(expires_in=number("The seconds until the token expires.")),
        {"expires_in": 30},
    ),
    "heartbeat": ("The stream is silent, and still there. Only among JSON lines.", _NULL, None),
    "deleted": ("The log of the run is gone. Only in the stream of all runs.", _NULL, None),
}


def _control(action: str, description: str, data: Json, example: Json | list[Json] | None) -> Json:
    run_id = text("The run; null if it is about a stream of all or of several runs.", null=True)
    shown = {"description": description, "examples": [control_event(ACTIVE, action, example)]}
    return shown | whole(
        id=_NULL,
        run_id=run_id,
        sequence=_NULL,
        timestamp=time("When the gateway made it, in UTC."),
        event=whole(category={"const": "gateway"}, action={"const": action}),
        data=data,
        source=_NULL,
    )


def _name(action: str) -> str:
    return "Gateway" + action.title().replace("_", "")


def _any_of(*names: str) -> Json:
    return {"anyOf": [schema(name) for name in names]}


def _frame(of: Json, cursor: Json = _EVENT_ID) -> Json:
    """Return the schema of an event as OpenAPI 3.2 describes Server-Sent Events: by its fields."""
    return {
        "description": "One frame of the stream. `data` is the JSON of an event.",
        "type": "object",
        "properties": {
            "id": cursor,
            "event": text("`<category>.<action>`; absent with `typed=false`."),
            "retry": number("How many milliseconds to wait before reconnecting."),
            "data": {
                "type": "string",
                "contentMediaType": "application/json",
                "contentSchema": of,
            },
        },
        "additionalProperties": False,
    }


_OF_RUN = ("caught_up", "gap", "reset", "progress", "expiring")


def _with_cursor(event: Json, cursor: Json = _EVENT_ID, *, required: bool = False) -> Json:
    """Return the schema of an event as a line of a stream that has cursors of its own."""
    without_examples = {name: value for name, value in event.items() if name != "examples"}
    members = {"properties": {**event["properties"], "cursor": cursor}}
    return {
        **without_examples,
        **members,
        **({"required": [*event["required"], "cursor"]} if required else {}),
    }


def stream_schemas(event: Json) -> dict[str, Json]:
    """Return the schemas of what streams send; `event` is that of an event."""
    control: dict[str, Any] = {
        _name(action): _control(action, *rest) for action, rest in _CONTROL_EVENTS.items()
    }
    of_run = tuple(map(_name, _OF_RUN))
    deleted, heartbeat = _name("deleted"), _name("heartbeat")
    return control | {
        "RunFrame": _frame(_any_of("Event", *of_run)),
        "RunLine": _any_of("Event", *of_run, heartbeat),
        "ChangeFrame": _frame(_any_of("Event", *of_run, deleted)),
        "ChangedEvent": _with_cursor(event, required=True),
        "DeletedRun": _with_cursor(control[deleted]),
        "ChangeLine": _any_of("ChangedEvent", "DeletedRun", *of_run, heartbeat),
        **_merged_schemas(event, control),
    }


def _merged_schemas(event: Json, control: dict[str, Json]) -> dict[str, Json]:
    """Return the schemas of what a stream of several runs sends."""
    of_runs = {"MergedEvent": event} | {
        f"Merged{name}": control[name] for name in map(_name, ("caught_up", "gap", "reset"))
    }
    of_stream = tuple(map(_name, ("progress", "expiring")))
    of_run = ("Event", *map(_name, ("caught_up", "gap", "reset")))
    data = {"anyOf": [*_any_of(*of_run, *of_stream)["anyOf"], array(_any_of(*of_run))]}
    batch = _name("batch")
    lines = {name: _with_cursor(each, _MERGED_ID, required=True) for name, each in of_runs.items()}
    return lines | {
        "MergedFrame": _frame(data, _MERGED_ID),
        "MergedLine": _any_of(*lines, batch, *of_stream, _name("heartbeat")),
        batch: _with_cursor(
            _control("batch", "Events that were sent together.", array(_any_of(*of_run)), []),
            _MERGED_ID,
            required=True,
        )
        | {"examples": [_BATCH]},
    }
