"""Who may do what: every view, with tokens and keys that grant it and with those that do not."""

import hashlib
import io
import json
import time

import jwt
import pytest

from app import create_app
from app.auth.tokens import make_token
from app.settings import Settings
from app.streaming.follow.subscriber import Subscriber
from tests.servers import wait_until

SECRET, OTHER = "s" * 32, "o" * 32
EVENT = {"event_category": "llm", "event_action": "stream", "data": 1}
REQUEST = {"event_category": "request", "event_action": "cancel"}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def token(secret: str = SECRET, ttl: float = 60, **grants: list[str]) -> str:
    return make_token(secret, "tailrace", grants, ttl, sub="u1", aud="tailrace")


def signed(secret: str = SECRET, **claims: object) -> str:
    """A token that may do everything, with some claims replaced; None leaves one out."""
    payload = {
        "sub": "u1",
        "aud": "tailrace",
        "exp": time.time() + 60,
        "tailrace": {"admin": ["*"]},
    } | claims
    return jwt.encode({k: v for k, v in payload.items() if v is not None}, secret, "HS256")


@pytest.fixture
def make_client(store):
    def make(**settings: object):
        return create_app(
            Settings(**{"auth_secret": (SECRET,)} | settings), event_store=store
        ).test_client()

    return make


@pytest.fixture
def client(make_client):
    return make_client()


def attempts(run_id: str) -> dict[str, tuple]:
    """What may be done to a run: the action, the method, the path and the body."""
    events = f"/runs/{run_id}/events"
    return {
        "append": ("append", "POST", events, EVENT),
        "lines": ("append", "POST", events, None),
        "request": ("request", "POST", f"/runs/{run_id}/requests", {"action": "cancel"}),
        "page": ("read", "GET", events, None),
        "head": ("read", "HEAD", events, None),
        "state": ("read", "GET", f"/runs/{run_id}", None),
        "stream": ("read", "GET", f"{events}/stream", None),
        "merged": ("read", "GET", f"/events/stream?run={run_id}", None),
        "merged, POST": ("read", "POST", "/events/stream", {"runs": {run_id: "latest"}}),
        "merged, QUERY": ("read", "QUERY", "/events/stream", {"runs": {run_id: "latest"}}),
        "delete": ("delete", "DELETE", events, None),
        "revoke": ("admin", "POST", "/revocations", {"jti": "no such token"}),
    }


def attempt(client, which: str, run_id: str, headers: dict[str, str]):
    _, method, path, body = attempts(run_id)[which]
    if which == "lines":
        headers = headers | {"Content-Type": "application/x-ndjson"}
        return client.open(path, method=method, headers=headers, data=b"\n")
    response = client.open(path, method=method, headers=headers, json=body)
    response.close()
    return response


@pytest.mark.parametrize("which", attempts(""))
def test_a_view_needs_a_token_that_grants_its_action_for_the_run(client, run_id, which):
    action = attempts("")[which][0]
    none = attempt(client, which, run_id, {})
    assert none.status_code == 401
    assert none.headers["WWW-Authenticate"] == 'Bearer realm="tailrace"'
    other_actions = {"read", "append", "delete"} - {action}
    if action == "request":  # which append includes
        other_actions.remove("append")
    for grants in (
        {},
        {action: []},
        {action: ["other*", f"{run_id}x*", run_id[:-1]]},
        {each: ["*"] for each in other_actions},
    ):
        refused = attempt(client, which, run_id, bearer(token(**grants)))
        assert refused.status_code == 403, grants
        assert 'error="insufficient_scope"' in refused.headers["WWW-Authenticate"]
    patterns = (
        (["*"],)
        if action == "admin"
        else (["*"], [run_id], [f"{run_id[:3]}*"], ["x", f"{run_id}*"])
    )
    for granted in patterns:
        for name in (action, "admin"):
            allowed = attempt(client, which, run_id, bearer(token(**{name: granted})))
            assert allowed.status_code < 400 or allowed.status_code == 404, allowed.text


