"""Damaged tokens, by the thousand: none is let in, and none is an error of the gateway.

`python -m tests.routes.access.test_damaged_tokens 20000` plays more of them.
"""

import base64
import json
import random
import sys
import time

import fakeredis
import jwt

from app import create_app
from app.settings import Settings
from app.streaming.event_store import EventStore

SECRET = "s" * 32
CLAIMS = {"aud": "tailrace", "exp": time.time() + 3600, "tailrace": {"admin": ["*"]}}
ODD_VALUES = [None, True, -1, 1e400, 10**30, "", "x", "9" * 40, [], {}, [[]], {"a": []}, "\ud800"]
ODD_BYTES = b".=-_~+/\0\n\r \x7f\xffAz09{}\"'%"


def encoded(value: object) -> str:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def damaged(dice: random.Random) -> str:
    good = jwt.encode(CLAIMS, SECRET, "HS256")
    head, payload, signature = good.split(".")
    kind = dice.randrange(6)
    if kind == 0:  # some characters
        text = bytearray(good.encode())
        for _ in range(dice.randint(1, 4)):
            at = dice.randrange(len(text))
            text[at : at + dice.randint(0, 2)] = bytes(
                dice.choices(ODD_BYTES, k=dice.randint(0, 2))
            )
        return text.decode("latin-1")
    if kind == 1:  # other claims, and the old signature
        claims = CLAIMS | {
            dice.choice([*CLAIMS, "sub", "jti", "nbf", "iat"]): dice.choice(ODD_VALUES)
        }
        return f"{head}.{encoded(claims)}.{signature}"
    if kind == 2:  # another head
        name = dice.choice(["alg", "typ", "kid", "crit", "b64", "zip", "jwk", "jku", "x5c"])
        odd = dice.choice([*ODD_VALUES, "none", "NONE", "HS512", "RS256", "hs256"])
        return f"{encoded({'alg': 'HS256', name: odd})}.{payload}.{signature}"
    if kind == 3:  # parts that are missing, doubled or in another order
        parts = [head, payload, signature, "", encoded(b"\xff"), encoded("[" * 5000)]
        return ".".join(dice.choices(parts, k=dice.randint(0, 6)))
    if kind == 4:  # another secret
        return jwt.encode(CLAIMS, dice.randbytes(64), dice.choice(["HS256", "HS384", "HS512"]))
    # Signed well, and with claims that let nobody in.
    odd = dice.choice([value for value in ODD_VALUES if value not in (1e400, "\ud800")])
    name = dice.choice(["aud", "exp", "tailrace", "nbf"])
    claims = CLAIMS | {name: odd if name != "nbf" else dice.choice([1e11, "x", [], True])}
    if claims["exp"] == 10**30 or claims["tailrace"] == {}:
        claims["exp"] = 0
    return jwt.encode(claims, SECRET, "HS256")


def play(count: int, seed: int) -> None:
    settings = Settings(auth_secret=(SECRET,), max_auth_failures=10**9)
    store = EventStore(client=fakeredis.FakeRedis(protocol=2))
    client, dice = create_app(settings, event_store=store).test_client(), random.Random(seed)
    good = jwt.encode(CLAIMS, SECRET, "HS256")
    for number in range(count):
        token = damaged(dice)
        if token.strip() == good:
            continue
        value = f"Bearer {token}".replace("\n", "").replace("\r", "")
        if value.removeprefix("Bearer ").strip() == good:
            continue
        path = f"/runs/{number % 7}/events"
        environ = {"HTTP_AUTHORIZATION": value}
        response = client.get(path, environ_overrides=environ)
        assert response.status_code == 401, (token, response.status_code)
        assert token not in response.text or len(token) < 8


def test_a_damaged_token_lets_nobody_in():
    play(1500, random.randrange(10**6))


if __name__ == "__main__":
    play(int(sys.argv[1]), 1)
