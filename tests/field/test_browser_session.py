"""The session of a browser: a cookie in Chromium, renewed across expiry, and useless to others."""

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlencode

import pytest

from app.auth.tokens import make_token
from tests.field.test_browser import CHROMIUM, OPTIONS, pytestmark
from tests.processes import running
from tests.raw_http import stream_path
from tests.servers import ROOT, GatewayServer, wait_until

__all__ = ["pytestmark"]

SECRET = "a secret of more than thirty-two bytes"
# A stream that begins with less than half a second left is not warned, and `exp` has no fraction.
# So there must be seconds between a renewal and what it is for.
TTL_SECONDS = 8


class Handler(SimpleHTTPRequestHandler):
    """Serves the pages, and tokens to the page of the session, as a back end would."""

    def do_GET(self) -> None:
        if self.path != "/token":
            super().do_GET()
            return
        grants = {"read": ["*"], "append": ["*"], "delete": ["*"]}
        body = make_token(SECRET, "tailrace", grants, TTL_SECONDS, aud="tailrace").encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Log nothing."""


@pytest.fixture
def serve_pages() -> Iterator[Callable[[], str]]:
    """Return a function that serves the pages on an origin of their own, and returns it."""
    servers = []

    def serve() -> str:
        handler = partial(Handler, directory=ROOT / "tests" / "field")
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def following(
    redis_url: str, directory: Path, origin: str, run_id: str, **query: str
) -> Iterator[GatewayServer]:
    """Start a gateway that trusts an origin, and a browser whose page there follows a run.

    The browser logs to the file `out` in the directory, and the gateway to `log`.
    """
    settings = {"AUTH_SECRET": SECRET, "CORS_ORIGINS": origin, "ACCESS_LOG": "true"}
    with GatewayServer(redis_url, directory / "log", RETRY_MS=300, **settings) as gateway:
        query = {"gateway": gateway.url, "url": f"{gateway.url}{stream_path(run_id)}", **query}
        data = f"--user-data-dir={directory}/data"
        address = f"{origin}/session.html?{urlencode(query)}"
        command = [CHROMIUM, *OPTIONS, "--enable-logging=stderr", data, address]
        with running(command, directory / "out"):
            yield gateway


def logged(output: Path, pattern: str) -> list:
    return re.findall(pattern, output.read_text(encoding="utf-8", errors="replace"))


@pytest.mark.timeout(120)
def test_a_browser_that_renews_its_cookie_misses_nothing(
    redis_server, store, run_id, serve_pages, tmp_path
):
    origin, output = serve_pages(), tmp_path / "out"
    with following(redis_server.url, tmp_path, origin, run_id, renews="yes"):
        wait_until(lambda: logged(output, "gateway.caught_up"), "the browser follows", 40)
        while len(logged(output, r"EXPIRING;")) < 4:
            last = store.append(run_id, "llm", "stream").event.sequence
            seen = rf"MESSAGE \S* llm\.stream {last};"
            wait_until(lambda seen=seen: logged(output, seen), "the event is there", 40)
        store.add(run_id, "lifecycle", "completed")
        wait_until(lambda: logged(output, "lifecycle.completed"), "the last event", 40)
    got = logged(output, r"MESSAGE \S* (?:llm|lifecycle)\.\w+ (\d+);")
    assert got == [str(event.sequence) for event in store.get_events(run_id)]
    assert not logged(output, r"gateway\.(?:gap|reset)")
    sessions = logged(output, r"SESSION (\d+) (\d+);")
    assert len(sessions) >= 4
    assert set(sessions) == {("200", "0")}  # no script can read the cookie


def test_a_browser_that_does_not_renew_stops_at_401(redis_server, run_id, serve_pages, tmp_path):
    origin, output = serve_pages(), tmp_path / "out"
    with following(redis_server.url, tmp_path, origin, run_id, renews="no"):
        wait_until(lambda: logged(output, r"ERROR 2;"), "it is closed for good", 40)
    assert logged(output, r"EXPIRING;")


def test_a_page_of_another_origin_can_do_nothing_with_the_cookie(
    redis_server, store, run_id, serve_pages, tmp_path
):
    """Its site is the same, so that the browser does send the cookie."""
    origin, evil = serve_pages(), serve_pages()
    output = tmp_path / "out"
    store.add(run_id, "llm", "stream")
    attack = f"{evil}/attack.html?run={run_id}"
    with following(redis_server.url, tmp_path, origin, run_id, renews="yes", attack=attack):
        wait_until(lambda: logged(output, r"DONE;"), "the attack was tried", 40)
    log = (tmp_path / "log").read_text()
    tried = dict(logged(output, r"TRIED (\w+) ([\w ]+);"))
    assert tried.pop("simple") in ("opaque 0", "refused")
    assert set(tried.values()) == {"refused"}
    assert [event.action for event in store.get_events(run_id)] == ["stream"]
    assert re.search(rf"method=POST path=/runs/{run_id}/events status=403", log)
