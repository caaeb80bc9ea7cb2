"""The preset of the AI SDK: what is resumed, from which chunk, and for how long."""

import time
import tracemalloc

import pytest

from app import create_app
from app.routes.compat import answers
from app.routes.compat.ai_sdk import RESUMABLE_SECONDS
from app.settings import Settings
from app.streaming.wire.answer import AnswerEvents

PATH = "/compat/ai-sdk/1/stream"
CHUNKS = [{"type": "start"}, *({"type": "x", "n": n} for n in range(3)), {"type": "finish"}]
DONE = "[DONE]"


def test_a_resume_replays_the_answer(http, answer, chunks_of):
    answer(*CHUNKS)
    response = http.get(PATH)
    assert chunks_of(response) == [*CHUNKS, DONE]
    assert response.headers["x-vercel-ai-ui-message-stream"] == "v1"
    assert response.headers["x-workflow-run-id"] == "1"
    assert "x-workflow-stream-tail-index" not in response.headers


def test_a_run_that_does_not_exist_has_nothing_to_resume(http):
    response = http.get(PATH)
    assert (response.status_code, response.data) == (204, b"")
    assert http.get(f"{PATH}?startIndex=0").status_code == 404


def test_a_preset_that_is_off_is_404(fake_store, answer):
    answer(*CHUNKS)
    http = create_app(Settings(), event_store=fake_store).test_client()
    assert http.get(PATH).status_code == 404
    http = create_app(Settings(compat=("ag-ui",)), event_store=fake_store).test_client()
    assert http.get(PATH).status_code == 404
    assert http.get("/compat/nonsense/1/stream").status_code == 404


def test_of_a_chat_the_last_answer_is_resumed(http, answer, chunks_of):
    for number in range(3):
        answer({"type": "start", "n": number}, {"type": "finish"})
    assert chunks_of(http.get(PATH)) == [{"type": "start", "n": 2}, {"type": "finish"}, DONE]
    assert chunks_of(http.get(f"{PATH}?startIndex=1")) == [{"type": "finish"}, DONE]


@pytest.mark.parametrize(
    ("index", "first"), [(0, 0), (1, 1), (4, 4), (-1, 4), (-5, 0), (-6, 0), (-(10**15), 0)]
)
def test_an_index_counts_chunks_from_either_end(http, answer, chunks_of, index, first):
    answer({"type": "start", "of": "an earlier answer"}, {"type": "finish"})
    answer(*CHUNKS)
    response = http.get(f"{PATH}?startIndex={index}")
    assert chunks_of(response) == [*CHUNKS[first:], DONE]
    assert response.headers["x-workflow-stream-tail-index"] == "4"


@pytest.mark.parametrize("index", ["5", "1000000000", "1e9", "x", "", "1.5", "-1x", "9" * 16])
def test_an_index_that_no_chunk_has_is_400(http, answer, index):
    answer(*CHUNKS)
    response = http.get(f"{PATH}?startIndex={index}")
    assert response.status_code == 400
    assert [error["field"] for error in response.json["errors"]] == ["startIndex"]


def test_an_index_is_not_that_of_an_event(http, fake_store, chunks_of):
    fake_store.add(1, "lifecycle", "started", {"model": "x"})
    for number in range(4):
        fake_store.add(1, "llm", "stream", {"text": number})
        fake_store.add(1, "sse", "message", {"type": "x", "n": number})
    fake_store.add(1, "lifecycle", "completed")
    expected = [{"type": "x", "n": 3}, {"type": "finish"}, DONE]
    assert chunks_of(http.get(f"{PATH}?startIndex=3")) == expected


def test_a_client_that_lacks_only_the_end_gets_it(http, fake_store, chunks_of):
    fake_store.add(1, "sse", "message", {"type": "x"})
    fake_store.add(1, "lifecycle", "completed")
    assert chunks_of(http.get(f"{PATH}?startIndex=1")) == [{"type": "finish"}, DONE]
    assert http.get(f"{PATH}?startIndex=2").status_code == 400


def test_a_run_of_ordinary_events_has_an_end_only(http, ids, fake_store, chunks_of):
    fake_store.add(1, "lifecycle", "completed", {"tokens": 1})
    for query in ("", "?startIndex=0", "?startIndex=-1"):
        response = http.get(f"{PATH}{query}")
        assert chunks_of(response) == [{"type": "finish"}, DONE]
    assert response.headers["x-workflow-stream-tail-index"] == "-1"


