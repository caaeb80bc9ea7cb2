"""Data with line breaks and odd characters: every client gets it complete, and as one event."""

import json

import pytest
import requests

from tests.clients import Stream
from tests.servers import GatewayServer

ODD_TEXTS = [
    *(
        "a\rb",
        "a\nb",
        "a\r\nb",
        "a\u2028b",
        "a\u2029b",
        "a\x85b",
        "a\0b",
        "😀",
        "\ufeffa",
        "\ufeff",
    ),
    *("\n\nevent: x\ndata: y\n\n", "\r\rid: 9-9\r\r", ": comment", "\x0b\x0c\x1c\x1d\x1e\x1f\x7f"),
    *("data: x\n\n", "\n", "\\u2028", "</script>", "\U0010ffff", "e\u0301", " leading", ""),
]


@pytest.fixture
def odd_run(gateway: GatewayServer, run_id: str) -> str:
    """Append each odd text as data, key and source, end the run, and return its URL."""
    path = f"{gateway.url}/runs/{run_id}/events"
    for text in ODD_TEXTS:
        event = {"event_category": "llm", "event_action": "stream"}
        answer = requests.post(path, json={**event, "data": {text: [text]}, "source": text})
        assert answer.status_code == 201
    end = {"event_category": "lifecycle", "event_action": "completed"}
    assert requests.post(path, json=end).status_code == 201
    return path


def check_complete(events: list[dict]) -> None:
    """Check that every text has come as one event, and the end of the run after them."""
    assert [event["sequence"] for event in events] == list(range(1, len(ODD_TEXTS) + 2))
    *odd, end = events
    assert [event["data"] for event in odd] == [{text: [text]} for text in ODD_TEXTS]
    assert [event["source"] for event in odd] == ODD_TEXTS
    assert end["event"] == {"category": "lifecycle", "action": "completed"}


@pytest.mark.parametrize("query", ["", "typed=false"])
def test_an_event_stream_carries_odd_data_from_the_history(odd_run, query):
    with Stream(f"{odd_run}/stream?{query}") as stream:
        stream.wait_for_end()
    check_complete([message.json for message in stream.events])
    assert [control.json["event"]["action"] for control in stream.controls] == ["caught_up"]


def test_an_event_stream_carries_odd_data_live(gateway, store, run_id):
    with Stream(f"{gateway.url}/runs/{run_id}/events/stream") as stream:
        stream.wait_for_control("caught_up")
        for text in ODD_TEXTS:
            store.add(run_id, "llm", "stream", {text: [text]}, text)
        store.add(run_id, "lifecycle", "completed")
        stream.wait_for_end()
    check_complete([message.json for message in stream.events])


def test_json_lines_carry_odd_data(odd_run):
    headers = {"Accept": "application/x-ndjson"}
    lines = requests.get(f"{odd_run}/stream", headers=headers, timeout=20).text.splitlines()
    events = [json.loads(line) for line in lines]
    check_complete([event for event in events if event["event"]["category"] != "gateway"])


@pytest.mark.parametrize("chunk_size", [1, 512, 100_000])
def test_the_lines_of_requests_carry_odd_data(odd_run, chunk_size):
    """The quickstart's client reads so: every line that begins with `data:` is an event."""
    events = []
    with requests.get(f"{odd_run}/stream", stream=True, timeout=20) as answer:
        for line in answer.iter_lines(chunk_size, decode_unicode=True):
            if line.startswith("data:"):
                events.append(json.loads(line[5:].strip()))
            else:
                assert line.partition(":")[0] in ("", "id", "event", "retry")
    check_complete([event for event in events if event["event"]["category"] != "gateway"])


def test_the_history_carries_odd_data(odd_run):
    check_complete(requests.get(odd_run).json()["events"])


@pytest.mark.parametrize(
    "raw", ['{\r\n"a":\n"\u2028"}', "{'a': \n\n1}", "\ufeff{}", "\n\nevent: x"]
)
def test_raw_line_breaks_of_other_writers_come_as_one_event(gateway, redis_client, run_id, raw):
    end = {"event_category": "lifecycle", "event_action": "completed"}
    redis_client.xadd(f"run:{run_id}:events", {**end, "data": raw})
    with requests.get(f"{gateway.url}/runs/{run_id}/events/stream", timeout=20) as answer:
        answer.encoding = "utf-8"
        lines = answer.text.splitlines()
    [data, _] = [line[5:] for line in lines if line.startswith("data:")]
    try:
        expected = json.loads(raw)
    except ValueError:
        expected = raw
    assert json.loads(data)["data"] == expected
    assert {line.partition(":")[0] for line in lines} == {"", "id", "event", "retry", "data"}
