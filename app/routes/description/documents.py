"""The schemas of what the gateway answers, and of the bodies that it takes."""

from typing import Any

from ...auth.identity import MAX_NAME_LENGTH, MAX_TIME
from ...streaming.event import NAME
from ...streaming.new_event import MAX_EVENTS
from ..schemas import EVENT_ID, RUN_ID
from .operation import Json, schema

_NAME = NAME.pattern.replace(r"\Z", "")
_NULL: Json = {"type": "null"}


def whole(**members: Any) -> Json:
    """Return the schema of an object that has these members, all of them, and no others."""
    return {
        "type": "object",
        "required": list(members),
        "properties": members,
        "additionalProperties": False,
    }


def with_optional(described: Json, **members: Any) -> Json:
    """Return the schema of an object that may have these members too."""
    return described | {"properties": described["properties"] | members}


def array(items: Json) -> Json:
    """Return the schema of an array."""
    return {"type": "array", "items": items}


def text(description: str, *, null: bool = False, **rest: Any) -> Json:
    """Return the schema of a text, or null."""
    return {"type": ["string", "null"] if null else "string", "description": description} | rest


def number(description: str, *, null: bool = False, **rest: Any) -> Json:
    """Return the schema of a whole number that is not negative, or null."""
    kind = ["integer", "null"] if null else "integer"
    return {"type": kind, "minimum": 0, "description": description} | rest


def event_id(description: str, *, null: bool = False) -> Json:
    """Return the schema of an event id, or null."""
    return text(description, null=null, pattern=EVENT_ID)


def time(description: str, *, null: bool = False) -> Json:
    """Return the schema of a time that Tailrace has noted."""
    return text(description, null=null, format="date-time")


_ANY_TIME = text("When it was appended, in UTC. Other programs may write any text.", null=True)
_NAMES = whole(category=text("The category.", null=True), action=text("The action.", null=True))
_JSON_VALUE = {"description": "Any JSON value."}
_FLAG = {"type": "boolean"}

_TRACEPARENT = text(
    "The trace that the producer has named (W3C Trace Context); absent without one.",
    pattern="^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$",
)

RUN_ID_SCHEMA: Json = text("The run.", pattern=RUN_ID) | {"not": {"enum": [".", ".."]}}


def _event(**members: Any) -> Json:
    """Return the schema of an event. Its traceparent is absent where there is none."""
    members.pop("traceparent", None)
    return with_optional(whole(**members), traceparent=_TRACEPARENT)


EVENT = _event(
    id=event_id("The id of the entry in the Redis stream, from which to resume."),
    run_id=RUN_ID_SCHEMA,
    sequence=number("1, 2, 3 … within the run. Entries of others may have none.", null=True),
    timestamp=_ANY_TIME,
    event=_NAMES,
    data=_JSON_VALUE,
    source=_JSON_VALUE,
)

APPENDED_EVENT = _event(
    **EVENT["properties"]
    | {
        "sequence": number("The sequence that the event got.", minimum=1),
        "timestamp": time("When it was appended, in UTC."),
        "event": whole(
            category=text("The category.", pattern=_NAME), action=text("The action.", pattern=_NAME)
        ),
    }
)

_LAST_EVENT = whole(id=event_id("Its id."), timestamp=_ANY_TIME, event=_NAMES)

RUN = whole(
    run_id=RUN_ID_SCHEMA,
    state={
        "enum": ["active", "ended", "lost"],
        "description": "A lost run has ended since its lease ran out.",
    },
    started_at=text("When the first event was appended; null if nobody knows.", null=True),
    ended_at=text("When the run ended; null while it is active.", null=True),
    last_event={
        "anyOf": [_LAST_EVENT, _NULL],
        "description": "The last event that the log keeps, without its data.",
    },
    length=number("How many events the log keeps now."),
    first_id=event_id("The id of the first event that the log keeps.", null=True),
    last_id=event_id("The id of the last event that was appended."),
    last_sequence=number("How many events were ever appended."),
    ended=_FLAG | {"description": "Whether the last event that the log keeps is terminal."},
    ttl=number("In about how many seconds Redis deletes the log; null for never.", null=True),
    lease_seconds=number(
        "How long the run may be silent before it is lost; null without a lease.", null=True
    ),
    meta={"description": "The data of the first event; null if it is gone, or over 4 KiB."},
)

_REVOKED_NAME = {"type": "string", "minLength": 1, "maxLength": MAX_NAME_LENGTH}

