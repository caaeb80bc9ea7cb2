"""`format=payload` on every stream: the data alone, and what cannot be asked for."""

import json

import pytest

from tests.routes.refusals import check_refusal

PAYLOAD = "format=payload"
STREAMS = ["/runs/1/events/stream?", "/events/stream?run=1&", "/runs/stream?"]
LINES = {"Accept": "application/x-ndjson"}


@pytest.fixture
def run(fake_store):
    fake_store.add(1, "lifecycle", "started")
    fake_store.add(1, "llm", "stream", {"text": "a"})
    fake_store.add(1, "log", "line", "b")
    return fake_store.add(1, "lifecycle", "completed", {"total": 2})


def data_of(text: str) -> list[str]:
    return [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]


@pytest.mark.parametrize("path", STREAMS[:2])
def test_a_stream_has_the_data_of_each_event_that_has_any(http, run, path):
    response = http.get(f"{path}{PAYLOAD}")
    assert response.content_type == "text/event-stream; charset=utf-8"
    assert data_of(response.text) == ['{"text":"a"}', '"b"', '{"total":2}']
    assert "event: " not in response.text
    assert ": gateway.caught_up {" in response.text


@pytest.mark.parametrize("path", STREAMS[:2])
def test_it_is_filtered_and_resumed_as_any_other(http, run, path):
    filtered = http.get(f"{path}{PAYLOAD}&category=llm").text
    assert data_of(filtered) == ['{"text":"a"}', '{"total":2}']
    ids = [line.removeprefix("id: ") for line in filtered.splitlines() if line.startswith("id: ")]
    resumed = http.get(f"{path}{PAYLOAD}", headers={"Last-Event-ID": ids[0]})
    assert data_of(resumed.text) == ['"b"', '{"total":2}']


def test_it_starts_with_a_sequence(http, run):
    assert data_of(http.get(f"{STREAMS[0]}{PAYLOAD}&from_sequence=3").text) == [
        '"b"',
        '{"total":2}',
    ]


def test_many_runs_have_an_array_of_data(http, fake_store):
    names = [f"r{number:02}" for number in range(17)]
    for name in names:
        fake_store.add(name, "llm", "stream", name)
        fake_store.add(name, "lifecycle", "completed")
    text = http.get(f"/events/stream?{'&'.join(f'run={name}' for name in names)}&{PAYLOAD}").text
    assert sorted(data for batch in data_of(text) for data in json.loads(batch)) == names
    assert "id: m1." in text


def test_the_stream_of_all_runs_has_the_data_of_their_events(http, fake_store, run):
    start = "last_event_id=earliest&tail=0&"
    events = http.get(f"/runs/stream?{start}{PAYLOAD}", buffered=False)
    found = []
    for piece in events.response:
        found += data_of(piece.decode())
        if found:
            break
    events.close()
    assert found == ['{"total":2}']


@pytest.mark.parametrize("path", STREAMS)
@pytest.mark.parametrize("value", ["", "Payload", "json", "payload&format=payload"])
def test_another_format_is_refused(http, run, path, value):
    assert check_refusal(http.get(f"{path}format={value}"), 400) == ["format"]


@pytest.mark.parametrize("path", STREAMS)
def test_lines_have_no_payload_format(http, run, path):
    assert check_refusal(http.get(f"{path}{PAYLOAD}", headers=LINES), 400) == ["format"]


@pytest.mark.parametrize("path", STREAMS[:2])
def test_the_default_can_be_named(http, run, path):
    assert "event: llm.stream" in http.get(f"{path}format=event").text
