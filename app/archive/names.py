"""The names of the objects of an archive: `<run>/<epoch>/<part>.ndjson.gz` and `manifest.json`."""

import re
import secrets
from typing import NamedTuple

from ..streaming.errors import InvalidInput
from ..streaming.event import check_run_id
from ..streaming.event_id import EventId

MANIFEST = "manifest.json"

_FOLDER = re.compile(r"([a-z0-9_.-]{1,128})(?:\+([1-9a-f][0-9a-f]*))?")
_TOKEN_BYTES = 8
_EPOCH = re.compile(r"[0-9]{1,20}")


def folder_of(run_id: str) -> str:
    """Return the name of a run's folder.

    File systems may not tell capitals from small letters. So an id with capitals is in small
    letters, followed by + and a hexadecimal number: bit n says that character n is a capital.
    Raises InvalidInput for what is no run id, so that no name leaves the archive.
    """
    check_run_id(run_id)
    capitals = sum(1 << at for at, character in enumerate(run_id) if character.isupper())
    return f"{run_id.lower()}+{capitals:x}" if capitals else run_id


def run_id_of_folder(name: str) -> str | None:
    """Return the run whose folder has this name, None if it is no run's."""
    match = _FOLDER.fullmatch(name)
    if match is None:
        return None
    capitals = int(match[2] or "0", 16)
    run_id = "".join(
        character.upper() if capitals >> at & 1 else character
        for at, character in enumerate(match[1])
    )
    try:
        check_run_id(run_id)
    except InvalidInput:
        return None
    return run_id if folder_of(run_id) == name else None


class LogName(NamedTuple):
    """One log of a run: its epoch tells it from the others."""

    run_id: str
    epoch: bytes

    @property
    def folder(self) -> str:
        """The folder of all objects of this log."""
        return f"{folder_of(self.run_id)}/{self.epoch.decode()}"

    @property
    def manifest(self) -> str:
        """The name of the object that says what is archived."""
        return f"{self.folder}/{MANIFEST}"

    def part(self, first_id: EventId) -> str:
        """Return a new name for a part. No other writer ever has it, so nobody overwrites it."""
        return f"{self.folder}/{first_id}.{secrets.token_hex(_TOKEN_BYTES)}.ndjson.gz"


def is_epoch(name: str) -> bool:
    """Return whether a folder of a run can be that of an epoch."""
    return _EPOCH.fullmatch(name) is not None
