"""The manifest of an archived log: its parts, and the state that the log had. It is the commit."""

import secrets
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec
import orjson

from ..streaming.event import Event
from ..streaming.event_id import ZERO, EventId
from ..streaming.log.log_state import LogState
from ..streaming.log.run import Run
from .lines import Line
from .names import LogName

VERSION = 1

Placeholder = Literal["begun", "deleted"]
BEGUN: Final = "begun"
DELETED: Final = "deleted"


@dataclass(frozen=True, slots=True)
class Part:
    """One object with events that follow one another.

    Attributes:
        name: the name of the object.
        first_id: the id of its first event.
        last_id: the id of its last event.
        first_sequence: the sequence of the first event, None if another program wrote it.
        last_sequence: that of the last event, None likewise.
        count: how many events it holds.
        size: how many bytes the object has.
        unpacked_size: how many bytes its lines have.
        sha256: the SHA-256 of the object, in hexadecimal.
    """

    name: str
    first_id: EventId
    last_id: EventId
    first_sequence: int | None
    last_sequence: int | None
    count: int
    size: int
    unpacked_size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is archived of one log.

    Attributes:
        log_name: which log it is.
        state: the state of the log as if Redis held what is archived.
        parts: the objects with its events, in their order.
        first_event: the first archived event, None if there is none. Large data are left out.
        last_event: the last one, likewise.
        archived_at: when it was written (ISO 8601, UTC).
    """

    log_name: LogName
    state: LogState
    parts: tuple[Part, ...]
    first_event: Event | None
    last_event: Event | None
    archived_at: str

    @property
    def run(self) -> Run:
        """What is known of the run as a whole."""
        return Run(
            self.log_name.run_id,
            self.state,
            epoch=self.log_name.epoch,
            first_event=self.first_event,
            last_event=self.last_event,
        )

    def covers(self, state: LogState) -> bool:
        """Return whether nothing was added to the log since, which is now in this state."""
        archived = self.state
        return (archived.epoch, archived.last_id, archived.last_sequence) == (
            *(state.epoch, state.last_id, state.last_sequence),
        )

    def to_json(self) -> bytes:
        """Return the manifest as it is stored. Each time it is another object: see `revision`."""
        state, run = self.state, self.run
        document = {
            "version": VERSION,
            "revision": _revision(),
            "run_id": self.log_name.run_id,
            "epoch": self.log_name.epoch.decode(),
            "archived_at": self.archived_at,
            "started_at": run.started_at,
            "ended_at": run.ended_at,
            "state": {
                "length": state.length,
                "first_id": _text(state.first_id),
                "first_sequence": state.first_sequence,
                "last_id": str(state.last_id),
                "last_sequence": state.last_sequence,
                "end_id": _text(state.end_id),
                "end_sequence": state.end_sequence,
                "max_deleted_id": str(state.deleted),
                "ended": state.ended,
                "lease_seconds": state.lease_seconds,
            },
            "first_event": self.first_event and orjson.Fragment(self.first_event.to_json()),
            "last_event": self.last_event and orjson.Fragment(self.last_event.to_json()),
            "parts": [
                {
                    "name": part.name,
                    "first_id": str(part.first_id),
                    "last_id": str(part.last_id),
                    "first_sequence": part.first_sequence,
                    "last_sequence": part.last_sequence,
                    "count": part.count,
                    "size": part.size,
                    "unpacked_size": part.unpacked_size,
                    "sha256": part.sha256,
                }
                for part in self.parts
            ],
        }
        return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)


def placeholder(log_name: LogName, why: Placeholder, when: str) -> bytes:
    """Return what stands in the place of a manifest while there is none.

    `deleted` stays for ever. No archiver overwrites it, so the run does not come back.
    """
    document = {
        "version": VERSION,
        "revision": _revision(),
        "run_id": log_name.run_id,
        "epoch": log_name.epoch.decode(),
        f"{why}_at": when,
    }
    return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)


def parse_manifest(text: bytes) -> Manifest | Placeholder:
    """Read a manifest, or what stands in its place. Raises ValueError."""
    try:
        document = _decode(text)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(str(error)) from None
    if document.version != VERSION:
        raise ValueError(f"its version is {document.version}; this program knows {VERSION}")
    if document.deleted_at is not None:
        return DELETED
    if document.begun_at is not None:
        return BEGUN
    return document.to_manifest()


def _revision() -> str:
    """Return what makes two writings of the same different, for a storage that compares them."""
    return secrets.token_hex(8)


def _text(event_id: EventId | None) -> str | None:
    return None if event_id is None else str(event_id)


def _id(text: str | None) -> EventId | None:
    return None if text is None else EventId.parse(text)


class _State(msgspec.Struct):
    length: int
    first_id: str | None
    first_sequence: int | None
    last_id: str
    last_sequence: int
    end_id: str | None
    end_sequence: int | None
    max_deleted_id: str
    ended: bool
    lease_seconds: int | None


class _Part(msgspec.Struct):
    name: str
    first_id: str
    last_id: str
    first_sequence: int | None
    last_sequence: int | None
    count: int
    size: int
    unpacked_size: int
    sha256: str

    def to_part(self) -> Part:
        values: dict[str, Any] = msgspec.structs.asdict(self)
        ids = {"first_id": EventId.parse(self.first_id), "last_id": EventId.parse(self.last_id)}
        return Part(**values | ids)


class _Document(msgspec.Struct):
    version: int
    run_id: str
    epoch: str
    deleted_at: str | None = None
    begun_at: str | None = None
    archived_at: str = ""
    state: _State | None = None
    first_event: Line | None = None
    last_event: Line | None = None
    parts: list[_Part] = []

    def to_manifest(self) -> Manifest:
        if self.state is None:
            raise ValueError("it has no state")
        state, epoch = self.state, self.epoch.encode()
        return Manifest(
            log_name=LogName(self.run_id, epoch),
            state=LogState(
                length=state.length,
                first_id=_id(state.first_id),
                first_sequence=state.first_sequence,
                last_id=EventId.parse(state.last_id),
                last_sequence=state.last_sequence,
                ended=state.ended,
                end_id=_id(state.end_id),
                deleted=_id(state.max_deleted_id) or ZERO,
                lease_seconds=state.lease_seconds,
                epoch=epoch,
                end_sequence=state.end_sequence,
            ),
            parts=tuple(part.to_part() for part in self.parts),
            first_event=self.first_event.to_event(self.run_id) if self.first_event else None,
            last_event=self.last_event.to_event(self.run_id) if self.last_event else None,
            archived_at=self.archived_at,
        )


_decode = msgspec.json.Decoder(_Document).decode