def ended(fake_client, ago_seconds: float) -> None:
    """Append an answer that ended some time ago."""
    ms = int((time.time() - ago_seconds) * 1000)
    for number, name in enumerate([("sse", "message"), ("lifecycle", "completed")]):
        fields = {"event_category": name[0], "event_action": name[1], "data": '{"type":"finish"}'}
        fake_client.xadd("run:1:events", fields, id=f"{ms + number}-0")


def test_an_answer_that_has_ended_long_ago_is_not_resumed(http, fake_client):
    ended(fake_client, RESUMABLE_SECONDS + 1)
    response = http.get(PATH)
    assert (response.status_code, response.data) == (204, b"")


def test_an_answer_that_has_just_ended_is_resumed(http, fake_client, chunks_of):
    ended(fake_client, RESUMABLE_SECONDS - 30)
    assert chunks_of(http.get(PATH)) == [{"type": "finish"}, {"type": "finish"}, DONE]


def test_an_answer_whose_beginning_was_trimmed_is_gone(http, answer, fake_client):
    answer(*CHUNKS)
    fake_client.xtrim("run:1:events", maxlen=3, approximate=False)
    for query in ("", "?startIndex=4", "?startIndex=-1"):
        response = http.get(f"{PATH}{query}")
        assert response.status_code == 410
        assert "not retained" in response.json["detail"]


def test_an_answer_that_begins_while_the_log_is_read_is_not_taken_for_ended(
    http, fake_client, fake_store, monkeypatch
):
    ended(fake_client, RESUMABLE_SECONDS + 1)
    read = fake_store.state

    def state(run_id):
        before = read(run_id)
        monkeypatch.setattr(fake_store, "state", read)
        fake_store.add(run_id, "lifecycle", "started", {"type": "start"})
        return before

    monkeypatch.setattr(fake_store, "state", state)
    with http.get(PATH) as response:
        assert response.status_code == 200


def test_chunks_of_an_answer_that_begins_meanwhile_are_not_counted(
    http, answer, fake_store, chunks_of, monkeypatch
):
    answer(*CHUNKS)
    read = fake_store.page

    def page(*args, **kwargs):
        if "categories" not in kwargs:  # the answer was found, and is counted now
            monkeypatch.setattr(fake_store, "page", read)
            answer({"type": "start"}, {"type": "other"}, {"type": "finish"})
        return read(*args, **kwargs)

    monkeypatch.setattr(fake_store, "page", page)
    response = http.get(f"{PATH}?startIndex=-1")
    assert response.headers["x-workflow-stream-tail-index"] == "4"
    assert chunks_of(response) == [CHUNKS[-1], DONE]


def test_an_earlier_answer_may_be_trimmed(http, answer, fake_client, chunks_of):
    answer(*CHUNKS)
    answer(*CHUNKS)
    fake_client.xtrim("run:1:events", maxlen=len(CHUNKS) + 2, approximate=False)
    assert chunks_of(http.get(PATH)) == [*CHUNKS, DONE]


def test_head_has_no_body(http, answer):
    answer(*CHUNKS)
    for query in ("", "?startIndex=2"):
        response = http.head(f"{PATH}{query}")
        assert (response.status_code, response.data) == (200, b"")
    assert http.head("/compat/ai-sdk/2/stream").status_code == 204


def test_a_post_is_not_allowed(http, answer):
    answer(*CHUNKS)
    assert http.post(PATH).status_code == 405


def test_to_count_chunks_takes_no_memory_for_them(http, fake_client, monkeypatch):
    monkeypatch.setattr(answers, "PAGE_EVENTS", 2)
    size = 200_000
    data = f'{{"type": "x",\n"text": "{"x" * size}"}}'  # the line break makes a copy necessary
    for number in range(1, 401):
        fields = {"event_category": "sse", "event_action": "x", "data": data, "sequence": number}
        fake_client.xadd("run:1:events", fields)
    tracemalloc.start()  # it counts what threads of other tests do too
    try:
        with http.application.app_context():
            found = answers.find_answer("1")
            _, count = answers.event_of(-1, found, AnswerEvents(), "startIndex")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 400
    assert peak < 50 * size
