"""The page /docs in Chromium: it shows every operation, and loads nothing from elsewhere."""

import re
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

from tests.field.test_browser import CHROMIUM, OPTIONS, pytestmark
from tests.servers import GatewayServer

__all__ = ["pytestmark"]

PREFIX = "/a/gateway"


@pytest.fixture
def prefixed(gateway: GatewayServer) -> Iterator[str]:
    """Serve the gateway behind a prefix, as a proxy does that removes it; return the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.removeprefix(PREFIX)
            if path == self.path:
                self.send_error(404)
                return
            answer = requests.get(gateway.url + path)
            self.send_response(answer.status_code)
            for name in ("Content-Type", "Content-Security-Policy", "X-Content-Type-Options"):
                if name in answer.headers:
                    self.send_header(name, answer.headers[name])
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *arguments: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}{PREFIX}"
        server.shutdown()


def shown(address: str, directory: Path) -> tuple[str, list[str]]:
    """Return the page as Chromium has made it, and what was logged: errors and violations too."""
    command = [
        *(CHROMIUM, *OPTIONS, "--enable-logging=stderr", f"--user-data-dir={directory}/data"),
        *("--virtual-time-budget=30000", "--dump-dom", address),
    ]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=50)
    return done.stdout, re.findall(r".*CONSOLE.*", done.stderr)


def operations_in(page: str) -> set[str]:
    return set(re.findall(r'id="operations-(?!tag-)([^"]+)"', page))


def operations_of(url: str) -> set[str]:
    document = requests.get(f"{url}/openapi.json").json()
    return {
        f"{each['tags'][0]}-{each['operationId']}"
        for path in document["paths"].values()
        for each in path.values()
    }


@pytest.mark.parametrize("opened", ["", "#/Writing/eventsAppend", "#/Streams/streamFollow"])
def test_the_page_shows_every_operation(gateway, opened, tmp_path):
    page, logged = shown(f"{gateway.url}/docs{opened}", tmp_path)
    assert operations_in(page) == operations_of(gateway.url)
    assert len(re.findall(r'class="opblock [^"]*is-open', page)) == bool(opened)
    assert logged == []


def test_the_page_holds_behind_a_prefix(gateway, prefixed, tmp_path):
    page, logged = shown(f"{prefixed}/docs", tmp_path)
    assert operations_in(page) == operations_of(gateway.url)
    assert logged == []


def test_the_page_may_load_only_what_its_gateway_serves(gateway):
    policy = requests.get(f"{gateway.url}/docs").headers["Content-Security-Policy"]
    sources = dict(each.strip().split(" ", 1) for each in policy.split(";"))
    assert sources.pop("default-src") == "'none'"
    assert sources.pop("img-src") == "'self' data:"
    assert set(sources.values()) == {"'self'", "'none'"}