DEFECTS = {
    "another secret": lambda: signed(OTHER),
    "expired": lambda: signed(exp=time.time() - 1),
    "without expiry": lambda: signed(exp=None),
    "expiry as text": lambda: signed(exp=str(int(time.time() + 60))),
    "expiry as a flag": lambda: signed(exp=True),
    "endless": lambda: signed(exp=float("inf")),
    "no number": lambda: signed(exp=float("nan")),
    "huge": lambda: signed(exp=10**400),
    "not yet": lambda: signed(nbf=time.time() + 120),
    "another audience": lambda: signed(aud="other"),
    "no audience": lambda: signed(aud=None),
    "audience in an object": lambda: signed(aud={"tailrace": 1}),
    "no claim": lambda: signed(tailrace=None),
    "a list as the claim": lambda: signed(tailrace=["admin"]),
    "unknown action": lambda: signed(tailrace={"admin": ["*"], "write": ["*"]}),
    "no list": lambda: signed(tailrace={"admin": "*"}),
    "two asterisks": lambda: signed(tailrace={"admin": ["*"], "read": ["**"]}),
    "asterisk within": lambda: signed(tailrace={"admin": ["*"], "read": ["a*b"]}),
    "empty pattern": lambda: signed(tailrace={"admin": ["*"], "read": [""]}),
    "a number": lambda: signed(tailrace={"admin": ["*"], "read": [1]}),
    "101 patterns": lambda: signed(tailrace={"admin": ["*"] * 101}),
    "unhashable subject": lambda: signed(sub=["u1"]),
    "no algorithm": lambda: jwt.encode({"exp": time.time() + 60}, None, "none"),
    "critical": lambda: jwt.encode(
        {"exp": time.time() + 60}, SECRET, "HS256", {"crit": ["x"], "x": 1}
    ),
    "HS512": lambda: jwt.encode({"exp": time.time() + 60}, SECRET * 2, "HS512"),
    "too long": lambda: signed(more="x" * 100_000),
    "two dots too many": lambda: signed() + "..",
    "one part": lambda: "abc",
    "empty": lambda: "",
    "not ASCII": lambda: "\xe9.\xe9.\xe9",
    "two tokens": lambda: f"{signed()},Bearer {signed()}",
    "signature cut": lambda: signed()[:-2],
    "bytes": lambda: "e30.\0.x",
}


@pytest.mark.parametrize("make", DEFECTS.values(), ids=DEFECTS)
def test_a_defect_is_401_with_invalid_token_and_no_fallback(make_client, run_id, make):
    client = make_client(public_read=("*",))
    defect = make().replace("\0", "")
    response = client.get(f"/runs/{run_id}/events", headers=bearer(defect))
    assert response.status_code == 401
    assert 'error="invalid_token"' in response.headers["WWW-Authenticate"]
    assert response.headers["Content-Type"] == "application/problem+json"
    assert not defect or defect not in response.text


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": ["a", "tailrace"]},
        {"exp": 4102444800},  # in 2100
        {"nbf": time.time() + 30},
        {"iat": time.time() + 50},
        {"sub": None},
        {"jti": "x", "iss": "anybody", "azp": 1},
    ],
)
def test_what_is_no_defect(client, run_id, claims):
    assert client.get(f"/runs/{run_id}/events", headers=bearer(signed(**claims))).status_code == 200


def test_two_secrets_while_they_are_changed(make_client, run_id):
    client = make_client(auth_secret=(OTHER, SECRET))
    for secret in (SECRET, OTHER):
        headers = bearer(token(secret, read=["*"]))
        assert client.get(f"/runs/{run_id}/events", headers=headers).status_code == 200


def test_an_issuer_is_checked_if_one_is_set(make_client, run_id):
    client = make_client(auth_issuer="https://a.example")
    for issuer, status in [("https://a.example", 200), ("https://b.example", 401), (None, 401)]:
        response = client.get(f"/runs/{run_id}/events", headers=bearer(signed(iss=issuer)))
        assert response.status_code == status


def test_an_api_key(make_client, run_id, tmp_path):
    file = tmp_path / "keys"
    digest = hashlib.sha256(b"the key").hexdigest()
    file.write_text(f"# for CI\nci {digest} append,read {run_id},x*\n")
    client = make_client(api_keys_file=str(file), auth_secret=())
    url = f"/runs/{run_id}/events"
    assert client.post(url, json=EVENT, headers=bearer("the key")).status_code == 201
    assert client.get(url, headers=bearer("the key")).status_code == 200
    assert client.delete(url, headers=bearer("the key")).status_code == 403
    assert client.get("/runs/other/events", headers=bearer("the key")).status_code == 403
    assert client.get(url, headers=bearer("another key")).status_code == 401
    assert client.get(url, headers=bearer(digest)).status_code == 401


