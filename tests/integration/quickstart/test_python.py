"""Every Python snippet of the quickstart, run as its users have it."""

import os
import re
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from subprocess import Popen

import pytest
import redis
import requests
from packaging.requirements import Requirement

from tests.clients import Stream
from tests.processes import running
from tests.servers import ROOT, wait_until

KEY = "run:1:events"


def python(code: str, output: Path, redis_url: str | None) -> AbstractContextManager[Popen]:
    """Run a snippet in the directory of `output`, the file that takes what it prints."""
    environ = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
    environ |= {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    if redis_url:
        environ["REDIS_URL"] = redis_url
    command = [sys.executable, "-u", "-W", "error", "-c", code]
    return running(command, output, env=environ, cwd=output.parent)


def run_python(code: str, output: Path, redis_url: str | None = None) -> str:
    """Run a snippet to its end, which must come without an error. Returns what it printed."""
    with python(code, output, redis_url) as process:
        assert process.wait(30) == 0, output.read_text(encoding="utf-8")
    return output.read_text(encoding="utf-8")


# Redis, sections 1 and 2


@pytest.mark.parametrize("block", [0, 1])
def test_the_installed_redis_client_is_as_new_as_the_quickstart_asks(snippet, block):
    requirement = Requirement(snippet("1.3", block).strip().removeprefix("pip install "))
    assert requirement.name == "redis"
    assert requirement.specifier.contains(redis.__version__)


def test_the_connection_answers_a_ping(snippet, tmp_path):
    assert run_python(snippet("2.1"), tmp_path / "out") == "True\n"


def test_a_stream_is_written_read_and_deleted(snippet, client, tmp_path):
    first, second = run_python(snippet("2.2"), tmp_path / "out").splitlines()
    written = first.removeprefix("写入消息 ID: ")
    assert second.startswith(f"ID: {written}, 数据: {{'timestamp': '2025-01-01T12:00:00.000Z'")
    assert not client.exists(KEY)


def test_a_direct_xadd_is_delivered_live_and_its_deletion_is_reported(snippet, gateway, client):
    writing, comment, deleting = snippet("2.2").partition("# 清理测试数据\n")
    assert comment
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


def test_the_event_store_writes_reads_and_sets_the_expiry(
    snippet, server, client, monkeypatch, capsys
):
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


def test_the_event_store_reads_the_redis_url_of_dotenv(snippet, client, tmp_path):
    (tmp_path / ".env").write_text(snippet("1.2"), encoding="utf-8")
    for count in (1, 2):
        assert run_python(snippet("3.1"), tmp_path / "out").count("lifecycle") == count
        assert client.xlen(KEY) == count


def test_the_environment_overrides_dotenv(snippet, server, client, tmp_path):
    (tmp_path / ".env").write_text("REDIS_URL=redis://127.0.0.1:1/0\n")
    run_python(snippet("3.1"), tmp_path / "out", server.url)
    assert client.xlen(KEY) == 1


def test_the_endless_loop_prints_new_events_and_timeouts(snippet, server, store, tmp_path):
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
        wait_until(lambda: "超时，继续等待..." in printed(), "the loop reports a timeout")
        store.add(1, "llm", "stream", "after a timeout")
        wait_until(lambda: "after a timeout" in printed(), "the loop goes on")
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
        wait_until(lambda: "[llm.stream]" in output.read_text(), "live events are printed at once")
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
    assert first.pop("epoch").isdigit()
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
    assert client.keys("*run:*") == []
