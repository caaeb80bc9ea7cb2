"""Responses that are cut off where only the end of the connection says where they end."""

import json
import ssl

import pytest
import trustme
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

from app.client import Client
from app.streaming.errors import Refused, RunEnded, StoreUnavailable
from tests.both_clients import replace_pauses
from tests.client.fake_gateway import FakeGateway, response, stored
from tests.client.test_follower import OVER, caught_up, event

JSON = "application/json"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    replace_pauses(monkeypatch, lambda seconds: None)


def unframed(status: int, body: bytes, content_type: str = JSON) -> bytes:
    """Return a response without a length, as a server of HTTP/1.0 sends it."""
    head = f"HTTP/1.1 {status} Some Reason\r\nContent-Type: {content_type}\r\n"
    return f"{head}Connection: close\r\n\r\n".encode() + body


@pytest.mark.only_client(reason="it is about urllib3")
def test_connections_of_another_kind_keep_their_way(monkeypatch):
    """A pool for a SOCKS proxy has connections of its own class."""
    opened = []

    class ThroughProxy(HTTPConnection):
        def connect(self) -> None:
            opened.append(self.host)
            super().connect()

    monkeypatch.setattr(HTTPConnectionPool, "ConnectionCls", ThroughProxy)
    cut = b"HTTP/1.1 201 Created\r\nContent-"
    whole = response(200, {"stored": 1, "last_id": "1-0", "last_sequence": 1})
    with FakeGateway([cut, stored, whole]) as gateway:
        assert Client(gateway.url).add(1, "llm", "stream") == "1-0"
        Client(gateway.url).stream(1, [{"event_category": "llm", "event_action": "stream"}])
    assert opened == ["127.0.0.1"] * 3


@pytest.mark.parametrize("end", [0, 5, 20, 30, 60, -3])
def test_a_response_over_tls_that_is_cut_off_is_a_lost_response(monkeypatch, tmp_path, end):
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    ingested = response(200, {"stored": 1, "last_id": "1-0", "last_sequence": 1})
    script = [lambda request: stored(request)[:end], stored, ingested[:end]]
    with FakeGateway(script, tls=context) as gateway, Client(gateway.url) as client:
        assert client.add(1, "llm", "stream") == "1-0"
        with pytest.raises(StoreUnavailable) as failed:
            client.stream(1, [{"event_category": "llm", "event_action": "stream"}])
    assert failed.value.ingested is None


STORED = json.dumps({"id": "1-0", "sequence": 1}).encode()
ENDED = json.dumps({"detail": "so", "ended": True}).encode()


def test_a_whole_body_without_a_length_is_read():
    with FakeGateway([unframed(201, STORED)]) as gateway:
        assert Client(gateway.url).add(1, "llm", "stream") == "1-0"
    with FakeGateway([unframed(409, ENDED)]) as gateway, pytest.raises(RunEnded):
        Client(gateway.url).add(1, "llm", "stream")


@pytest.mark.parametrize("end", range(len(STORED)))
def test_a_body_without_a_length_that_is_cut_off_is_a_lost_response(end):
    script = [unframed(201, STORED[:end]), response(201, json.loads(STORED))]
    with FakeGateway(script) as gateway:
        assert Client(gateway.url).add(1, "llm", "stream") == "1-0"
    assert len(gateway.requests) == 2


@pytest.mark.parametrize("end", range(len(ENDED)))
def test_a_refusal_without_a_length_that_is_cut_off_is_a_lost_response(end):
    with (
        FakeGateway([unframed(409, ENDED[:end], "application/problem+json")]) as gateway,
        pytest.raises(StoreUnavailable) as failed,
    ):
        Client(gateway.url, retry_seconds=0).add(1, "llm", "stream")
    assert failed.value.stored is None


@pytest.mark.parametrize("status", [200, 404])
def test_a_page_without_a_length_is_that_of_another_server(status):
    with (
        FakeGateway([unframed(status, b"<html>", "text/html")]) as gateway,
        pytest.raises(Refused),
    ):
        Client(gateway.url).add(1, "llm", "stream")
    assert len(gateway.requests) == 1


def test_a_follower_asks_again_after_a_stream_without_a_length():
    """It may have been cut off after the terminal event of a run that was reopened."""
    blocks = [event(1), caught_up(1), event(2, "lifecycle.completed")]
    body = "".join(f"{block}\n\n" for block in blocks).encode()
    with FakeGateway([unframed(200, body, "text/event-stream"), OVER]) as gateway:
        ids = [each.id for each in Client(gateway.url).follow(1) if each.id]
    assert ids == ["1-0", "2-0"]
    assert len(gateway.requests) == 2