def test_public_runs_can_be_read_without_a_token_and_nothing_else(make_client, run_id):
    client = make_client(public_read=(f"{run_id}*",))
    assert client.get(f"/runs/{run_id}/events").status_code == 200
    assert client.post(f"/runs/{run_id}/events", json=EVENT).status_code == 401
    assert client.delete(f"/runs/{run_id}/events").status_code == 401
    assert client.get("/runs/other/events").status_code == 401
    without = bearer(token(append=["x"]))
    assert client.get(f"/runs/{run_id}/events", headers=without).status_code == 200


def test_several_runs_are_followed_only_with_a_token_for_all_and_the_others_are_named(make_client):
    client = make_client(public_read=("public",))
    both, three = "/events/stream?run=a&run=public", "/events/stream?run=a&run=b&run=public"
    refused = client.get(three, headers=bearer(token(read=["a"])))
    assert (refused.status_code, "the run b" in refused.json["detail"]) == (403, True)
    for path, headers, status in (
        (both, bearer(token(read=["a"])), 200),
        (both, bearer(token(append=["a"])), 403),
        (both, {}, 401),
        ("/events/stream?run=public", {}, 200),
        (f"{both}&last_event_id=nonsense", {}, 401),
        (f"{three}&last_event_id=nonsense", bearer(token(read=["a"])), 403),
    ):
        response = client.get(path, headers=headers)
        response.close()
        assert response.status_code == status, (path, headers)


def test_who_may_only_request_appends_only_requests(client, run_id, store):
    url, headers = f"/runs/{run_id}/events", bearer(token(request=["*"]))
    assert client.post(url, json=REQUEST, headers=headers).status_code == 201
    assert client.post(url, json=[REQUEST, REQUEST], headers=headers).status_code == 201
    for body in (EVENT, [REQUEST, EVENT]):
        assert client.post(url, json=body, headers=headers).status_code == 403
    lines = headers | {"Content-Type": "application/x-ndjson"}
    good = b'{"event_category":"request","event_action":"a"}\n'
    assert client.post(url, data=good * 2, headers=lines).json["stored"] == 2
    bad = client.post(
        url, data=good + b'{"event_category":"llm","event_action":"a"}', headers=lines
    )
    assert bad.status_code == 403
    sse = headers | {"Content-Type": "text/event-stream"}
    for body in (
        b"event: request\ndata: 1\n\n",
        b'data: {"type":"finish"}\n\n',
        b"data: [DONE]\n\n",
    ):
        bad = client.post(f"{url}?dialect=ai-sdk", data=body, headers=sse)
        assert (bad.status_code, bad.json["line"], bad.json["stored"]) == (403, 1, 0)
    nothing = client.post(f"{url}?lease_seconds=1", data=b": ping\n\n", headers=sse)
    assert nothing.json["stored"] == 0
    assert all(event.category == "request" for event in store.get_events(run_id))
    assert store.state(run_id).lease_seconds is None


def test_a_request_may_have_no_lease_since_its_end_would_end_the_run(client, run_id, store):
    url, headers = f"/runs/{run_id}/events", bearer(token(request=["*"]))
    with_lease = REQUEST | {"lease_seconds": 1}
    for body in (with_lease, [REQUEST, with_lease]):
        assert client.post(url, json=body, headers=headers).status_code == 403
    lines = headers | {"Content-Type": "application/x-ndjson"}
    refused = client.post(url, data=json.dumps(with_lease) + "\n", headers=lines)
    assert refused.status_code == 403
    assert not store.state(run_id).exists
    assert client.post(url, json=with_lease, headers=bearer(token(append=["*"]))).status_code == 201


