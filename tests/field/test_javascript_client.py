"""The JavaScript client in Chromium: a page of another origin, and a page that goes away."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from app.auth.tokens import make_token
from tests.field.test_browser import CHROMIUM, pytestmark
from tests.servers import GatewayServer, wait_until

__all__ = ["pytestmark"]

SECRET = "a secret of more than thirty-two bytes"
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]

# A program of five lines.
FOLLOW = """
import { follow } from '%s/client.js';

for await (const { sequence, event, data } of follow('%s/runs/%s')) {
  console.log(sequence, `${event.category}.${event.action}`, data);
}
"""


class Pages(BaseHTTPRequestHandler):
    """Serves an empty page at every path."""

    def do_GET(self) -> None:
        body = b"<!doctype html><title>A page</title>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Log nothing."""


@pytest.fixture
def origin() -> Iterator[str]:
    """Serve pages on an origin that is not the gateway's, and return it."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, origin: str) -> Iterator[Page]:
    """A page of the other origin, whose messages are in `page.printed`."""
    context = browser.new_context()
    page = context.new_page()
    page.printed = []
    page.on("console", lambda message: page.printed.append(message.text))
    page.on("pageerror", lambda error: page.printed.append(f"ERROR {error}"))
    page.goto(f"{origin}/page")
    yield page
    context.close()


def wait_for(page: Page, text: str, count: int = 1) -> None:
    """Wait until the page has printed a text so many times."""

    def is_printed() -> bool:
        page.wait_for_timeout(10)  # the messages come meanwhile
        return sum(text in line for line in page.printed) >= count

    wait_until(is_printed, f"{text!r} is printed: {page.printed}", 40)


def run_module(page: Page, code: str) -> None:
    page.evaluate(
        """(code) => {
            const script = document.createElement('script');
            script.type = 'module';
            script.textContent = code;
            document.head.append(script);
        }""",
        code,
    )


@pytest.mark.timeout(120)
def test_a_page_of_another_origin_follows_with_five_lines(page, gateway, store, run_id):
    store.add(run_id, "lifecycle", "started")
    run_module(page, FOLLOW % (gateway.url, gateway.url, run_id))
    wait_for(page, "gateway.caught_up")
    store.add(run_id, "llm", "stream", "é")
    wait_for(page, "2 llm.stream é")
    store.add(run_id, "lifecycle", "completed")
    wait_for(page, "3 lifecycle.completed null")
    caught_up = [line for line in page.printed if "caught_up" in line]
    assert page.printed == [
        "1 lifecycle.started null",
        *caught_up,
        "2 llm.stream é",
        "3 lifecycle.completed null",
    ]
    assert len(caught_up) == 1


@pytest.mark.timeout(120)
def test_a_worker_follows_with_the_same_lines(page, gateway, store, run_id):
    store.add(run_id, "lifecycle", "started")
    store.add(run_id, "lifecycle", "completed")
    code = (FOLLOW % (gateway.url, gateway.url, run_id)).replace("console.log", "postMessage")
    code = code.replace("postMessage(sequence, `${event.category}.${event.action}`, data)",
                        "postMessage(`${sequence} ${event.action}`)")  # fmt: skip
    page.evaluate(
        """(code) => {
            const url = URL.createObjectURL(new Blob([code], { type: 'text/javascript' }));
            const worker = new Worker(url, { type: 'module' });
            worker.onmessage = ({ data }) => console.log(data);
            worker.onerror = ({ message }) => console.log('ERROR', message);
        }""",
        code,
    )
    wait_for(page, "caught_up")
    assert page.printed == ["1 started", "2 completed", "null caught_up"]


@pytest.fixture
def trusting_gateway(redis_server, origin, tmp_path) -> Iterator[GatewayServer]:
    """A gateway whose tokens count in pages of the origin."""
    settings = {"AUTH_SECRET": SECRET, "CORS_ORIGINS": origin, "RETRY_MS": 200}
    with GatewayServer(redis_server.url, tmp_path / "log", **settings) as gateway:
        yield gateway


def token() -> str:
    grants = {"read": ["*"], "append": ["*"]}
    return make_token(SECRET, "tailrace", grants, 600, aud="tailrace")


@pytest.mark.timeout(120)
def test_it_appends_and_follows_several_runs_with_a_token(page, trusting_gateway, store, run_id):
    code = """
        import { Client } from '%(url)s/client.js';
        const client = new Client('%(url)s', { token: () => '%(token)s' });
        await client.append('%(run)s', { event_category: 'llm', event_action: 'stream', data: 1 });
        const appender = client.appender('%(run)s-2');
        for (let n = 0; n < 1500; n += 1) appender.emit('llm', 'stream', n);
        appender.emit('lifecycle', 'completed');
        await appender.close();
        console.log('STORED', appender.stored);
        await client.request('%(run)s', 'cancel');
        await client.append('%(run)s', { event_category: 'lifecycle', event_action: 'cancelled' });
        let count = 0;
        const runs = { '%(run)s': 'earliest', '%(run)s-2': 'earliest' };
        await client.followMany(runs).forEach(({ id }) => { if (id) count += 1; });
        console.log('FOLLOWED', count);
    """
    run_module(page, code % {"url": trusting_gateway.url, "token": token(), "run": run_id})
    wait_for(page, "FOLLOWED")
    assert page.printed == ["STORED 1501", "FOLLOWED 1504"]


@pytest.mark.timeout(120)
def test_a_page_with_the_cookie_of_its_session_needs_no_token(
    page, trusting_gateway, store, run_id
):
    code = """
        import { Client } from '%(url)s/client.js';
        const client = new Client('%(url)s', { credentials: 'include' });
        console.log('SECONDS', await client.openSession('%(token)s') > 500);
        await client.append('%(run)s', { event_category: 'lifecycle', event_action: 'completed' });
        for await (const { sequence } of client.follow('%(run)s')) console.log('GOT', sequence);
        await client.closeSession();
        await client.state('%(run)s').catch(({ status }) => console.log('THEN', status));
    """
    run_module(page, code % {"url": trusting_gateway.url, "token": token(), "run": run_id})
    wait_for(page, "THEN")
    printed = [line for line in page.printed if "Failed to load" not in line]
    assert printed == ["SECONDS true", "GOT 1", "GOT null", "THEN 401"]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("how", ["navigates", "closes"])
def test_what_waits_is_stored_though_the_page_goes(
    page, trusting_gateway, store, run_id, origin, how
):
    code = """
        import { Client } from '%(url)s/client.js';
        const client = new Client('%(url)s', { token: () => '%(token)s' });
        const appender = client.appender('%(run)s');
        await appender.emit('page', 'opened');
        await appender.flush();
        addEventListener('pagehide', () => appender.emit('page', 'last'));
        addEventListener('leave', () => {
            for (let n = 0; n < 100; n += 1) appender.emit('page', 'event', n);
        });
        console.log('READY');
    """
    run_module(page, code % {"url": trusting_gateway.url, "token": token(), "run": run_id})
    wait_for(page, "READY")
    if how == "navigates":
        leave = f"dispatchEvent(new Event('leave')); location.href = '{origin}/other'"
        page.evaluate(leave)
    else:
        page.evaluate("dispatchEvent(new Event('leave'))")
        page.close(run_before_unload=True)

    def stored() -> list[str]:
        return [each.action for each in store.get_events(run_id)]

    expected = ["opened", *["event"] * 100, "last"]
    with contextlib.suppress(AssertionError):  # that of the lists says more
        wait_until(lambda: stored() == expected, "all is stored")
    assert stored() == expected
    assert [each.data for each in store.get_events(run_id)][1:101] == list(range(100))
