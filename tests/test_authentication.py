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
from app.auth.tokens import TokenVerifier, make_token
from app.settings import Settings, SettingsError
from tests.auth.issuer import ALGORITHMS, OTHER_P256, P256, P384, Issuer, jwk, pem, sign
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
    another = sign(P256, "ES256", "another")
    wait_until(lambda: status(client, another) == 401, "there is no such key")
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
    wait_until(lambda: status(client, old) == 401, "the old key has gone")


def test_an_issuer_that_is_away_lets_nobody_in_and_the_next_answer_does(store, issuer, monkeypatch):
    """Nobody is told that a token is bad before the keys were read."""
    monkeypatch.setattr(jwks, "INITIAL_RETRY_SECONDS", 0.05)
    issuer.answer = lambda handler: handler.send_error(503)
    client = client_of(store, auth_jwks_url=issuer.url, max_auth_failures=1)
    for _ in range(5):
        assert status(client, sign(P256, "ES256", "one")) == 503
    issuer.answer = issuer.send_keys
    wait_until(lambda: status(client, sign(P256, "ES256", "one")) == 200, "it is well again")
    assert status(client, sign(OTHER_P256, "ES256", "one")) == 401


def test_a_token_without_a_key_id_may_be_of_an_issuer_that_is_away(store, issuer, key_file):
    issuer.answer = lambda handler: handler.send_error(503)
    client = client_of(store, auth_jwks_url=issuer.url, auth_public_keys=str(key_file))
    assert status(client, sign(P256, "ES256")) == 200
    assert status(client, sign(OTHER_P256, "ES256")) == 503


def test_a_token_of_a_new_key_waits_for_the_next_refresh(store, issuer, monkeypatch):
    """Also if another key, one without an id, might have signed it."""
    monkeypatch.setattr(jwks, "MIN_REFRESH_SECONDS", 1.0)
    issuer.keys.append(jwk(P384, "ES384"))
    client = client_of(store, auth_jwks_url=issuer.url, max_auth_failures=1)
    assert status(client, sign(P256, "ES256", "one")) == 200
    assert status(client, sign(P256, "ES256", "none")) == 503
    wait_until(lambda: status(client, sign(P256, "ES256", "none")) == 401, "there is no such key")
    issuer.keys.append(jwk(OTHER_P256, "ES256", "two"))
    new = sign(OTHER_P256, "ES256", "two")
    assert status(client, new) == 503
    wait_until(lambda: status(client, new) == 200, "the new key is there")


SHAPES = {
    "one claim for all": lambda number: ["acme.*", "b"],
    "one pattern each": lambda number: [f"acme-{number}.*"],
    "twenty each": lambda number: [f"acme-{number}-{part}" for part in range(20)],
    "a hundred each": lambda number: [f"{number}-{part}-{'x' * 100}" for part in range(50)],
}


@pytest.mark.parametrize("patterns", SHAPES.values(), ids=SHAPES)
def test_tokens_are_remembered_in_ten_megabytes(patterns):
    secret, count = "s" * 32, 12_000 if len(patterns(0)) < 50 else 1500
    tokens = [
        make_token(
            secret,
            "tailrace",
            {"read": patterns(number)},
            600,
            aud="tailrace",
            sub=f"user-{number}",
            jti=f"{number:032}",
        )
        for number in range(count)
    ]
    keys = secret_keys([secret])
    verifier = TokenVerifier(lambda: keys, claim="tailrace", audience="tailrace")
    tracemalloc.start()
    try:
        for each in tokens:
            verifier.verify(each, digest_of(each))
        snapshot = tracemalloc.take_snapshot()
    finally:
        tracemalloc.stop()
    # Only what these modules have allocated: other tests' threads may still run.
    of_tokens = [
        tracemalloc.Filter(True, f"*/{folder}/*.py") for folder in ("app/auth", "jwt", "json")
    ]
    found = snapshot.filter_traces(of_tokens).statistics("filename")
    assert 5_000_000 < sum(each.size for each in found) < 10_000_000
    assert verifier.remembered(digest_of(tokens[0])) is None
    assert verifier.remembered(digest_of(tokens[-1])).subject == f"user-{count - 1}"
    remembered = sum(verifier.remembered(digest_of(each)) is not None for each in tokens)
    if len(patterns(0)) <= 2:
        assert remembered > 9_000


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
