"""The keys of files: which are taken, and for which algorithms."""

import json

import jwt
import pytest
import trustme
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

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


def test_an_rsa_key_may_be_in_the_form_of_pkcs_1(write):
    form = Encoding.PEM, PublicFormat.PKCS1
    [key] = keys_of_file(write(RSA.public_key().public_bytes(*form).decode()))
    assert key.algorithms == ("RS256",)


CERTIFICATE = trustme.CA().cert_pem.bytes().decode()
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
        (pem(P256)[:-10], "malformed"),
        (pem(P256) + pem(RSA)[:-10], "malformed"),
        (pem(P256)[:-10] + pem(RSA), "malformed"),
        (CERTIFICATE, "certificate"),
        (pem(P256) + CERTIFICATE, "certificate"),
        (CERTIFICATE + pem(P256), "certificate"),
        (pem(issuer.SMALL_RSA), "2048 bits"),
        (pem(issuer.P384), "RSA, P-256 or Ed25519"),
        (json.dumps({"kty": "oct", "k": "c2VjcmV0"}), "private or a shared key"),
        (json.dumps(jwk(P256, "ES256") | {"d": "x"}), "private or a shared key"),
        (json.dumps({"keys": [jwk(issuer.P384, "ES384")]}), "no key of it.*RSA, P-256 or Ed25519"),
        (json.dumps(jwk(issuer.SMALL_RSA, "RS256")), "no key of it.*2048 bits"),
        (json.dumps(jwk(P256, "ES256", use="enc")), "no key of it.*another use"),
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
        ({"key_ops": "verify"}, False),
        ({"key_ops": None}, False),
        ({"alg": "RS512"}, False),
        ({"alg": "HS256"}, False),
        ({"kty": "XYZ"}, False),
        ({"n": "!"}, False),
    ],
)
def test_keys_of_a_set_for_something_else_are_left_out(more, is_taken):
    members = [jwk(RSA, "RS256", "a", **more), jwk(P256, "ES256", "b")]
    keys = keys_of_set(json.dumps({"keys": members}).encode())
    assert [key.id for key in keys] == ["a", "b"][not is_taken :]


def test_keys_of_one_id_are_all_kept():
    members = [jwk(P256, "ES256", "a"), jwk(issuer.OTHER_P256, "ES256", "a")]
    keys = keys_of_set(json.dumps({"keys": members}).encode())
    assert [key.id for key in keys] == ["a", "a"]


ODD_VALUES = [None, True, 1, -1.5, "", "!", "é", "\ud800", "RSA", "AQ", [], ["RSA"], {}, {"a": []}]


@pytest.mark.parametrize("odd", ODD_VALUES, ids=ascii)
def test_no_member_of_an_odd_type_raises_anything_but_a_value_error(odd):
    for algorithm, private in ALGORITHMS.items():
        good = jwk(private, algorithm, "a")
        for name in {*good, "alg", "use", "key_ops", "kid", "d"}:
            try:
                keys = keys_of_set(json.dumps(good | {name: odd}).encode())
            except ValueError:
                continue
            assert all(key.algorithms == (algorithm,) for key in keys)


# The examples of RFC 7517, appendix A.1, RFC 7515, appendix A.3, and RFC 8037, appendix A.2.
# The first has a key for encryption as well.
RFC_RSA_MODULUS = (
    "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECP"
    "ebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY"
    "368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0f"
    "M4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
)
RFC_KEYS = [
    {
        "kty": "EC",
        "crv": "P-256",
        "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
        "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
        "use": "enc",
        "kid": "1",
    },
    {"kty": "RSA", "n": RFC_RSA_MODULUS, "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"},
    {
        "kty": "EC",
        "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    },
    {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
]


def test_the_examples_of_the_rfcs():
    keys = keys_of_set(json.dumps({"keys": RFC_KEYS}).encode())
    assert [(key.id, key.algorithms) for key in keys] == [
        ("2011-04-29", ("RS256",)),
        (None, ("ES256",)),
        (None, ("EdDSA",)),
    ]


def test_the_text_of_a_key_does_not_show_it():
    [key] = secret_keys(["s" * 32])
    assert "s" * 32 not in f"{key!r} {key} {[key]}"


@pytest.mark.parametrize("text", [pem(P256), CERTIFICATE, "ssh-ed25519 " + "A" * 43])
def test_a_secret_that_is_a_public_key_is_refused(text):
    """Anybody may know it; PyJWT accepts no token with it."""
    with pytest.raises(ValueError, match="public key"):
        secret_keys([text])


@pytest.mark.parametrize("secret", ["", "x" * 31])
def test_a_short_secret_is_refused(secret):
    with pytest.raises(ValueError, match="32 bytes"):
        secret_keys([secret])
