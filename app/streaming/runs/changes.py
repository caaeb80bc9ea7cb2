"""The log of changes: how runs begin and end, are lost or deleted, in one log for all of them.

It is a log like that of a run, so everything that follows a run can follow it. Each of its entries
holds an event of the run that has changed, as clients get it.
"""

from collections.abc import Iterable
from dataclasses import replace
from hashlib import blake2b

from ..event import Event, OwnLog
from ..log.run import MAX_META_BYTES
from ..new_event import NewEvent

CHANGES = OwnLog("{runs}:changes")

# The category of an entry; `lifecycle` would end the log.
CATEGORY = "run"


def change_of(event: Event) -> NewEvent:
    """Return the entry that tells of an event of a run; large data are left out."""
    if len(event.data_json) + len(event.source_json) > MAX_META_BYTES + len(b"null"):
        event = replace(event, data_json=b"null", source_json=b"null")
    return NewEvent(CATEGORY, "changed", event.to_json(), b"")


def deletion_of(run_id: str) -> NewEvent:
    """Return the entry that tells that the log of a run is gone: `gateway.deleted`."""
    return change_of(Event.control(run_id, "deleted", None))


def key_of(changes: Iterable[NewEvent]) -> str:
    """Return the idempotency key of some entries: each has the id of its run and of its event."""
    digest = blake2b(digest_size=16)
    for each in changes:
        digest.update(each.data_json)
    return digest.hexdigest()
