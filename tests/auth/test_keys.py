"""The keys of files: which are taken, and for which algorithms."""

import json

import jwt
import pytest

from app.auth.keys import KeyFileError, keys_of_file, keys_of_set, secret_keys
from tests.auth import issuer
from tests.auth.issuer import ALGORITHMS, P256, RSA, jwk, pem, sign


@pytest.fixture
def write(tmp_path):
    def write(text: str, mode: int = 0o644) -> str:
        file = tmp_path / "keys"
        file.write_text(text)
        file.chmod(mode)
        return str(file)

    return write


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_kind_of_a_key_says_its_algorithm(write, algorithm):
    private = ALGORITHMS[algorithm]
    one = jwk(private, algorithm, "k1")
    for text in (pem(private), json.dumps({"keys": [one]}), json.dumps(one)):
        [key] = keys_of_file(write(text))
        assert key.algorithms == (algorithm,)
        assert key.id == (None if "BEGIN" in text else "k1")
        assert jwt.decode(sign(private, algorithm), key.key, [algorithm], audience="tailrace")


def test_a_file_may_have_several_keys(write):
    keys = keys_of_file(write("of the issuer\n" + "\n".join(map(pem, ALGORITHMS.values()))))
    assert [key.algorithms for key in keys] == [("RS256",), ("ES256",), ("EdDSA",)]


PRIVATE = "-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "neither a public key"),
        ("{}", "no key of it"),
        ("[]", "not a JWK Set"),
        ('{"keys": 1}', "not a JWK Set"),
        ('{"keys": [1]}', "not a JWK Set"),
        ("[" * 100_000, "neither a public key"),
        (PRIVATE, "private key"),
        (pem(P256) + PRIVATE, "private key"),
        (pem(P256).replace("M", "N"), "malformed"),
        (pem(issuer.SMALL_RSA), "2048 bits"),
        (pem(issuer.P384), "RSA, P-256 or Ed25519"),
        (json.dumps({"kty": "oct", "k": "c2VjcmV0"}), "private or a shared key"),
        (json.dumps(jwk(P256, "ES256") | {"d": "x"}), "private or a shared key"),
        (json.dumps({"keys": [jwk(issuer.P384, "ES384")]}), "no key of it"),
    ],
)
def test_what_is_refused(write, text, message):
    with pytest.raises(KeyFileError, match=message):
        keys_of_file(write(text))


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_a_file_that_others_may_write_is_refused(write, mode):
    with pytest.raises(KeyFileError, match="writable by others"):
        keys_of_file(write(pem(P256), mode))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(KeyFileError, match="cannot use"):
        keys_of_file(str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("more", "is_taken"),
    [
        ({}, True),
        ({"use": "sig", "alg": "RS256", "key_ops": ["verify"], "x5u": "http://a"}, True),
        ({"use": "enc"}, False),
        ({"key_ops": ["encrypt"]}, False),
        ({"alg": "RS512"}, False),
        ({"alg": "HS256"}, False),
        ({"kty": "XYZ"}, False),
        ({"n": "!"}, False),
    ],
)
def test_keys_of_a_set_for_something_else_are_left_out(more, is_taken):
    keys = keys_of_set(json.dumps({"keys": [jwk(RSA, "RS256", "a", **more)]}).encode())
    assert len(keys) == is_taken


@pytest.mark.parametrize("secret", ["", "x" * 31])
def test_a_short_secret_is_refused(secret):
    with pytest.raises(ValueError, match="32 bytes"):
        secret_keys([secret])
