"""The keys of an issuer that is slow, away, or answers nonsense."""

import contextlib
import gc
import gzip
import json
import socket
import ssl
import threading
import time

import pytest
import trustme

from app.auth import fetch, jwks
from app.auth.fetch import FetchFailed
from app.auth.jwks import RemoteKeys
from tests.auth.issuer import OTHER_P256, P256, Issuer, jwk, send
from tests.clocks import replace_time
from tests.run_program import run_program
from tests.servers import free_port, wait_until


@pytest.fixture
def server():
    with Issuer(jwk(P256, "ES256", "one")) as server:
        yield server


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(jwks, "MIN_REFRESH_SECONDS", 0.2)
    monkeypatch.setattr(jwks, "INITIAL_RETRY_SECONDS", 0.05)


def started(url: str) -> tuple[RemoteKeys, list[list[str | None]]]:
    """Return the keys of a URL, after the first try, and the key ids of each change."""
    changes: list[list[str | None]] = []
    keys = RemoteKeys(url, lambda new: changes.append([key.id for key in new]))
    keys.ensure_started()
    keys.wait_first(20)
    return keys, changes


def read_once(url: str) -> RemoteKeys:
    """Return the keys of a URL, which nothing reads again when the issuer is gone."""
    keys = RemoteKeys(url, lambda _: None)
    keys.read()
    return keys


def test_the_keys_are_read_in_the_background(server):
    keys, changes = started(server.url)
    assert [key.id for key in keys.keys] == ["one"]
    assert changes == [["one"]]
    keys.ensure_started()
    assert server.asked == 1


def test_an_unknown_key_id_asks_for_one_refresh(server):
    keys, changes = started(server.url)
    server.keys.append(jwk(OTHER_P256, "ES256", "two"))
    keys.expect("one")
    assert server.asked == 1
    for _ in range(100):
        keys.expect("two")
    wait_until(lambda: len(keys.keys) == 2, "the new key is there")
    assert server.asked == 2
    assert changes == [["one"], ["one", "two"]]


def test_an_unknown_key_id_does_not_wait_for_the_last_regular_refresh(server, monkeypatch):
    monkeypatch.setattr(jwks, "MIN_REFRESH_SECONDS", 1000.0)
    pauses: list[float] = []
    held = threading.Event()
    replace_time(
        monkeypatch, jwks, sleep=lambda seconds: (pauses.append(seconds), held.wait(seconds))
    )
    keys, _ = started(server.url)
    server.keys.append(jwk(OTHER_P256, "ES256", "two"))
    keys.expect("two")
    wait_until(lambda: len(keys.keys) == 2, "the new key is there")
    pauses.clear()
    keys.expect("three")
    wait_until(lambda: pauses, "the second refresh is put off")
    assert pauses[0] > 200  # until the regular one
    assert server.asked == 2


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def records(caplog, url: str) -> list:
    """Return what was logged of an issuer; threads of other tests may still log theirs."""
    of_auth = [record for record in caplog.records if record.name == "tailrace.auth"]
    return [record for record in of_auth if url in record.getMessage()]


def slowly(start: bytes, piece: bytes):
    """Return an answer that goes on for much longer than a fetch may take."""

    def answer(handler) -> None:
        with contextlib.suppress(OSError):
            handler.wfile.write(start)
            for _ in range(200):
                handler.wfile.write(piece)
                time.sleep(0.05)

    return answer


def without_end(piece: bytes):
    """Return an answer whose bytes come as fast as they are read."""

    def answer(handler) -> None:
        with contextlib.suppress(OSError):
            while True:
                handler.wfile.write(piece * 1000)

    return answer


