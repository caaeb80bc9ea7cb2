"""The state of a run, as a gateway sends it: checked once, so that its readers need not."""

from typing import Any

from ..streaming.errors import InvalidInput
from ..streaming.event_id import EventId
from .responses import member, not_a_gateway

RunState = dict[str, Any]

_NOTHING = type(None)
_MEMBERS: dict[str, tuple[type, ...]] = {
    "run_id": (str,),
    "state": (str,),
    "started_at": (str, _NOTHING),
    "length": (int,),
    "first_id": (str, _NOTHING),
    "last_id": (str,),
    "last_sequence": (int,),
    "ended": (bool,),
    "last_event": (dict, _NOTHING),
}


def parse_run_state(status: int, document: Any) -> RunState:
    """Return the state that a JSON document describes, with all its members.

    Raises Refused, with the `status` of the response, for another document.
    """
    for name, kinds in _MEMBERS.items():
        member(status, document, name, *kinds)
    try:
        EventId.parse(document["last_id"])
        EventId.parse(document["first_id"] or document["last_id"])
    except InvalidInput as error:
        raise not_a_gateway(status, str(error)) from None
    if document["last_event"] is not None:
        _check_last_event(status, document["last_event"])
    state: RunState = document
    return state


def _check_last_event(status: int, last_event: dict[str, Any]) -> None:
    """Raise Refused unless an event has a time and names; other programs may write none."""
    member(status, last_event, "timestamp", str, _NOTHING)
    names = member(status, last_event, "event", dict)
    member(status, names, "category", str, _NOTHING)
    member(status, names, "action", str, _NOTHING)
