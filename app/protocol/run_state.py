"""The state of a run, as a gateway sends it: checked once, so that its readers need not."""

from typing import Any

from ..streaming.errors import InvalidInput
from ..streaming.event_id import EventId
from .responses import not_a_gateway

RunState = dict[str, Any]

_Kinds = dict[str, tuple[type, ...]]

_TEXT = (str, type(None))
_STATE: _Kinds = {
    "run_id": (str,),
    "state": (str,),
    "started_at": _TEXT,
    "length": (int,),
    "first_id": _TEXT,
    "last_id": (str,),
    "last_sequence": (int,),
    "ended": (bool,),
    "last_event": (dict, type(None)),
}
_LAST_EVENT: _Kinds = {"timestamp": _TEXT, "event": (dict,)}
_NAMES: _Kinds = {"category": _TEXT, "action": _TEXT}  # other programs may write none


def parse_run_state(status: int, document: Any) -> RunState:
    """Return the state that a JSON document describes, with all its members.

    Raises Refused, with the `status` of the response, for another document.
    """
    _check(status, document, _STATE)
    if (last_event := document["last_event"]) is not None:
        _check(status, last_event, _LAST_EVENT)
        _check(status, last_event["event"], _NAMES)
    try:
        for event_id in (document["first_id"], document["last_id"]):
            if event_id is not None:
                EventId.parse(event_id)
    except InvalidInput as error:
        raise not_a_gateway(status, str(error)) from None
    state: RunState = document
    return state


def _check(status: int, document: Any, members: _Kinds) -> None:
    """Raise Refused unless a document is an object with all the members, of these kinds."""
    if type(document) is not dict:
        raise not_a_gateway(status, "the state of a run is no object")
    for name, kinds in members.items():
        if name not in document or type(document[name]) not in kinds:
            raise not_a_gateway(status, f"{name!r} of a run is missing or wrong")
