"""The parameters that operations share, and the links from one operation to the next."""

from collections.abc import Mapping

from ..schemas import CURSOR
from .operation import Json, operation_id

# A key without quotes; in quotes and without a comma; in quotes and with one.
_IDEMPOTENCY_KEY = r'^([!#-+\--~]([!-+\--~]{0,126}[!#-+\--~])?|"[!-+\--~]{1,128}"|"[!#-~]{1,128}")$'

IDEMPOTENCY_KEY: Json = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "Makes a repeat safe. The quotes may be missing if there is no comma in it. "
    "Not with lines or Server-Sent Events.",
    "schema": {"type": "string", "pattern": _IDEMPOTENCY_KEY},
}

TRACEPARENT: Json = {
    "name": "traceparent",
    "in": "header",
    "description": "The trace of the producer (W3C Trace Context), for the events that name none "
    "of their own. Ignored if it is not valid.",
    "schema": {"type": "string"},
}

REQUEST_ID: Json = {
    "name": "X-Request-Id",
    "in": "header",
    "description": "An id for the request, which the answer and the log of the gateway then show. "
    "Every operation takes it. It has 1 to 128 of A-Z a-z 0-9 . _ : / + = @ ~ -; any other is "
    "replaced by a new one.",
    "schema": {"type": "string"},
}

LAST_EVENT_ID: Json = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "Start after this event, with the first one (`earliest`), or with the next "
    "new one (`latest`). Browsers send it when they reconnect. It counts before all others.",
    "schema": {"type": "string", "pattern": CURSOR},
}

REPLAYED: Mapping[str, Json] = {
    "Idempotent-Replayed": {
        "description": "The events had been stored before, with the same key.",
        "schema": {"const": "true"},
    }
}

RUN = "$request.path.run_id"
NEW_ID = "$response.body#/id"


def link(operation: str, description: str, **parameters: str) -> Json:
    """Return a link to an operation, with parameters for it as runtime expressions."""
    return {
        "operationId": operation_id(operation),
        "description": description,
        "parameters": parameters,
    }


# From an append to what may be done with its run.
AFTER_APPEND: Mapping[str, Json] = {
    "run": link("runs.show", "The state of the run.", run_id=RUN),
    "page": link("history.read", "The events of the run.", run_id=RUN),
    "stream": link("stream.follow", "All events of the run, live.", run_id=RUN),
    "request": link("requests.add", "Ask something of the producer.", run_id=RUN),
    "next": link("events.append", "Append the next event.", run_id=RUN),
    "delete": link("events.delete", "Delete the log.", run_id=RUN),
}

# From a request to what comes after it.
AFTER_REQUEST: Mapping[str, Json] = {
    "page": link("history.read", "What came after.", run_id=RUN, after=NEW_ID),
    "stream": link("stream.follow", "What comes after.", run_id=RUN, last_event_id=NEW_ID),
}
