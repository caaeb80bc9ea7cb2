"""API keys: a file with one line for each, which holds only the hash of the key."""

import re
from hashlib import sha256
from pathlib import Path

from .grants import parse_words
from .identity import Identity
from .unwritable import check_unwritable

_LINE = re.compile(r"([A-Za-z0-9_.@-]{1,128}) +([0-9a-f]{64}) +(\S+) +(\S+)")


class ApiKeysError(Exception):
    """The file of the API keys cannot be used; the message says why, and holds no key."""


def digest_of(credential: str) -> bytes:
    """Return the SHA-256 of a token or key. Its time tells nothing about any known key."""
    return sha256(credential.encode()).digest()


def read_api_keys(path: str) -> dict[bytes, Identity]:
    """Return the identities in a file by the SHA-256 of their keys.

    A line is `name sha256-of-key actions patterns`; actions and patterns are separated by commas.
    Empty lines, and those that begin with #, count for nothing. Raises ApiKeysError.
    """
    try:
        check_unwritable(path)
        lines = Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ApiKeysError(f"cannot read {path}: {error}") from None
    except ValueError as error:
        raise ApiKeysError(str(error)) from None
    found: dict[bytes, Identity] = {}
    names: set[str] = set()
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise ApiKeysError(f"{path}, line {number}: must be: name sha256 actions patterns")
        name, digest, actions, patterns = match.groups()
        try:
            identity = Identity(f"key:{name}", parse_words(actions, patterns))
        except ValueError as error:
            raise ApiKeysError(f"{path}, line {number}: {error}") from None
        if name in names or bytes.fromhex(digest) in found:
            raise ApiKeysError(f"{path}, line {number}: the name or the key is there already")
        names.add(name)
        found[bytes.fromhex(digest)] = identity
    return found
