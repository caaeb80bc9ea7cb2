"""Keys: what tokens are verified with, and the algorithms that each may be used for.

The kind of a key says the algorithm, never a token (RFC 8725, section 3.1).
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from .key import MIN_SECRET_BYTES, Key
from .unwritable import check_unwritable

MIN_RSA_BITS = 2048

_PEM_BEGIN = "-----BEGIN "
_PEM_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----[^-]*-----END \1-----")
_PEM_LABELS = ("PUBLIC KEY", "RSA PUBLIC KEY")


_HS256 = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)


class KeyFileError(Exception):
    """A file of keys cannot be used; the message says why."""


class _LeftOut(Exception):
    """A member of a set is no key for tokens; the message says why."""


def secret_keys(secrets: Iterable[str]) -> list[Key]:
    """Return the keys of shared secrets.

    Raises ValueError for one that is too short, and for a public key, which is no secret.
    """
    keys = [Key(None, ("HS256",), secret.encode()) for secret in secrets]
    if any(len(key.key) < MIN_SECRET_BYTES for key in keys):
        raise ValueError(f"a secret must have at least {MIN_SECRET_BYTES} bytes")
    try:
        for key in keys:
            _HS256.prepare_key(key.key)  # PyJWT would refuse each token instead
    except jwt.InvalidKeyError:
        raise ValueError("a secret must not be a public key or a certificate") from None
    return keys


def keys_of_file(path: str) -> list[Key]:
    """Return the keys of a file: public keys in PEM, one JWK or a JWK Set (RFC 7517).

    Raises KeyFileError.
    """
    try:
        check_unwritable(path)
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise KeyFileError(f"cannot use {path}: {error}") from None
    left_out: list[str] = []
    try:
        keys = _pem_keys(text) if _PEM_BEGIN in text else _set_keys(text.encode(), left_out)
    except ValueError as error:
        raise KeyFileError(f"{path}: {error}") from None
    if not keys:
        reason = left_out[0] if left_out else "the set is empty"
        raise KeyFileError(f"{path}: no key of it can be used: {reason}")
    return keys


def keys_of_set(document: bytes) -> list[Key]:
    """Return the keys of a JWK Set, or of one JWK, that verify signatures as tokens have them.

    Raises ValueError if it is neither, has a private or a shared key, or only keys that cannot be
    used. A set without any key is a set: its issuer has withdrawn all.
    """
    left_out: list[str] = []
    keys = _set_keys(document, left_out)
    if left_out and not keys:
        raise ValueError(f"no key of the set can be used: {left_out[0]}")
    return keys


def _set_keys(document: bytes, left_out: list[str]) -> list[Key]:
    """Return the keys of a set, and add to `left_out` why others were left out."""
    try:
        parsed = json.loads(document)
    except (ValueError, RecursionError):
        raise ValueError("neither a public key in PEM nor a JWK Set") from None
    members = parsed.get("keys", [parsed]) if isinstance(parsed, dict) else None
    if not isinstance(members, list) or not all(isinstance(each, dict) for each in members):
        raise ValueError("not a JWK Set")
    keys: list[Key] = []
    for member in members:
        try:
            keys.append(_jwk(member))
        except _LeftOut as reason:
            left_out.append(str(reason))
    return keys


def _pem_keys(text: str) -> list[Key]:
    if "PRIVATE KEY-----" in text:
        raise ValueError("holds a private key")
    if "CERTIFICATE-----" in text:
        raise ValueError("holds a certificate, and not the public key alone")
    blocks = list(_PEM_BLOCK.finditer(text))
    # A block that was cut off must not be missing silently.
    if len(blocks) != text.count(_PEM_BEGIN) or any(b[1] not in _PEM_LABELS for b in blocks):
        raise ValueError("has a malformed public key")
    keys: list[Key] = []
    for block in blocks:
        try:
            key = load_pem_public_key(block[0].encode())
        except (ValueError, UnsupportedAlgorithm):
            raise ValueError("has a malformed public key") from None
        keys.append(Key(None, _algorithms(key), key))
    return keys


def _jwk(member: dict[str, Any]) -> Key:
    """Return a key. Raises _LeftOut for one of another kind, or for another use."""
    if "d" in member or member.get("kty") == "oct":
        raise ValueError("holds a private or a shared key")
    operations = member.get("key_ops", ["verify"])
    is_to_verify = isinstance(operations, list) and "verify" in operations
    if member.get("use", "sig") != "sig" or not is_to_verify:
        raise _LeftOut("it is for another use")
    try:
        key = jwt.PyJWK(member).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, UnsupportedAlgorithm):
        raise _LeftOut("it is malformed, or of a kind that is not supported") from None
    try:
        algorithms = _algorithms(key)
    except ValueError as error:
        raise _LeftOut(str(error)) from None
    if member.get("alg", algorithms[0]) not in algorithms:
        raise _LeftOut("it is for an algorithm that is not supported")
    key_id = member.get("kid")
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
