"""The limits of a subject and of an address: 429 with Retry-After, and nobody else is held up."""

import contextlib
from hashlib import sha256

import pytest

from app import create_app
from app.auth import limits
from app.auth.tokens import make_token
from app.settings import Settings
from tests.clocks import replace_time

SECRET = "s" * 32
EVENT = {"event_category": "llm", "event_action": "stream"}
LINE = b'{"event_category":"llm","event_action":"stream"}\n'


class Clock:
    now = 1000.0


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    replace_time(monkeypatch, limits, monotonic=lambda: clock.now)
    return clock


@pytest.fixture
def make_client(store):
    def make(**settings: object):
        settings = Settings(auth_secret=(SECRET,), **settings)
        return create_app(settings, event_store=store).test_client()

    return make


def bearer(subject: str, **more: str) -> dict[str, str]:
    grants = {"read": ["*"], "append": ["*"]}
    token = make_token(SECRET, "tailrace", grants, 600, aud="tailrace", sub=subject, **more)
    return {"Authorization": f"Bearer {token}"}


def test_a_subject_appends_only_so_many_events_a_second(make_client, clock, run_id, store):
    client, url = make_client(max_appends_per_subject=5), f"/runs/{run_id}/events"
    assert client.post(url, json=[EVENT] * 5, headers=bearer("a")).status_code == 201
    refused = client.post(url, json=EVENT, headers=bearer("a", jti="another token"))
    assert refused.status_code == 429
    assert refused.headers.getlist("Retry-After") == ["1"]
    assert client.post(url, json=EVENT, headers=bearer("b")).status_code == 201
    clock.now += 0.41
    assert client.post(url, json=[EVENT] * 2, headers=bearer("a")).status_code == 201
    assert client.post(url, json=EVENT, headers=bearer("a")).status_code == 429
    assert len(store.get_events(run_id)) == 8


def test_a_batch_larger_than_the_limit_is_appended_when_nothing_was_for_a_second(
    make_client, clock, run_id
):
    client, url = make_client(max_appends_per_subject=5), f"/runs/{run_id}/events"
    assert client.post(url, json=[EVENT] * 20, headers=bearer("a")).status_code == 201
    for _ in range(3):
        clock.now += 1
        assert client.post(url, json=EVENT, headers=bearer("a")).status_code == 429
    clock.now += 1.001
    assert client.post(url, json=EVENT, headers=bearer("a")).status_code == 201


def test_lines_beyond_the_limit_are_refused_and_counted(make_client, clock, run_id, store):
    client, url = make_client(max_appends_per_subject=5), f"/runs/{run_id}/events"
    assert client.post(url, json=[EVENT] * 5, headers=bearer("a")).status_code == 201
    headers = bearer("a") | {"Content-Type": "application/x-ndjson"}
    refused = client.post(url, data=LINE * 3, headers=headers)
    assert refused.status_code == 429
    assert (refused.json["stored"], refused.json["line"]) == (0, 1)
    assert "Retry-After" in refused.headers
    assert len(store.get_events(run_id)) == 5


def test_blank_lines_are_no_events(make_client, clock, run_id, store):
    """A batch may take more than there is; what is alive meanwhile sends blank lines."""
    client, url = make_client(max_appends_per_subject=5), f"/runs/{run_id}/events"
    headers = bearer("a") | {"Content-Type": "application/x-ndjson"}
    stored = client.post(url, data=LINE * 20 + b"\n \n", headers=headers)
    assert (stored.status_code, stored.json["stored"]) == (200, 20)
    blank = client.post(url, data=b"\n\n", headers=headers)
    assert (blank.status_code, blank.json["stored"]) == (200, 0)
    wrong = client.post(url, data=b"\n{\n", headers=headers)
    assert (wrong.status_code, wrong.json["line"]) == (400, 2)


def test_a_token_without_a_subject_has_limits_of_its_own(make_client, run_id, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(f"a {sha256(b'key-of-a').hexdigest()} read *\n")
    keys.chmod(0o600)
    client = make_client(max_streams_per_subject=1, api_keys_file=str(keys))
    url = f"/runs/{run_id}/events/stream"

    def without_subject(**claims: str) -> dict[str, str]:
        token = make_token(SECRET, "tailrace", {"read": ["*"]}, 600, aud="tailrace", **claims)
        return {"Authorization": f"Bearer {token}"}

    bearers = [
        bearer("a"),
        without_subject(jti="1"),
        without_subject(jti="2"),
        without_subject(more="1"),
        without_subject(more="2"),
        {"Authorization": "Bearer key-of-a"},
    ]
    with contextlib.ExitStack() as stack:
        for headers in bearers:
            stream = client.get(url, headers=headers, buffered=False)
            stack.enter_context(contextlib.closing(stream))
            assert stream.status_code == 200
            assert client.get(url, headers=headers).status_code == 429


def test_a_browser_with_too_many_streams_comes_back(make_client, run_id):
    """It would close its EventSource for good after a 429."""
    client, url = make_client(max_streams_per_subject=1), f"/runs/{run_id}/events/stream"
    headers = bearer("a") | {"Accept": "text/event-stream"}
    first = client.get(url, headers=headers, buffered=False)
    refused = client.get(url, headers=headers)
    assert (refused.status_code, refused.mimetype) == (200, "text/event-stream")
    assert refused.data.startswith(b"retry: ")
    assert b"data" not in refused.data
    first.close()


def test_a_subject_has_only_so_many_streams(make_client, run_id):
    client, url = make_client(max_streams_per_subject=2), f"/runs/{run_id}/events/stream"

    def open_stream(subject: str):
        return client.get(url, headers=bearer(subject), buffered=False)

    with contextlib.ExitStack() as stack:
        first = stack.enter_context(contextlib.closing(open_stream("a")))
        second = stack.enter_context(contextlib.closing(open_stream("a")))
        assert (first.status_code, second.status_code) == (200, 200)
        refused = open_stream("a")
        assert refused.status_code == 429
        assert "Retry-After" in refused.headers
        other = stack.enter_context(contextlib.closing(open_stream("b")))
        assert other.status_code == 200
        first.close()
        third = stack.enter_context(contextlib.closing(open_stream("a")))
        assert third.status_code == 200


def test_an_address_that_fails_too_often_has_to_wait(make_client, clock, run_id):
    client, url = make_client(max_auth_failures=6), f"/runs/{run_id}/events"

    def status(headers: dict[str, str], address: str = "1.2.3.4") -> int:
        environ = {"REMOTE_ADDR": address}
        return client.get(url, headers=headers, environ_overrides=environ).status_code

    known = bearer("known")
    assert status(known) == 200
    for number in range(6):
        assert status({"Authorization": f"Bearer wrong-{number}"}) == 401
    assert status({"Authorization": "Bearer wrong"}) == 429
    assert status(bearer("new")) == 200  # all clients behind a proxy have one address
    assert status(known) == 200
    assert status(bearer("new"), "5.6.7.8") == 200
    clock.now += 10
    assert status({"Authorization": "Bearer wrong"}) == 401
    assert status({"Authorization": "Bearer wrong"}) == 429
