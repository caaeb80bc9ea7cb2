"""The token of a client: where it goes, and when the client asks for another one."""

import itertools
import json
import threading

import pytest

from app.client import Client
from app.streaming.errors import InvalidInput, Refused
from tests.client.fake_gateway import FakeGateway, Request, problem, response, stored, stream

OVER = response(204)


def frame(category: str, action: str, event_id: str | None, data: object) -> str:
    names = {"category": category, "action": action}
    about = {"id": event_id, "run_id": "1", "sequence": 1 if event_id else None, "timestamp": None}
    document = json.dumps({**about, "event": names, "data": data, "source": None})
    head = f"id: {event_id}\n" if event_id else ""
    return f"{head}event: {category}.{action}\ndata: {document}"


EVENT = frame("llm", "stream", "1-0", 1)
EXPIRING = frame("gateway", "expiring", None, {"expires_in": 30})


def only(token: str):
    """Answer 401 to a request with another token."""

    def answer(request: Request) -> bytes:
        accepted = request.headers.get("authorization") == f"Bearer {token}"
        return stored(request) if accepted else problem(401)

    return answer


def sent(gateway: FakeGateway) -> list[str | None]:
    return [request.headers.get("authorization") for request in gateway.requests]


def numbered():
    numbers = itertools.count(1)
    return lambda: f"t{next(numbers)}"


def test_a_token_is_sent_with_every_request():
    token = "abc.d-e_f~g+h/i=="
    with FakeGateway([only(token)]) as gateway, Client(gateway.url, token=token) as client:
        client.add(1, "llm", "stream")
        client.add_many(1, [{"event_category": "llm", "event_action": "stream"}])
    assert set(sent(gateway)) == {f"Bearer {token}"}


def test_without_a_token_nothing_is_sent():
    with FakeGateway([stored]) as gateway, Client(gateway.url) as client:
        client.add(1, "llm", "stream")
    assert sent(gateway) == [None]


def test_a_netrc_does_not_replace_the_token(monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with FakeGateway([only("mine")]) as gateway, Client(gateway.url, token="mine") as client:
        client.add(1, "llm", "stream")
    assert sent(gateway) == ["Bearer mine"]


def test_a_refused_token_is_asked_for_once_more():
    with FakeGateway([only("t2")]) as gateway, Client(gateway.url, token=numbered()) as client:
        client.add(1, "llm", "stream")
        client.add(1, "llm", "stream")
    assert sent(gateway) == ["Bearer t1", "Bearer t2", "Bearer t2"]


@pytest.mark.parametrize(("token", "requests"), [("t1", 1), (numbered(), 2)])
def test_a_token_that_stays_refused_is_an_error(token, requests):
    with FakeGateway([problem(401)]) as gateway, Client(gateway.url, token=token) as client:
        with pytest.raises(Refused) as failed:
            client.add(1, "llm", "stream")
        assert failed.value.status == 401
        assert "t1" not in str(failed.value) + repr(client)
    assert len(gateway.requests) == requests


def test_a_stream_of_events_is_not_repeated():
    events = iter([{"event_category": "llm", "event_action": "stream"}])
    with FakeGateway([problem(401)]) as gateway:
        client = Client(gateway.url, token=numbered())
        with pytest.raises(Refused):
            client.stream(1, events)
        client.close()
    assert len(gateway.requests) == 1


def test_threads_share_the_token_that_was_asked_for():
    asked = []

    def token() -> str:
        asked.append(1)
        return f"t{len(asked)}"

    with FakeGateway([only("t2")]) as gateway, Client(gateway.url, token=token) as client:
        threads = [
            threading.Thread(target=client.add, args=(1, "llm", "stream")) for _ in range(20)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(asked) == 2


def test_a_follower_asks_anew_when_its_token_expires_and_shows_nothing_of_it():
    script = [stream(EVENT, EXPIRING), OVER]
    with FakeGateway(script) as gateway, Client(gateway.url, token=numbered()) as client:
        events = [event.data for event in client.follow(1)]
    assert events == [1]
    assert sent(gateway) == ["Bearer t1", "Bearer t2"]
    assert gateway.requests[1].headers["last-event-id"] == "1-0"


def test_a_redirect_to_another_host_does_not_get_the_token():
    with FakeGateway([OVER]) as other:
        target = other.url.replace("127.0.0.1", "localhost")
        moved = response(307, location=f"{target}/x")
        with FakeGateway([moved]) as gateway, Client(gateway.url, token="mine") as client:
            list(client.follow(1))
    assert sent(gateway) == ["Bearer mine"]
    assert sent(other) == [None]


@pytest.mark.parametrize("token", ["", "p q", "p\r\nq", "\xe9", "=a", 5])
def test_what_is_no_token_is_refused_and_not_repeated(token):
    with pytest.raises(InvalidInput, match="token") as refused:
        Client("http://127.0.0.1:1", token=token)
    assert not token or str(token) not in str(refused.value)


def test_headers_of_the_user_are_sent_and_those_of_the_client_refused():
    headers = {"X-Tenant": "acme"}
    with FakeGateway([stored]) as gateway, Client(gateway.url, headers=headers) as client:
        client.add(1, "llm", "stream")
    assert gateway.requests[0].headers["x-tenant"] == "acme"
    for name in ("Authorization", "content-type", "Idempotency-Key"):
        with pytest.raises(InvalidInput, match=name):
            Client(gateway.url, headers={name: "x"})