SCHEMAS: dict[str, Json] = {
    "Event": EVENT,
    "AppendedEvent": APPENDED_EVENT,
    "AppendedBatch": whole(
        events=array(
            whole(
                id=event_id("The id that the event got."),
                sequence=number("The sequence that it got.", minimum=1),
            )
        )
        | {"minItems": 1, "maxItems": MAX_EVENTS},
    ),
    "Ingested": with_optional(
        whole(
            stored=number("How many events this request stored."),
            last_id=event_id("The id of the last one.", null=True),
            last_sequence=number("The sequence of the last one.", null=True),
        ),
        incomplete={
            "const": True,
            "description": "The body has ended within a Server-Sent Event, which was dropped.",
        },
    ),
    "EventPage": whole(
        events=array(schema("Event")),
        next=event_id("Send it as `after` to get the next page; null at the end.", null=True),
        ended=_FLAG | {"description": "Whether the run had ended before the page was read."},
    ),
    "Run": RUN,
    "RunPage": with_optional(
        whole(
            runs=array(schema("Run")),
            next=text("Send it as `after` to get the next page; null at the end.", null=True),
        ),
        unavailable=array(RUN_ID_SCHEMA)
        | {"description": "Runs that are left out, since their shard of a cluster is away."},
    ),
    "Revocation": {
        "oneOf": [
            {
                "description": "Revokes one token.",
                "type": "object",
                "required": ["jti"],
                "properties": {"jti": _REVOKED_NAME},
                "additionalProperties": False,
            },
            {
                "description": "Revokes the tokens of a subject that were issued before a time.",
                "type": "object",
                "required": ["sub"],
                "properties": {
                    "sub": _REVOKED_NAME,
                    "before": {
                        "type": "number",
                        "minimum": 0,
                        "exclusiveMaximum": MAX_TIME,
                        "description": "A Unix time in seconds, by default now.",
                    },
                },
                "additionalProperties": False,
            },
        ]
    },
    "Session": whole(expires_in=number("In how many seconds the token expires.")),
    "Alive": whole(status={"const": "ok"}),
    "Ready": {
        "type": "object",
        "required": ["status"],
        "properties": {
            "status": {"const": "ready"},
            "shards": array(
                with_optional(
                    whole(
                        node=text("The host and port of its master."),
                        slots=text("For example 0-5460."),
                        status={"enum": ["ready", "unavailable"]},
                    ),
                    detail=text("Why it cannot serve."),
                )
            )
            | {"minItems": 1, "description": "The shards of a cluster."},
            "warnings": array(
                whole(
                    code=text("eviction, no-append-only-file, replica or too-few-replicas."),
                    detail=text("What may be lost, and what to do."),
                )
            )
            | {"minItems": 1, "description": "Settings of Redis that may lose events."},
        },
        "additionalProperties": False,
    },
}


def new_event_schemas(flat: Json) -> dict[str, Json]:
    """Return the schemas of bodies of appends; `flat` has the members of an event by itself."""
    assigned = {
        name: {"description": "Ignored: the gateway assigns it."}
        for name in ("id", "run_id", "sequence", "timestamp")
    }
    members = dict(flat["properties"])
    category, action = (members.pop(f"event_{name}") for name in ("category", "action"))
    reserved = {"const": "gateway"}
    lost = {"category": {"const": "lifecycle"}, "action": {"const": "lost"}}
    nested = whole(category=category | {"not": reserved}, action=action)
    return {
        "FlatNewEvent": {
            "description": "An event with flat names. The event `lifecycle.lost` is reserved.",
            "type": "object",
            "required": ["event_category", "event_action"],
            "properties": {
                "event_category": category | {"not": reserved},
                "event_action": action,
                **members,
                **assigned,
            },
            "additionalProperties": False,
            "not": {
                "required": ["event_category", "event_action"],
                "properties": {f"event_{name}": value for name, value in lost.items()},
            },
        },
        "NestedNewEvent": {
            "description": "An event in the form in which events are read.",
            "type": "object",
            "required": ["event"],
            "properties": {
                "event": nested | {"not": {"required": list(lost), "properties": lost}},
                **members,
                **assigned,
            },
            "additionalProperties": False,
        },
        "NewEvent": {"oneOf": [schema("FlatNewEvent"), schema("NestedNewEvent")]},
        "NewEvents": {
            "description": "All of them are stored, or none.",
            "minItems": 1,
            "maxItems": MAX_EVENTS,
        }
        | array(schema("NewEvent")),
    }
