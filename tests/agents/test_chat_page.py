"""A page with `useChat` in Chromium: its answer is whole after a reload, a break and restarts."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

from tests.agents.answers import ARGUMENTS, RESULT, TEXT, answer
from tests.agents.following import (
    HERE,
    PRESETS,
    append,
    are_installed,
    begins,
    events_of,
    lifecycle,
)
from tests.agents.relay import Relay
from tests.field.reloads import replace_worker
from tests.processes import NODE
from tests.servers import GatewayServer, wait_until
from tests.ui.conftest import CHROMIUM, OPTIONS

OF_7 = ("ai=ai-7", "@ai-sdk/react=ai-sdk-react-4")
PARTS = 5
HTML = '<!DOCTYPE html><meta charset="utf-8"><link rel="icon" href="data:,"><div id="page"></div>'
HTML += '<script type="module" src="chat.js"></script>'

pytestmark = [
    are_installed,
    pytest.mark.skipif(
        CHROMIUM is None and "CI" not in os.environ,
        reason="chromium is not installed (.ci/run installs it)",
    ),
    pytest.mark.timeout(120),
]


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()


def bundled(aliases: tuple[str, ...], directory: Path) -> bytes:
    """Return the script of the page, with other packages for some that it imports."""
    output = directory / "chat.js"
    command = [NODE, HERE / "node" / "bundle.mjs", output, *aliases]
    subprocess.run(command, check=True, capture_output=True)
    return output.read_bytes()


def text_of(events: list[dict]) -> str:
    """Return the text that is in events of an answer."""
    chunks = [event["data"] for event in events]
    return "".join(chunk["delta"] for chunk in chunks if chunk["type"] == "text-delta")


class ChatPage:
    """The page, and what it shows."""

    def __init__(self, page: Page):
        self.page = page
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def shown(self, name: str) -> str:
        return self.page.evaluate("id => document.getElementById(id)?.textContent", name)

    def wait_for(self, name: str, text: str) -> None:
        wait_until(lambda: self.shown(name) == text, f"{name} is {text[-40:]!r}", 30)

    def come_back(self) -> None:
        """Wait until the page knows that it was cut off, and let it be seen again."""
        self.wait_for("status", "error")
        assert "network" in self.shown("error")
        self.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


@pytest.mark.parametrize(("aliases", "query"), [((), "&own"), (OF_7, "")], ids=("6", "7"))
def test_the_answer_on_the_page_is_whole(aliases, query, browser, redis_server, run_id, tmp_path):
    run_id = f"page-{run_id}"
    events = events_of(answer("ai-sdk", run_id))
    size = -(-len(events) // PARTS)
    parts = [events[at : at + size] for at in range(0, len(events), size)]
    texts = list(map(text_of, parts))
    with (
        GatewayServer(redis_server.url, tmp_path / "log", COMPAT=PRESETS) as gateway,
        Relay(gateway.port, begins(run_id)) as relay,
        browser.new_context() as context,
    ):
        relay.pages["chat"] = "text/html", HTML.encode()
        relay.pages["chat.js"] = "text/javascript", bundled(aliases, tmp_path)
        chat = ChatPage(context.new_page())
        chat.page.goto(f"{relay.url}/browser/chat?chat={run_id}{query}")
        chat.wait_for("status", "ready")  # there is nothing to resume
        append(gateway, run_id, lifecycle("started"), *parts[0])
        chat.page.get_by_role("button").click()
        chat.wait_for("text", texts[0])

        chat.page.reload()
        append(gateway, run_id, *parts[1])
        chat.wait_for("text", "".join(texts[:2]))

        relay.drop()
        append(gateway, run_id, *parts[2])
        chat.come_back()
        chat.wait_for("text", "".join(texts[:3]))

        for number, how in ((3, signal.SIGHUP), (4, signal.SIGKILL)):
            replace_worker(gateway, how)
            append(gateway, run_id, *parts[number])
            chat.come_back()
            chat.wait_for("text", "".join(texts[: number + 1]))

        chat.wait_for("status", "ready")
        assert chat.shown("text") == TEXT
        assert chat.shown("answers") == "1"
        assert json.loads(chat.shown("tools")) == [[json.loads(ARGUMENTS), RESULT]]
        chat.page.reload()
        chat.wait_for("text", TEXT)
        chat.wait_for("status", "ready")
        assert chat.errors == []
