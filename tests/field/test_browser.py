"""EventSource in Chromium follows a run through heartbeats, a reload and a crash."""

import os
import re
import shutil
import signal
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote

import pytest

from tests.clients import Stream
from tests.field.reloads import replace_worker
from tests.processes import running
from tests.raw_http import stream_path
from tests.servers import ROOT, GatewayServer, wait_until

CHROMIUM = shutil.which("chromium")
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")

pytestmark = pytest.mark.skipif(
    CHROMIUM is None and "CI" not in os.environ,
    reason="chromium is not installed (.ci/run installs it)",
)


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Log nothing."""


@pytest.fixture
def page() -> Iterator[str]:
    """Serve the page on localhost, whose pages may read, and return its address."""
    handler = partial(QuietHandler, directory=ROOT / "tests" / "field")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/page.html"
        server.shutdown()


def test_a_browser_gets_every_event_once(redis_server, store, run_id, page, tmp_path):
    output = tmp_path / "out"

    def messages(name: str) -> list[tuple[str, str]]:
        """Return the id and the sequence of each message of that name that was logged."""
        logged = output.read_text(encoding="utf-8", errors="replace")
        return re.findall(rf"MESSAGE (\S*) {name} (\w+);", logged)

    with GatewayServer(
        redis_server.url, tmp_path / "log", HEARTBEAT_SECONDS=1, RETRY_MS=300
    ) as gateway:
        url = f"{gateway.url}{stream_path(run_id)}"
        command = [
            *(CHROMIUM, *OPTIONS, "--enable-logging=stderr", f"--user-data-dir={tmp_path}/data"),
            f"{page}?url={quote(url)}",
        ]
        with running(command, output):
            wait_until(lambda: messages("gateway.caught_up"), "the browser follows", 40)
            with Stream(url) as stream:
                wait_until(lambda: stream.comments.count("heartbeat") >= 2, "heartbeats")
            for number, how in enumerate((signal.SIGHUP, signal.SIGKILL), 1):
                store.add(run_id, "llm", "stream")
                wait_until(lambda n=number: len(messages("llm.stream")) == n, "the event", 40)
                replace_worker(gateway, how)
            store.add(run_id, "lifecycle", "completed")
            wait_until(lambda: messages("lifecycle.completed"), "the last event", 40)
    events = store.get_events(run_id)
    got = messages("llm.stream") + messages("lifecycle.completed")
    assert got == [(event.id, str(event.sequence)) for event in events]
    assert messages("message") == []
