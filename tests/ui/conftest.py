"""A Chromium whose pages may log no error and break no policy, and a gateway for large runs."""

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.servers import GatewayServer, RedisServer
from tests.ui.run_page import RunPage

CHROMIUM = shutil.which("chromium")
# Without these, Chromium asks hosts elsewhere at its start.
OPTIONS = (
    *("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-component-update"),
    *("--disable-background-networking", "--disable-sync", "--no-first-run"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = pytest.mark.skipif(
        CHROMIUM is None and "CI" not in os.environ,
        reason="chromium is not installed (.ci/run installs it)",
    )
    for item in items:
        if item.path.parent.name == "ui":
            item.add_marker(missing)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start Chromium for the tests of a module: its event loop would be in the way of others."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def open_context(browser: Browser) -> Iterator[Callable[..., BrowserContext]]:
    """Return a function that opens a browser without cookies. Its pages may log no error.

    `expected` names errors by a part of their text: those that the test means to cause.
    """
    contexts: list[BrowserContext] = []
    problems: list[str] = []

    def open_context(expected: tuple[str, ...] = (), **options: Any) -> BrowserContext:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        context.set_default_timeout(20_000)

        def note(text: str) -> None:
            if not any(each in text for each in expected):
                problems.append(text)

        def watch(page: Page) -> None:
            page.on("pageerror", lambda error: note(f"{error}\n{error.stack}"))
            page.on("console", lambda m: note(m.text) if m.type in ("error", "warning") else None)
            page.on("dialog", lambda dialog: note(f"a dialog: {dialog.message}"))

        context.on("page", watch)
        contexts.append(context)
        return context

    yield open_context
    for context in contexts:
        context.close()
    assert problems == []


@pytest.fixture(scope="session")
def large_gateway(
    redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayServer]:
    """Start a gateway that keeps large runs and large events."""
    log = tmp_path_factory.mktemp("gateway") / "log"
    settings = {"STREAM_MAXLEN": 2_000_000, "MAX_EVENT_BYTES": 3_000_000, "RETRY_MS": 300}
    with GatewayServer(redis_server.url, log, **settings) as gateway:
        yield gateway


@pytest.fixture
def open_run(
    open_context: Callable[..., BrowserContext], large_gateway: GatewayServer
) -> Callable[..., RunPage]:
    """Return a function that opens the page of a run."""

    def open_run(run_id: str, *, link: str = "", url: str = "", **options: Any) -> RunPage:
        page = open_context(**options).new_page()
        page.goto(f"{url or large_gateway.url}/ui/runs/{run_id}{link}")
        return RunPage(page)

    return open_run