AUTHORIZATIONS = [
    ("Basic YWxhZGRpbjpvcGVuc2VzYW1l", 200),  # it is for a proxy, and the cookie counts
    ("Digest bearer=1", 200),
    ("Bearer", 401),
    ("Bearer ", 401),
    ("Bearer\tx", 401),
    ("bearer wrong", 401),
    ("Basic YWxhZGRpbjpvcGVuc2VzYW1l, Bearer wrong", 401),
    ("Basic YWxhZGRpbjpvcGVuc2VzYW1l,Bearer wrong", 401),
    (", Bearer wrong", 401),
]


@pytest.mark.parametrize(("authorization", "status"), AUTHORIZATIONS)
def test_where_a_bearer_token_is_meant_no_cookie_counts(client, run_id, authorization, status):
    client = client.application.test_client(use_cookies=False)
    headers = {"Cookie": f"tailrace={signed()}", "Authorization": authorization}
    assert client.get(f"/runs/{run_id}/events", headers=headers).status_code == status


class Slow(io.RawIOBase):
    """A body during whose arrival something happens."""

    def __init__(self, body: bytes, meanwhile) -> None:
        self._body, self._meanwhile = body, meanwhile

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        if self._body:
            self._meanwhile()
        piece, self._body = self._body[: len(buffer)], self._body[len(buffer) :]
        buffer[: len(piece)] = piece
        return len(piece)


def test_a_token_that_is_revoked_while_the_body_comes_appends_nothing(client, run_id, store):
    doomed, admin = signed(jti=f"{run_id}-doomed"), bearer(signed())
    revocation = {"jti": f"{run_id}-doomed"}

    def revoke() -> None:
        assert client.post("/revocations", json=revocation, headers=admin).status_code == 204
        url = f"/runs/{run_id}/events"
        wait_until(lambda: client.get(url, headers=bearer(doomed)).status_code == 401, "revoked")

    body = json.dumps(EVENT).encode()
    response = client.post(
        f"/runs/{run_id}/events",
        environ_overrides={"wsgi.input": Slow(body, revoke), "CONTENT_LENGTH": str(len(body))},
        headers=bearer(doomed) | {"Content-Type": "application/json"},
    )
    assert response.status_code == 401
    assert not store.state(run_id).exists


@pytest.mark.parametrize("kind", ["text/event-stream", "application/x-ndjson"])
def test_a_stream_whose_token_is_revoked_while_it_opens_does_not_open(
    client, run_id, monkeypatch, kind
):
    doomed, admin = signed(jti=f"{run_id}-doomed"), bearer(signed())
    nothing_follows = Subscriber.nothing_follows

    def revoke(subscriber: Subscriber) -> bool:
        revocation = {"jti": f"{run_id}-doomed"}
        assert client.post("/revocations", json=revocation, headers=admin).status_code == 204
        path = f"/runs/{run_id}/events"
        wait_until(lambda: client.get(path, headers=bearer(doomed)).status_code == 401, "revoked")
        return nothing_follows(subscriber)

    monkeypatch.setattr(Subscriber, "nothing_follows", revoke)
    headers = bearer(doomed) | {"Accept": kind}
    response = client.get(f"/runs/{run_id}/events/stream", headers=headers, buffered=False)
    assert response.status_code == 401
    response.close()


def test_an_issuer_s_clock_may_be_ahead_by_a_minute_only(client, run_id):
    url = f"/runs/{run_id}/events"
    assert client.get(url, headers=bearer(signed(iat=time.time() + 50))).status_code == 200
    assert client.get(url, headers=bearer(signed(iat=time.time() + 70))).status_code == 401


def test_health_checks_are_open_and_unknown_paths_stay_unknown(client):
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").status_code == 200
    assert client.get("/nothing").status_code == 404
    assert client.put("/runs/1/events").status_code == 405


def test_without_authentication_everything_is_open_and_there_is_no_session(store, run_id):
    client = create_app(Settings(), event_store=store).test_client()
    assert client.get(f"/runs/{run_id}/events").status_code == 200
    assert client.post("/session").status_code == 404
    assert client.delete("/session").status_code == 404
    assert client.post("/revocations", json={"jti": "a"}).status_code == 404


def test_a_view_that_declares_no_action_does_not_start(store, monkeypatch):
    from app.routes.reading import runs

    monkeypatch.delattr(runs.show, "action")
    with pytest.raises(TypeError, match=r"runs\.show does not declare"):
        create_app(Settings(), event_store=store)
