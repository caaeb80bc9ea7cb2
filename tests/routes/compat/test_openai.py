"""The preset of OpenAI's Responses: which chunk a stream starts after."""

import pytest

PATH = "/compat/openai/v1/responses/1"
CHUNKS = [
    {"type": "response.created", "sequence_number": 0},
    {"type": "response.output_text.delta", "sequence_number": 1, "delta": "é\u2028"},
    {"type": "response.completed", "sequence_number": 2},
]
DONE = "[DONE]"


def test_a_response_is_streamed_from_its_beginning(http, answer, chunks_of):
    answer({"type": "response.created"}, {"type": "response.completed"})
    answer(*CHUNKS)
    response = http.get(f"{PATH}?stream=true")
    assert chunks_of(response) == [*CHUNKS, DONE]
    assert "event: response.output_text.delta\n" in response.text


@pytest.mark.parametrize("number", [0, 1])
def test_a_stream_starts_after_a_chunk(http, answer, chunks_of, number):
    answer(*CHUNKS)
    response = http.get(f"{PATH}?stream=true&starting_after={number}")
    assert chunks_of(response) == [*CHUNKS[number + 1 :], DONE]


def test_after_the_last_chunk_the_stream_is_done(http, answer, chunks_of):
    answer(*CHUNKS)
    assert chunks_of(http.get(f"{PATH}?stream=true&starting_after=2")) == [DONE]


def test_chunks_without_a_number_are_counted(http, answer, chunks_of):
    chunks = [{"type": "x", "n": number} for number in range(4)]
    answer(*chunks)
    assert chunks_of(http.get(f"{PATH}?stream=true&starting_after=1")) == [*chunks[2:], DONE]


@pytest.mark.parametrize("number", ["x", "-1", "3", "1e9", "1000000000", "999999999999", ""])
def test_a_number_that_no_chunk_has_is_400(http, answer, number):
    answer(*CHUNKS)
    response = http.get(f"{PATH}?stream=true&starting_after={number}")
    assert response.status_code == 400
    assert [error["field"] for error in response.json["errors"]] == ["starting_after"]


@pytest.mark.parametrize("query", ["", "?stream=false", "?stream=x", "?starting_after=1"])
def test_a_response_is_only_there_as_a_stream(http, answer, query):
    answer(*CHUNKS)
    response = http.get(f"{PATH}{query}")
    assert response.status_code == 400
    assert "stream" in [error["field"] for error in response.json["errors"]]


def test_a_run_that_does_not_exist_is_404(http):
    assert http.get(f"{PATH}?stream=true").status_code == 404
    assert http.head(f"{PATH}?stream=true").status_code == 404


def test_a_response_whose_beginning_was_trimmed_is_gone(http, answer, fake_client):
    answer(*CHUNKS)
    fake_client.xtrim("run:1:events", maxlen=2, approximate=False)
    for query in ("", "&starting_after=1", "&starting_after=0"):
        assert http.get(f"{PATH}?stream=true{query}").status_code == 410


def test_head_has_no_body(http, answer):
    answer(*CHUNKS)
    response = http.head(f"{PATH}?stream=true&starting_after=1")
    assert (response.status_code, response.data) == (200, b"")
