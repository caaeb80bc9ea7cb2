"""Authentication as the settings wire it: real keys, and an issuer that changes them."""

import base64
import hashlib
import hmac
import json
import threading
import time
import tracemalloc

import jwt
import pytest

from app import create_app
from app.auth import jwks
from app.auth.api_keys import digest_of
from app.auth.keys import secret_keys
from app.auth.tokens import MAX_REMEMBERED, TokenVerifier, make_token
from app.settings import Settings, SettingsError
from tests.auth.issuer import ALGORITHMS, OTHER_P256, P256, Issuer, jwk, pem, sign
from tests.servers import wait_until


def client_of(store, **settings):
    return create_app(Settings(**settings), event_store=store).test_client()


def status(client, token: str, run_id: str = "1") -> int:
    headers = {"Authorization": f"Bearer {token}"}
    return client.get(f"/runs/{run_id}/events", headers=headers).status_code


@pytest.fixture
def key_file(tmp_path):
    file = tmp_path / "keys.pem"
    file.write_text("".join(map(pem, ALGORITHMS.values())))
    file.chmod(0o600)
    return file


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_public_keys_of_a_file(store, key_file, algorithm):
    client = client_of(store, auth_public_keys=str(key_file))
    assert status(client, sign(ALGORITHMS[algorithm], algorithm)) == 200
    assert status(client, sign(ALGORITHMS[algorithm], algorithm, exp=time.time() - 1)) == 401
    assert status(client, sign(OTHER_P256, "ES256")) == 401


def encoded(part: bytes) -> bytes:
    return base64.urlsafe_b64encode(part).rstrip(b"=")


def test_a_public_key_is_no_secret(store, key_file):
    """The classic confusion: an HMAC with the text of the public key."""
    client = client_of(store, auth_public_keys=str(key_file))
    payload = {"exp": time.time() + 60, "aud": "tailrace", "tailrace": {"admin": ["*"]}}
    signed = encoded(b'{"alg":"HS256"}') + b"." + encoded(json.dumps(payload).encode())
    for text in (key_file.read_text(), pem(P256), pem(P256).strip()):
        signature = encoded(hmac.digest(text.encode(), signed, hashlib.sha256))
        assert status(client, f"{signed.decode()}.{signature.decode()}") == 401


def test_keys_that_a_token_brings_are_not_looked_at(store, key_file):
    client = client_of(store, auth_public_keys=str(key_file))
    payload = {"exp": time.time() + 60, "aud": "tailrace", "tailrace": {"admin": ["*"]}}
    own = {
        "jwk": jwk(OTHER_P256, "ES256"),
        "jku": "http://127.0.0.1:1/",
        "x5u": "http://127.0.0.1:1/",
    }
    assert status(client, jwt.encode(payload, OTHER_P256, "ES256", own)) == 401


@pytest.fixture
def issuer(monkeypatch):
    monkeypatch.setattr(jwks, "MIN_REFRESH_SECONDS", 0.1)
    with Issuer(jwk(P256, "ES256", "one")) as issuer:
        yield issuer


def test_a_new_key_of_the_issuer_is_found_and_a_dropped_one_ends_its_streams(store, issuer, run_id):
    client = client_of(store, auth_jwks_url=issuer.url)
    old, new = sign(P256, "ES256", "one"), sign(OTHER_P256, "ES256", "two")
    assert status(client, old) == 200
    assert status(client, sign(P256, "ES256", "another")) == 401
    stream = client.get(
        f"/runs/{run_id}/events/stream", headers={"Authorization": f"Bearer {old}"}, buffered=False
    )
    chunks = stream.iter_encoded()
    assert b"caught_up" in next(chunks) + next(chunks)
    ended = threading.Event()
    threading.Thread(target=lambda: (list(chunks), ended.set()), daemon=True).start()
    issuer.keys = [jwk(OTHER_P256, "ES256", "two")]
    wait_until(lambda: status(client, new) == 200, "the new key is known")
    assert ended.wait(20)
    assert status(client, old) == 401


def test_an_issuer_that_is_away_lets_nobody_in_and_the_next_answer_does(store, issuer, monkeypatch):
    monkeypatch.setattr(jwks, "INITIAL_RETRY_SECONDS", 0.05)
    issuer.answer = lambda handler: handler.send_error(503)
    client = client_of(store, auth_jwks_url=issuer.url)
    assert status(client, sign(P256, "ES256", "one")) == 401
    issuer.answer = issuer.send_keys
    wait_until(lambda: status(client, sign(P256, "ES256", "one")) == 200, "it is well again")


def test_ten_thousand_tokens_are_remembered_in_ten_megabytes():
    secret = "s" * 32
    claim = {"read": ["acme.*", "b"]}
    tokens = [
        make_token(
            secret, "tailrace", claim, 600, aud="tailrace", sub=f"user-{number}", jti=f"{number}"
        )
        for number in range(MAX_REMEMBERED + 100)
    ]
    keys = secret_keys([secret])
    verifier = TokenVerifier(lambda: keys, claim="tailrace", audience="tailrace")
    tracemalloc.start()
    try:
        for each in tokens:
            verifier.verify(each, digest_of(each))
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size < 10_000_000
    assert verifier.remembered(digest_of(tokens[0])) is None
    assert verifier.remembered(digest_of(tokens[-1])).subject == f"user-{MAX_REMEMBERED + 99}"


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"auth_secret": (pem(P256),)}, "AUTH_SECRET"),
        ({"auth_public_keys": "/no/such/file"}, "AUTH_PUBLIC_KEYS"),
        ({"auth_jwks_url": "http://issuer.example/keys"}, "AUTH_JWKS_URL"),
        ({"api_keys_file": "/no/such/file"}, "API_KEYS_FILE"),
    ],
)
def test_what_cannot_be_used_is_named(store, settings, name):
    with pytest.raises(SettingsError, match=f"^{name}: "):
        client_of(store, **settings)
