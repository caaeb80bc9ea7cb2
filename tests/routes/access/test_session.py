"""The cookie of browsers, and what pages of other origins may do with it."""

import time

import jwt
import pytest

from app import create_app
from app.settings import Settings

SECRET = "s" * 32
EVENT = {"event_category": "llm", "event_action": "stream"}
NAMED = "https://app.example"


def token(ttl: float = 600) -> str:
    payload = {"aud": "tailrace", "exp": time.time() + ttl, "tailrace": {"admin": ["*"]}}
    return jwt.encode(payload, SECRET, "HS256")


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


@pytest.fixture
def client(store):
    settings = Settings(auth_secret=(SECRET,), cors_origins=(NAMED,))
    return create_app(settings, event_store=store).test_client(use_cookies=False)


@pytest.mark.parametrize(
    ("url", "name", "is_secure"),
    [
        ("http://localhost:8082", "tailrace", False),
        ("http://127.0.0.1", "tailrace", False),
        ("http://a.example", "__Host-tailrace", True),
        ("https://localhost", "__Host-tailrace", True),
    ],
)
def test_a_session_sets_a_cookie_that_lets_in(client, run_id, url, name, is_secure):
    response = client.post("/session", headers=bearer(token()), base_url=url)
    assert response.status_code == 200
    assert 590 <= response.json["expires_in"] <= 600
    [cookie] = response.headers.getlist("Set-Cookie")
    assert cookie.startswith(f"{name}=")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    assert ("Secure" in cookie.split("; ")) == is_secure
    assert "Domain" not in cookie
    headers = {"Cookie": cookie.partition(";")[0]}
    path = f"/runs/{run_id}/events"
    assert client.get(path, headers=headers, base_url=url).status_code == 200
    ended = client.delete("/session", headers={"Sec-Fetch-Site": "same-origin"}, base_url=url)
    assert ended.status_code == 204
    assert f"{name}=;" in ended.headers["Set-Cookie"]
    assert "Max-Age=0" in ended.headers["Set-Cookie"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": NAMED},
        {"Origin": "http://public.example"},
        {"X-Forwarded-Proto": "https"},
        {"X-Forwarded-For": "1.2.3.4"},
        {"Forwarded": "proto=https"},
        {"Via": "1.1 a"},
    ],
)
def test_behind_a_proxy_on_this_machine_the_cookie_is_secure(client, run_id, headers):
    """The proxy may send its own name of the gateway as Host."""
    url = "http://127.0.0.1:8082"
    response = client.post("/session", headers=bearer(token()) | headers, base_url=url)
    [cookie] = response.headers.getlist("Set-Cookie")
    assert cookie.startswith("__Host-tailrace=")
    assert "Secure" in cookie.split("; ")


@pytest.mark.parametrize("origin", ["http://localhost:3000", "http://127.0.0.1", "http://[::1]:80"])
def test_a_page_on_this_machine_gets_the_cookie_of_loopback(client, origin):
    headers = bearer(token()) | {"Origin": origin}
    response = client.post("/session", headers=headers, base_url="http://localhost:8082")
    assert response.headers["Set-Cookie"].startswith("tailrace=")


def test_a_token_that_no_cookie_can_hold_makes_no_session(client):
    payload = {"aud": "tailrace", "exp": time.time() + 60, "tailrace": {}}
    for size, status in ((2700, 200), (3000, 422)):
        large = jwt.encode(payload | {"more": "x" * size}, SECRET, "HS256")
        assert client.post("/session", headers=bearer(large)).status_code == status


def test_a_session_lasts_no_longer_than_browsers_keep_a_cookie(client):
    payload = {"aud": "tailrace", "exp": 9e11, "tailrace": {}}
    response = client.post("/session", headers=bearer(jwt.encode(payload, SECRET, "HS256")))
    assert response.status_code == 200
    assert f"Max-Age={400 * 24 * 3600}" in response.headers["Set-Cookie"]


@pytest.mark.parametrize("headers", [{}, bearer("wrong"), {"Cookie": "tailrace=x"}])
def test_a_session_needs_a_token_in_the_header(client, headers):
    response = client.post("/session", headers=headers)
    assert response.status_code == 401
    assert "Set-Cookie" not in response.headers


def test_the_cookie_of_loopback_counts_on_loopback_only(client, run_id):
    headers = {"Cookie": f"tailrace={token()}"}
    path = f"/runs/{run_id}/events"
    assert client.get(path, headers=headers, base_url="http://localhost").status_code == 200
    assert client.get(path, headers=headers, base_url="http://a.example").status_code == 401


@pytest.mark.parametrize(
    ("header", "cookie", "status"), [("good", "bad", 200), ("bad", "good", 401)]
)
def test_the_bearer_wins_over_the_cookie(client, run_id, header, cookie, status):
    texts = {"good": token(), "bad": token(ttl=-1)}
    headers = bearer(texts[header]) | {"Cookie": f"__Host-tailrace={texts[cookie]}"}
    assert client.get(f"/runs/{run_id}/events", headers=headers).status_code == status


def test_an_authorization_for_a_proxy_does_not_hide_the_cookie(client, run_id):
    headers = {"Authorization": "Basic YTpi", "Cookie": f"__Host-tailrace={token()}"}
    assert client.get(f"/runs/{run_id}/events", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("headers", "is_allowed"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://gateway.example"}, True),
        ({"Origin": "http://gateway.example"}, True),
        ({"Origin": NAMED, "Sec-Fetch-Site": "cross-site"}, True),
        ({"Origin": NAMED.upper(), "Sec-Fetch-Site": "same-site"}, True),
        ({}, False),
        ({"Sec-Fetch-Site": "none"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://gateway.example"}, False),
        ({"Origin": "https://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "http://["}, False),
        ({"Origin": "http://gateway.example:80"}, False),
        ({"Origin": "http://localhost:3000"}, False),
        ({"Origin": "http://gateway.example.evil.example"}, False),
        ({"Origin": f"{NAMED}.evil.example"}, False),
    ],
)
def test_a_write_with_the_cookie_needs_an_origin_that_may(client, run_id, headers, is_allowed):
    cookie = {"Cookie": f"__Host-tailrace={token()}"}
    url = {"base_url": "http://gateway.example"}
    path = f"/runs/{run_id}/events"
    status = client.post(path, json=EVENT, headers=headers | cookie, **url).status_code
    assert status == (201 if is_allowed else 403)
    status = client.delete(path, headers=headers | cookie, **url).status_code
    assert status == (204 if is_allowed else 403)
    assert client.get(path, headers=headers | cookie, **url).status_code == 200
    with_token = client.post(path, json=EVENT, headers=headers | bearer(token()), **url)
    assert with_token.status_code == 201


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_credentialed_cors_is_for_named_origins_only(client, run_id, method):
    asked = {"Access-Control-Request-Method": method}
    for origin, is_named in [(NAMED, True), ("http://localhost:3000", False), ("https://b", False)]:
        response = client.options(f"/runs/{run_id}/events", headers=asked | {"Origin": origin})
        assert response.status_code == 200
        credentials = response.headers.get("Access-Control-Allow-Credentials")
        assert credentials == ("true" if is_named else None)
        allowed = response.headers.get("Access-Control-Allow-Methods", "")
        assert (method in allowed) == (is_named or (method == "GET" and "localhost" in origin))
        if is_named:
            assert "Authorization" in response.headers["Access-Control-Allow-Headers"]
        refused = client.get(f"/runs/{run_id}/events", headers={"Origin": origin})
        assert refused.status_code == 401
        assert ("Access-Control-Allow-Credentials" in refused.headers) == is_named