SLOW_ANSWERS = {
    "nothing for long": slowly(b"", b""),
    "a head byte by byte": slowly(HEAD + b"X-A: ", b"a"),
    "heads without a pause": without_end(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "heads without end": slowly(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "a body byte by byte": slowly(HEAD + b"Content-Length: 1000\r\n\r\n", b" "),
    "a body without a length": slowly(HEAD + b"\r\n", b" "),
    "the size of a chunk byte by byte": slowly(
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;", b"a"
    ),
    "a part of a body": slowly(HEAD + b"Content-Length: 1000\r\n\r\n{", b""),
}


def cut(handler) -> None:
    handler.wfile.write(HEAD + b'Content-Length: 1000\r\n\r\n{"keys": [')


def packed(document: bytes) -> dict[str, str]:
    return {"body": gzip.compress(document), "Content-Encoding": "gzip"}


BAD_ANSWERS = {
    "HTML": lambda handler: send(handler, 200, b"<html>"),
    "500": lambda handler: send(handler, 500, b'{"keys": []}'),
    "a redirect": lambda handler: send(handler, 302, b"", Location="/other"),
    "no key that can be used": lambda handler: send(handler, 200, b'{"keys": [{"kty": "X"}]}'),
    "a secret": lambda handler: send(handler, 200, b'{"keys": [{"kty": "oct", "k": "eA"}]}'),
    "too long": lambda handler: send(handler, 200, b" " * 2_000_000),
    "too long when unpacked": lambda handler: send(handler, 200, **packed(b" " * 20_000_000)),
    "not packed as it says": lambda handler: send(handler, 200, b"x", **{"Content-Encoding": "br"}),
    "damaged": lambda handler: send(handler, 200, b"{}", **{"Content-Encoding": "gzip"}),
    "cut off": cut,
    "no HTTP": lambda handler: handler.wfile.write(b"SSH-2.0-OpenSSH\r\n"),
    "nothing": lambda handler: None,
    **SLOW_ANSWERS,
}


@pytest.mark.parametrize("answer", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_the_last_good_set_stays_while_the_issuer_is_not_well(server, caplog, monkeypatch, answer):
    caplog.set_level("INFO", "tailrace.auth")
    keys, changes = started(server.url + "?secret=sesame")
    if answer in SLOW_ANSWERS.values():
        monkeypatch.setattr(jwks, "FETCH_SECONDS", 0.5)
    server.answer = answer
    server.keys = [jwk(OTHER_P256, "ES256", "two")]
    keys.expect("two")
    wait_until(lambda: server.asked >= 3, "it is asked again and again")
    assert [key.id for key in keys.keys] == ["one"]
    server.answer = server.send_keys
    wait_until(lambda: changes[-1] == ["two"], "the new set is there")
    wait_until(lambda: len(records(caplog, server.url)) == 2, "both changes are logged")
    assert [record.levelname for record in records(caplog, server.url)] == ["WARNING", "INFO"]
    assert not [record for record in records(caplog, server.url) if record.exc_info]
    assert "sesame" not in caplog.text


def test_an_issuer_may_withdraw_all_its_keys(server):
    keys, changes = started(server.url)
    server.keys = []
    keys.expect("two")
    wait_until(lambda: changes == [["one"], []], "no key is left")
    assert keys.keys == ()
    assert not keys.expect(None)


def test_a_set_may_come_packed(server):
    document = json.dumps({"keys": server.keys}).encode()
    server.answer = lambda handler: send(handler, 200, **packed(document))
    keys, _ = started(server.url)
    assert [key.id for key in keys.keys] == ["one"]


def test_a_set_may_have_a_hundred_keys(server):
    server.keys = [server.keys[0] | {"kid": str(number)} for number in range(100)]
    keys, _ = started(server.url)
    assert [key.id for key in keys.keys] == [str(number) for number in range(100)]


def test_nobody_waits_for_an_issuer_that_is_away(caplog):
    keys, changes = started(f"http://127.0.0.1:{free_port()}/keys?secret=sesame")
    assert keys.keys == ()
    assert changes == []
    keys.expect("one")
    assert "sesame" not in caplog.text


def test_only_the_first_requests_wait_for_the_first_set(server, monkeypatch):
    monkeypatch.setattr(jwks, "FETCH_SECONDS", 100.0)
    monkeypatch.setattr(fetch, "WAIT_SECONDS", 100.0)
    released = threading.Event()
    server.answer = lambda handler: (released.wait(50), server.send_keys(handler))
    keys = RemoteKeys(server.url, lambda new: None)
    keys.ensure_started()
    replace_time(monkeypatch, jwks, monotonic=lambda: time.monotonic() + 1000)
    keys.wait_first(1000)  # the time is over
    assert keys.keys == ()
    released.set()


def test_a_change_that_could_not_be_told_is_told_again(server, caplog):
    told: list[int] = []

    def on_change(new) -> None:
        told.append(len(new))
        if len(told) < 3:
            raise RuntimeError("no")

    keys = RemoteKeys(server.url, on_change)
    keys.ensure_started()
    wait_until(lambda: len(told) == 3, "it is told until it is heard")
    assert told == [1, 1, 1]
    assert len(keys.keys) == 1
    assert len([record for record in records(caplog, server.url) if record.exc_info]) == 1


def test_many_threads_start_it_once(server):
    keys = RemoteKeys(server.url, lambda new: None)
    threads = [threading.Thread(target=keys.ensure_started) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    keys.wait_first(20)
    assert server.asked == 1


def test_a_forked_child_reads_by_itself(server):
    ended = run_program("keys_in_fork", server.url)
    assert ended.returncode == 0, ended.stderr
    assert server.asked == 2


@pytest.mark.parametrize("name", ["a head byte by byte", "a part of a body"])
def test_a_greenlet_gives_up_an_answer_without_end(server, name):
    server.answer = SLOW_ANSWERS[name]
    ended = run_program("slow_issuer_in_greenlet", server.url, gevent=True)
    assert (ended.stdout, ended.returncode) == ("() True\n", 0), ended.stderr


@pytest.fixture
def authority(tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return authority


@pytest.fixture
def secure(authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with Issuer(jwk(P256, "ES256", "one"), tls=context) as secure:
        yield secure


def test_an_issuer_has_a_certificate_that_the_environment_trusts(secure, monkeypatch, tmp_path):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    keys = read_once(secure.url)
    assert len(keys.keys) == 1


def test_an_answer_without_end_over_tls_is_given_up(secure, monkeypatch, tmp_path):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    secure.answer = SLOW_ANSWERS["a head byte by byte"]
    with pytest.raises(FetchFailed, match="within 2 s"):
        fetch.fetch(secure.url, 2, 1000)


def test_a_tls_handshake_that_never_comes_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/keys"
        with pytest.raises(FetchFailed, match=r"within 0\.5 s"):
            fetch.fetch(url, 0.5, 1000)


@pytest.mark.parametrize("seconds", [0.0, 0.001])
def test_a_connection_that_comes_too_late_is_closed(secure, seconds):
    """No socket is left, which the garbage collector would complain of."""
    with pytest.raises(FetchFailed, match="no whole answer"):
        fetch.fetch(secure.url, seconds, 1000)
    gc.collect()


def test_an_issuer_with_another_certificate_is_not_asked(secure, caplog, monkeypatch):
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    keys = read_once(secure.url)
    assert keys.keys == ()
    assert secure.asked == 0
    assert "SSLError" in caplog.text


def test_no_password_of_a_netrc_is_sent(secure, monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login user password sesame")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    sent: list[str | None] = []
    secure.answer = lambda handler: (
        sent.append(handler.headers["Authorization"]),
        secure.send_keys(handler),
    )
    read_once(secure.url)
    assert sent == [None]


def test_the_proxy_of_the_environment_is_for_issuers_elsewhere(server, monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, server.url)
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("NO_PROXY", "")
    keys, _ = started(server.url)
    assert len(keys.keys) == 1
    read_once("https://issuer.invalid/keys")
    assert "issuer.invalid:443" in server.connected_to
    assert server.url.split("/")[2] not in server.connected_to


@pytest.mark.parametrize(
    "url",
    [
        "http://a.example/keys",
        "http://127.0.0.1.example/keys",
        "ftp://a",
        "file:///etc/passwd",
        "https://u:p@a.example/keys",
        "https://a.example:99999/keys",
        "https://a.example:x/keys",
        "https://[::1/keys",
        "https://",
        "keys",
        "",
    ],
)
def test_a_url_that_is_not_safe_is_refused(url):
    with pytest.raises(ValueError, match="https"):
        RemoteKeys(url, lambda new: None)


def test_the_thread_ends_when_nobody_needs_the_keys():
    before = set(threading.enumerate())
    keys = RemoteKeys(f"http://127.0.0.1:{free_port()}/keys", lambda new: None)
    keys.ensure_started()
    keys.wait_first(20)
    threads = {each for each in threading.enumerate() if each.name == "tailrace-keys"} - before
    assert len(threads) == 1
    del keys

    def have_ended() -> bool:
        gc.collect()  # the thread may have held them a moment ago
        return not any(thread.is_alive() for thread in threads)

    wait_until(have_ended, "it has ended")
