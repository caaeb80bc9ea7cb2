"""/debug/streams and /debug/feeds of real gateways, and the line of the log at a stream's end."""

import contextlib
import json
import re
import socket

import jwt
import pytest
import requests

from tests.raw_http import read_until
from tests.servers import GatewayServer, wait_until

SECRET = "a secret of more than thirty-two bytes"
NAMES = {"event_category": "llm", "event_action": "stream"}


def streams(gateway: GatewayServer, **query: object) -> list[dict]:
    answer = requests.get(f"{gateway.url}/debug/streams", params=query, timeout=20)
    assert answer.status_code == 200, answer.text
    return answer.json()["streams"]


def append(gateway: GatewayServer, run_id: str, **more: object) -> dict:
    url = f"{gateway.url}/runs/{run_id}/events"
    return requests.post(url, json=NAMES | more, timeout=20).json()


@contextlib.contextmanager
def stream(gateway: GatewayServer, path: str, *headers: str):
    """Open a stream that has caught up."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as connection:
        lines = "".join(f"{each}\r\n" for each in ("Host: localhost", *headers))
        connection.sendall(f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode())
        read_until(connection, b"caught_up")
        yield connection


def test_a_stream_shows_who_follows_what_and_how_far_it_has_come(gateway, run_id):
    first = append(gateway, run_id)
    path = f"/runs/{run_id}/events/stream?category=llm"
    headers = "User-Agent: curl/8", "X-Request-Id: a-1"
    with stream(gateway, path, *headers) as connection:
        last = append(gateway, run_id)
        read_until(connection, last["id"].encode())
        [found] = wait_until(
            lambda: [each for each in streams(gateway, run=run_id) if each["state"] == "parked"],
            "it is parked",
        )
    expected = {
        "kind": "stream",
        "runs": [run_id],
        "run_count": 1,
        "client": "127.0.0.1",
        "request_id": "a-1",
        "account": None,
        "user_agent": "curl/8",
        "ending": None,
        "cursor": last["id"],
        "lag_events": 0,
        "lag_seconds": 0.0,
        "lines": None,
        "events": 2,
        "unsent_bytes": 0,
        "format": "text/event-stream",
        "categories": ["llm"],
        "actions": [],
    }
    assert {name: found[name] for name in expected} == expected
    assert found["bytes"] > len(json.dumps(first))
    wait_until(lambda: not streams(gateway, run=run_id), "it is gone")


def test_a_client_that_does_not_read_is_behind(gateway, run_id):
    append(gateway, run_id)
    with stream(gateway, f"/runs/{run_id}/events/stream?last_event_id=latest"):
        for _ in range(60):
            append(gateway, run_id, data="x" * 200_000)
        found = wait_until(
            lambda: [each for each in streams(gateway, run=run_id) if each["lag_events"]],
            "it is behind",
        )
    [found] = found
    assert found["state"] == "writing"
    assert 0 < found["lag_events"] <= 60
    assert found["lag_seconds"] > 0


def test_lines_that_come_are_among_the_streams(gateway, run_id):
    head = f"POST /runs/{run_id}/events HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: b-2\r\n"
    head += "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
    line = json.dumps(NAMES).encode() + b"\n"
    chunk = b"%x\r\n%b\r\n" % (2 * len(line) + 1, line + b"\n" + line)
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as connection:
        connection.sendall(head.encode() + chunk)
        [found] = wait_until(
            lambda: [each for each in streams(gateway, run=run_id) if each["events"] == 2],
            "both are stored",
        )
        connection.sendall(b"0\r\n\r\n")
        read_until(connection, b'"stored":2')
    assert (found["kind"], found["lines"], found["format"]) == ("ingest", 3, None)
    assert found["bytes"] == 2 * len(line) + 1
    said = rf"ingest ended run={run_id} client=127.0.0.1 reason=ended seconds=\S+ lines=3 events=2 "
    said += rf"bytes={found['bytes']} cursor={found['cursor']} lag_events=- lag_seconds=- "
    said += "request_id=b-2"
    wait_until(lambda: re.search(said, gateway.log.read_text()), "the line")


def test_a_stream_of_many_runs_names_some_of_them(gateway, run_id):
    runs = [f"{run_id}-{number:02}" for number in range(12)]
    for each in runs:
        append(gateway, each)
    path = "/events/stream?" + "&".join(f"run={each}" for each in runs)
    with stream(gateway, path):
        [found] = wait_until(
            lambda: [each for each in streams(gateway, run=runs[11]) if each["state"] == "parked"],
            "it is parked",
        )
        feeds = requests.get(f"{gateway.url}/debug/feeds", {"after": run_id}, timeout=20).json()
    assert (found["runs"], found["run_count"]) == (runs[:10], 12)
    assert (found["lag_events"], found["events"]) == (0, 12)
    assert found["cursor"].startswith("m1.")
    merged = {each["run"]: each["merged"] for each in feeds["feeds"]}
    assert {each: merged[each] for each in runs} == dict.fromkeys(runs, 1)


def test_pages_of_streams_and_feeds_follow_one_another(gateway, run_id):
    runs = [f"{run_id}-{number}" for number in range(5)]
    with contextlib.ExitStack() as stack:
        for each in runs:
            append(gateway, each)
            stack.enter_context(stream(gateway, f"/runs/{each}/events/stream"))
        for name, of_run in (
            ("streams", lambda one: one["runs"][0]),
            ("feeds", lambda one: one["run"]),
        ):
            found, query = [], {"limit": 2}
            while True:
                page = requests.get(f"{gateway.url}/debug/{name}", query, timeout=20).json()
                found += map(of_run, page[name])
                assert len(page[name]) <= 2
                if page["next"] is None:
                    break
                query["after"] = page["next"]
            assert [each for each in found if each in runs] == runs
            assert page["total"] == len(found)


def test_a_feed_shows_its_viewers_and_what_it_holds(gateway, run_id):
    last = append(gateway, run_id)
    with stream(gateway, f"/runs/{run_id}/events/stream"):
        url = f"{gateway.url}/runs/{run_id}/events/stream"
        accept = {"Accept": "application/x-ndjson"}
        with requests.get(url, headers=accept, stream=True, timeout=20):
            page = wait_until(lambda: feed_of(gateway, run_id, 2), "both follow")
    assert page["viewers"] == {"text/event-stream": 1, "application/x-ndjson": 1}
    assert (page["position"], page["sequence"], page["ended"]) == (last["id"], 1, False)
    assert page["last_event_at"][:19] == last["timestamp"][:19]
    assert page["history_pages"] >= 1
    assert page["history_bytes"] > 0


def feed_of(gateway: GatewayServer, run_id: str, viewers: int) -> dict | None:
    feeds = requests.get(f"{gateway.url}/debug/feeds?limit=1000", timeout=20).json()["feeds"]
    found = [each for each in feeds if each["run"] == run_id]
    return found[0] if found and sum(found[0]["viewers"].values()) == viewers else None


def test_each_worker_answers_for_itself(start_gateway, run_id):
    gateway = start_gateway(WEB_CONCURRENCY=2)
    pids = {worker.pid for worker in gateway.workers()}
    append(gateway, run_id)
    found: dict[int, int] = {}

    def ask() -> bool:
        answer = requests.get(f"{gateway.url}/debug/streams", timeout=20).json()
        assert answer["worker"]["workers"] == 2
        found[answer["worker"]["pid"]] = answer["total"]
        return found.keys() == pids

    with stream(gateway, f"/runs/{run_id}/events/stream"):
        wait_until(ask, "both have answered")
        assert sorted(found.values()) == [0, 1]


@pytest.mark.parametrize("path", ["/debug/streams", "/debug/feeds"])
def test_without_authentication_only_programs_on_this_machine_may_ask(start_gateway, path):
    own = start_gateway(ALLOWED_HOSTS="runs.example")
    assert requests.get(own.url + path, timeout=20).ok
    for headers in ({"Host": "runs.example"}, {"X-Forwarded-For": "10.0.0.1"}):
        assert requests.get(own.url + path, headers=headers, timeout=20).status_code == 403
    anyone = start_gateway(ALLOW_ANONYMOUS="true")
    assert requests.get(anyone.url + path, timeout=20).status_code == 403


@pytest.mark.parametrize("path", ["/debug/streams", "/debug/feeds"])
def test_with_authentication_it_takes_admin_and_shows_no_token(start_gateway, run_id, path):
    gateway = start_gateway(AUTH_SECRET=SECRET)
    times = {"exp": 4_000_000_000, "aud": "tailrace", "sub": "ada"}
    for action, status in (("read", 403), ("append", 403), ("admin", 200)):
        token = jwt.encode(times | {"tailrace": {action: ["*"]}}, SECRET)
        bearer = {"Authorization": f"Bearer {token}"}
        assert requests.get(gateway.url + path, headers=bearer, timeout=20).status_code == status
    assert requests.get(gateway.url + path, timeout=20).status_code == 401
    requests.post(
        f"{gateway.url}/runs/{run_id}/events", json=NAMES, headers=bearer, timeout=20
    ).raise_for_status()
    with stream(gateway, f"/runs/{run_id}/events/stream", f"Authorization: Bearer {token}"):
        answer = requests.get(gateway.url + path, headers=bearer, timeout=20)
    assert token not in answer.text
    if path == "/debug/streams":
        assert [each["account"] for each in answer.json()["streams"]] == ["sub:ada"]


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_line_at_the_end_of_a_stream_says_where_it_was(start_gateway, run_id, log_format):
    gateway = start_gateway(LOG_FORMAT=log_format)
    append(gateway, run_id)
    with stream(gateway, f"/runs/{run_id}/events/stream", "X-Request-Id: c-3") as connection:
        ended = append(gateway, run_id, event_category="lifecycle", event_action="completed")
        read_until(connection, b"0\r\n\r\n")
    lines = wait_until(
        lambda: [each for each in gateway.log.read_text().splitlines() if "stream ended" in each],
        "the line",
    )
    names = ("run", "client", "reason", "events", "cursor", "lag_events", "request_id")
    values = (run_id, "127.0.0.1", "ended", 2, ended["id"], 0, "c-3")
    if log_format == "json":
        line = json.loads(lines[0])
        assert tuple(line[name] for name in names) == values
        assert line["bytes"] > 0
    else:
        for name, value in zip(names, values, strict=True):
            assert f" {name}={value}" in lines[0]
