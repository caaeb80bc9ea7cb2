"""The keys of an issuer that is slow, away, or answers nonsense."""

import gc
import threading
import time

import pytest

from app.auth import jwks
from app.auth.jwks import RemoteKeys
from tests.auth.issuer import OTHER_P256, P256, Issuer, jwk, send
from tests.servers import free_port, wait_until


@pytest.fixture
def server():
    with Issuer(jwk(P256, "ES256", "one")) as server:
        yield server


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(jwks, "MIN_REFRESH_SECONDS", 0.2)
    monkeypatch.setattr(jwks, "INITIAL_RETRY_SECONDS", 0.05)
    monkeypatch.setattr(jwks, "FETCH_SECONDS", 0.5)


def started(url: str) -> tuple[RemoteKeys, list[list[str | None]]]:
    """Return the keys of a URL, after the first try, and the key ids of each change."""
    changes: list[list[str | None]] = []
    keys = RemoteKeys(url, lambda new: changes.append([key.id for key in new]))
    keys.ensure_started()
    keys.wait_first(20)
    return keys, changes


def test_the_keys_are_read_in_the_background(server):
    keys, changes = started(server.url)
    assert [key.id for key in keys.keys] == ["one"]
    assert changes == [["one"]]
    keys.ensure_started()
    assert server.asked == 1


def test_an_unknown_key_id_asks_for_one_refresh(server):
    keys, changes = started(server.url)
    server.keys.append(jwk(OTHER_P256, "ES256", "two"))
    keys.want("one")
    assert server.asked == 1
    for _ in range(100):
        keys.want("two")
    wait_until(lambda: len(keys.keys) == 2, "the new key is there")
    assert server.asked == 2
    assert changes == [["one"], ["one", "two"]]


def slowly(handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b" ")
        time.sleep(0.05)


BAD_ANSWERS = {
    "HTML": lambda handler: send(handler, 200, b"<html>"),
    "500": lambda handler: send(handler, 500, b'{"keys": []}'),
    "a redirect": lambda handler: send(handler, 302, b"", Location="/other"),
    "an empty set": lambda handler: send(handler, 200, b'{"keys": []}'),
    "a secret": lambda handler: send(handler, 200, b'{"keys": [{"kty": "oct", "k": "eA"}]}'),
    "too long": lambda handler: send(handler, 200, b" " * 2_000_000),
    "byte by byte": slowly,
    "nothing": lambda handler: handler.connection.close(),
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("answer", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_the_last_good_set_stays_while_the_issuer_is_not_well(server, caplog, answer):
    keys, changes = started(server.url)
    server.answer = answer
    server.keys = [jwk(OTHER_P256, "ES256", "two")]
    keys.want("two")
    wait_until(lambda: server.asked >= 3, "it is asked again and again")
    assert [key.id for key in keys.keys] == ["one"]
    server.answer = server.send_keys
    wait_until(lambda: changes[-1] == ["two"], "the new set is there")
    levels = [each.levelname for each in caplog.records if each.name == "tailrace.auth"]
    assert levels[:1] == ["WARNING"]


def test_nobody_waits_for_an_issuer_that_is_away():
    keys, changes = started(f"http://127.0.0.1:{free_port()}/keys?secret=x")
    assert keys.keys == ()
    assert changes == []
    keys.want("one")


def test_the_thread_ends_when_nobody_needs_the_keys():
    before = set(threading.enumerate())
    keys, _ = started(f"http://127.0.0.1:{free_port()}/keys")
    threads = set(threading.enumerate()) - before
    assert {thread.name for thread in threads} == {"tailrace-keys"}
    del keys
    gc.collect()
    wait_until(lambda: not any(thread.is_alive() for thread in threads), "it has ended")


@pytest.mark.parametrize(
    "url", ["http://a.example/keys", "ftp://a", "https://u:p@a.example/keys", "https://", "keys"]
)
def test_a_url_that_is_not_safe_is_refused(url):
    with pytest.raises(ValueError, match="https"):
        RemoteKeys(url, lambda new: None)
