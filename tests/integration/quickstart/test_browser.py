"""EventSource under Node.js: the quickstart's snippet, resuming, and broken connections."""

import contextlib
import random
import re
import socket
import threading

import pytest

from app.streaming.event_store import EventStore
from tests.processes import run_node, sequences_of
from tests.raw_http import reset_when_closed
from tests.servers import wait_until


def stream_url(port: int, run_id: str, query: str = "") -> str:
    return f"http://127.0.0.1:{port}/runs/{run_id}/events/stream?{query}"


def names_of(lines: list[dict]) -> list[str]:
    return [line["what"] for line in lines]


def append_a_run(store: EventStore, run_id: str) -> list[str]:
    return [
        store.add(run_id, "lifecycle", "started", {"task": "分析数据"}),
        store.add(run_id, "llm", "stream", {"content": "你好"}),
        store.add(run_id, "lifecycle", "completed", {"ok": True}),
    ]


def test_the_browser_snippet_calls_its_listeners_and_closes_with_the_run(
    snippet, gateway, store, run_id, tmp_path
):
    code = snippet("4.1").replace("const runId = 123;", f"const runId = '{run_id}';")
    with run_node("snippet.mjs", tmp_path / "out", stdin=code) as script:
        wait_until(lambda: f"opened run={run_id} " in gateway.log.read_text(), "it is open")
        append_a_run(store, run_id)
        printed = script.finished_text()
    assert re.search(r"^运行开始: \{.*task: '分析数据'.*^你好运行完成: \{", printed, re.S | re.M)
    assert "[lifecycle.started]" not in printed  # onmessage gets no named event
    assert "SSE 连接错误" not in printed
    assert gateway.log.read_text().count(f"opened run={run_id} ") == 1


def test_a_client_that_closes_at_the_end_makes_no_second_request(gateway, store, run_id, tmp_path):
    with run_node("follow.mjs", tmp_path / "out", stream_url(gateway.port, run_id)) as script:
        script.wait_for("gateway.caught_up")
        ids = append_a_run(store, run_id)
        lines = script.finish()
    assert names_of(lines) == [
        "request", "gateway.caught_up", "lifecycle.started", "llm.stream", "lifecycle.completed",
    ]  # fmt: skip
    assert [line["id"] for line in lines[2:]] == ids
    assert lines[2]["event"]["data"] == {"task": "分析数据"}


def test_untyped_events_reach_onmessage(gateway, store, run_id, tmp_path):
    url = stream_url(gateway.port, run_id, "typed=false")
    with run_node("follow.mjs", tmp_path / "out", url) as script:
        script.wait_for("caught_up")
        ids = append_a_run(store, run_id)
        lines = script.finish()
    messages = [line for line in lines if line["what"] == "onmessage"]
    assert [line["id"] for line in messages[1:]] == ids
    assert [line["event"]["event"]["action"] for line in messages] == [
        "caught_up", "started", "stream", "completed",
    ]  # fmt: skip
    assert not [name for name in names_of(lines) if "." in name]


def test_a_client_that_does_not_close_is_stopped_by_204(gateway, store, run_id, tmp_path):
    with run_node(
        "follow.mjs", tmp_path / "out", stream_url(gateway.port, run_id), "stay"
    ) as script:
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


def test_the_first_request_resumes_by_the_query(gateway, store, run_id, tmp_path):
    ids = append_a_run(store, run_id)
    url = stream_url(gateway.port, run_id, f"last_event_id={ids[0]}")
    with run_node("follow.mjs", tmp_path / "out", url) as script:
        lines = script.finish()
    assert sequences_of(lines) == [2, 3]


class CuttingProxy:
    """Relays to a port, and cuts each connection after a random number of bytes."""

    MAX_BYTES = 6000

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
        left = self._dice.randint(1, self.MAX_BYTES)
        with contextlib.suppress(OSError), client, socket.create_connection(self._target) as server:
            server.sendall(client.recv(65536))
            while left and (piece := server.recv(left)):
                client.sendall(piece)
                left -= len(piece)
            if not left:
                self.cuts += 1
                if self._dice.random() < 0.5:  # a reset in place of an orderly end
                    reset_when_closed(client)


@pytest.mark.parametrize("skipped", [0, 3])
def test_no_event_is_lost_or_doubled_when_connections_break_again_and_again(
    gateway, store, run_id, tmp_path, skipped
):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    ids = [store.add(run_id, "llm", "stream", {"n": number}) for number in range(5)]
    query = f"last_event_id={ids[skipped - 1]}" if skipped else ""
    with CuttingProxy(gateway.port, dice) as proxy:
        url = stream_url(proxy.port, run_id, query)
        with run_node("follow.mjs", tmp_path / "out", url) as script:
            for batch in range(10):
                # More bytes than the proxy passes on, so that each batch is cut somewhere.
                ids += [
                    store.add(run_id, "llm", "stream", "x" * dice.randint(0, 200))
                    for _ in range(CuttingProxy.MAX_BYTES // 200)
                ]
                wait_until(lambda batch=batch: proxy.cuts > batch, f"cut {batch}, seed {seed}")
            ids.append(store.add(run_id, "lifecycle", "completed"))
            lines = script.finish()
    assert sequences_of(lines) == list(range(skipped + 1, len(ids) + 1)), f"seed {seed}"
    assert not {"gateway.gap", "gateway.reset"} & set(names_of(lines)), f"seed {seed}"
    assert names_of(lines).count("error") >= 10
