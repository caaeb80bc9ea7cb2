"""The examples that have a page: a chat whose answers go on, and an agent that a button cancels."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE, STDOUT
from typing import Self

import pytest
from playwright.sync_api import Page

from tests.processes import NODE
from tests.servers import ROOT, GatewayServer, RedisServer, Server, free_port, wait_until
from tests.ui.run_page import RunPage

# What Chromium logs of the breaks that a test causes.
BREAKS = ("ERR_",)

GRAPH_AGENT = (sys.executable, "-W", "error", "-m", "examples.graph_agent")

ADVICE = (
    "I say a word every {} milliseconds, so that you have time to try something. Reload this "
    "page, or open it in a second tab. Stop the gateway, wait as long as you like, and start it "
    "again. Meanwhile I go on. You will read every word of this answer, and none of them twice."
)


class ChatServer(Server):
    """The example chat on a free port. Its model says a word every `word_ms` milliseconds."""

    def __init__(self, gateway_url: str, folder: Path, word_ms: int = 100):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.word_ms = word_ms
        self._gateway_url = gateway_url
        self._folder = folder
        self._log = folder / "log"

    def start(self) -> Self:
        environ = {
            **os.environ,
            "PORT": str(self.port),
            "TAILRACE_URL": self._gateway_url,
            "WORD_MS": str(self.word_ms),
        }
        command = [NODE, ROOT / "examples" / "chat" / "server.js"]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=self._folder, env=environ, stdout=log, stderr=log
            )
        wait_until(self._serves, "the chat serves", 50)
        return self

    def stop(self) -> None:
        """Kill the server, which may have printed no error."""
        super().stop()
        assert self._log.read_text() == f"open {self.url}\n"

    def _serves(self) -> bool:
        assert self.process.poll() is None, self._log.read_text()
        return self._log.read_text() != ""


class ChatPage:
    """The page of a chat. `page` is that of playwright."""

    def __init__(self, page: Page) -> None:
        self.page = page

    @property
    def id(self) -> str:
        """The id of the chat, and of its run."""
        return self.page.url.rpartition("/")[2]

    def ask(self, question: str) -> None:
        self.page.fill("input", question)
        self.page.click("text=Ask")

    def messages(self) -> list[tuple[str, str]]:
        """Return who said what."""
        found = self.page.query_selector_all("p:not([role])")
        return [(each.get_attribute("class"), each.text_content().strip()) for each in found]

    def wait_for_words(self, count: int) -> None:
        """Wait until the newest message is an answer of so many words."""
        self.page.wait_for_function(
            """(count) => {
              const last = [...document.querySelectorAll("p[class]")].at(-1);
              return last?.className === "assistant" && last.textContent.split(" ").length > count;
            }""",
            arg=count,
        )

    def wait_for_status(self, text: str) -> None:
        self.page.wait_for_selector(f"[role=status]:has-text('{text}')")


@pytest.fixture(scope="module")
def chat_gateway(
    redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayServer]:
    """Start a gateway with the preset of the AI SDK."""
    log = tmp_path_factory.mktemp("gateway") / "log"
    with GatewayServer(redis_server.url, log, COMPAT="ai-sdk") as gateway:
        yield gateway


def answer(question: str, word_ms: int) -> tuple[str, str]:
    return ("assistant", f"You said: {question}. {ADVICE.format(word_ms)}")


def test_an_answer_of_the_chat_goes_on(chat_gateway, tmp_path, open_context):
    with ChatServer(chat_gateway.url, tmp_path) as server:
        here, elsewhere = open_context(expected=BREAKS), open_context(expected=BREAKS)
        chat, other = ChatPage(here.new_page()), ChatPage(elsewhere.new_page())
        chat.page.goto(server.url)
        chat.ask("hello")
        chat.wait_for_words(3)
        other.page.goto(chat.page.url)
        chat.page.reload()
        for each in (chat, other):
            each.wait_for_words(6)
            each.page.context.set_offline(True)
        chat_gateway.stop()
        for each in (chat, other):
            each.wait_for_status("The connection is lost.")
        chat_gateway.start()
        here.set_offline(False)
        chat.wait_for_status("ready")
        said = [("user", "hello"), answer("hello", 100)]
        assert chat.messages() == said

        # The other comes back when the answer has ended too long ago.
        other.page.route("**/api/chat/*/stream", lambda route: route.fulfill(status=204))
        elsewhere.set_offline(False)
        other.page.wait_for_selector(".assistant:has-text('twice.')")
        assert other.messages() == said


def test_a_chat_whose_server_is_killed_says_so_and_answers_again(
    chat_gateway, tmp_path, open_context, store
):
    with ChatServer(chat_gateway.url, tmp_path) as server:
        chat = ChatPage(open_context(expected=BREAKS).new_page())
        chat.page.goto(server.url)
        chat.ask("hello")
        chat.wait_for_words(3)
        server.stop()
        store.add(chat.id, "shorter", "lease", lease_seconds=1)
        chat.page.wait_for_selector("[role=alert]:text-is('the run is lost')")
        [question, (_, words)] = chat.messages()
        assert question == ("user", "hello")
        assert answer("hello", 100)[1].startswith(words)

        server.word_ms = 1
        server.start()
        chat.page.reload()
        chat.page.wait_for_selector("[role=alert]")
        assert chat.messages() == [question, ("assistant", words)]
        chat.page.click("text=Answer again")
        chat.wait_for_status("ready")
        said = [question, answer("hello", 1)]
        assert chat.messages() == said

        chat.ask("again")
        chat.wait_for_words(50)
        chat.wait_for_status("ready")
        said += [("user", "again"), answer("again", 1)]
        assert chat.messages() == said
        chat.page.reload()
        chat.wait_for_words(50)
        assert chat.messages() == said


def test_the_button_of_the_page_cancels_the_agent(chat_gateway, open_context, store, run_id):
    command = [*GRAPH_AGENT, run_id, "--pace", "0.3"]
    environ = {**os.environ, "TAILRACE_URL": chat_gateway.url}
    with subprocess.Popen(
        command, cwd=ROOT, env=environ, stdout=PIPE, stderr=STDOUT, text=True
    ) as process:
        run = RunPage(open_context().new_page())
        run.page.goto(f"{chat_gateway.url}/ui/runs/{run_id}")
        run.wait_for_rows()
        run.page.click("#cancel")
        run.page.click("text=Ask it to stop")
        run.wait(lambda: run.text("#state") == "cancelled", "the end is told")
        output, _ = process.communicate(timeout=20)
    assert output == f"{chat_gateway.url}/ui/runs/{run_id}\ncancelled\n"
    assert process.returncode == 130
    names = [event.name for event in store.get_events(run_id)]
    assert names[-1] == "lifecycle.cancelled"
    assert names.count("request.cancel") == 1
