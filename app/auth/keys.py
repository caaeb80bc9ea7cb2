"""Keys: what tokens are verified with, and the algorithms that each may be used for.

The kind of a key says the algorithm, never a token (RFC 8725, section 3.1).
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from .unwritable import check_unwritable

MIN_SECRET_BYTES = 32
MIN_RSA_BITS = 2048
_PEM_END = "-----END PUBLIC KEY-----"


class KeyFileError(Exception):
    """A file of keys cannot be used; the message says why."""


class Key(NamedTuple):
    """A key, its id (`kid`) if it has one, and the algorithms that it may be used for."""

    id: str | None
    algorithms: tuple[str, ...]
    key: Any


def secret_keys(secrets: Iterable[str]) -> list[Key]:
    """Return the keys of shared secrets. Raises ValueError for one that is too short."""
    keys = [Key(None, ("HS256",), secret.encode()) for secret in secrets]
    if any(len(key.key) < MIN_SECRET_BYTES for key in keys):
        raise ValueError(f"a secret must have at least {MIN_SECRET_BYTES} bytes")
    return keys


def keys_of_file(path: str) -> list[Key]:
    """Return the keys of a file: public keys in PEM, one JWK or a JWK Set (RFC 7517).

    Raises KeyFileError.
    """
    try:
        check_unwritable(path)
        text = Path(path).read_text()
    except (OSError, ValueError) as error:
        raise KeyFileError(f"cannot use {path}: {error}") from None
    try:
        keys = _pem_keys(text) if "-----BEGIN" in text else keys_of_set(text.encode())
    except ValueError as error:
        raise KeyFileError(f"{path}: {error}") from None
    if not keys:
        raise KeyFileError(f"{path}: no key of it can be used")
    return keys


def keys_of_set(document: bytes) -> list[Key]:
    """Return the keys of a JWK Set, or of one JWK, that verify signatures as tokens have them.

    Raises ValueError if it is neither, or has a private or a shared key.
    """
    try:
        parsed = json.loads(document)
    except (ValueError, RecursionError):
        raise ValueError("neither a public key in PEM nor a JWK Set") from None
    members = parsed.get("keys", [parsed]) if isinstance(parsed, dict) else None
    if not isinstance(members, list) or not all(isinstance(each, dict) for each in members):
        raise ValueError("not a JWK Set")
    return [key for member in members if (key := _jwk(member)) is not None]


def _pem_keys(text: str) -> list[Key]:
    if "PRIVATE KEY-----" in text:
        raise ValueError("holds a private key")
    blocks = [part + _PEM_END for part in text.split(_PEM_END)[:-1]]
    keys: list[Key] = []
    for block in blocks:
        try:
            key = load_pem_public_key(block[block.index("-----BEGIN") :].encode())
        except (ValueError, UnsupportedAlgorithm):
            raise ValueError("has a malformed public key") from None
        keys.append(Key(None, _algorithms(key), key))
    return keys


def _jwk(member: dict[str, Any]) -> Key | None:
    """Return a key; None for one of another kind, or for another use."""
    if "d" in member or member.get("kty") == "oct":
        raise ValueError("holds a private or a shared key")
    operations = member.get("key_ops")
    if member.get("use", "sig") != "sig" or (
        isinstance(operations, list) and "verify" not in operations
    ):
        return None
    key_id = member.get("kid")
    try:
        key = jwt.PyJWK(member).key
        algorithms = _algorithms(key)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, UnsupportedAlgorithm):
        return None
    if member.get("alg", algorithms[0]) not in algorithms:
        return None
    return Key(key_id if isinstance(key_id, str) else None, algorithms, key)


def _algorithms(key: Any) -> tuple[str, ...]:
    """Return what a public key may be used for. Raises ValueError for one that is not supported."""
    if isinstance(key, RSAPublicKey):
        if key.key_size < MIN_RSA_BITS:
            raise ValueError(f"an RSA key must have at least {MIN_RSA_BITS} bits")
        return ("RS256",)
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return ("ES256",)
    if isinstance(key, Ed25519PublicKey):
        return ("EdDSA",)
    raise ValueError("a public key must be of RSA, P-256 or Ed25519")
